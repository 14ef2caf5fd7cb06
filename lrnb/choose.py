"""Choosing a merge's hyper-parameters on dev, for every token budget, and writing the chosen merge.

The grid comes from the study's parameters. A candidate is merged in memory, loaded into the scorer
and scored on the dev items; the test items are never looked at here. Equal dev scores are settled
towards the middle of the grid, and `choices.csv` says how many candidates were equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb.params import Study, UserError
from lrnb.progress import Progress
from lrnb.store import RunPaths, Stage, atomic_file, require

#: method -> the parameters that are searched: name in the merge function -> name of the list in Study
SEARCHED = {
    "average": {"alpha": "alphas"},
    "task_arithmetic": {"lam": "lams"},
    "ties": {"density": "densities", "lam": "lams"},
    "ties_sv": {"slack": "slacks"},
}
TOKENS_AN_ITEM = 256  # eval_batch counts items of this size


class Dev(NamedTuple):
    """One candidate: percent right, the mean of the dev tasks; items; chance level in percent; the tasks;
    standard error of the score in points, from the items of each task.
    """

    score: float
    n: int
    chance: float
    tasks: tuple[str, ...]
    error: float = float("nan")


DevScore = Callable[[Mapping[str, np.ndarray]], Dev]


def grid(study: Study, method: str) -> list[dict[str, Any]]:
    """All candidates of a method: one dict of options each, in the order of the study's lists."""
    lists = {name: getattr(study, key) for name, key in SEARCHED[method].items()}
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def mark_chosen(rows: pd.DataFrame, options: list[str]) -> pd.DataFrame:
    """Add `tied` (candidates sharing the best dev score) and `chosen` (True once).

    Among equals the one nearest the middle of the grid wins, then the first.
    """
    best = rows["dev_score"] >= rows["dev_score"].max() - 1e-9
    away = sum((rank - (rank.max() / 2)).abs() / max(rank.max(), 1) for rank in _ranks(rows, options))
    winner = away[best].idxmin()
    return rows.assign(tied=int(best.sum()), chosen=rows.index == winner)


def _ranks(rows: pd.DataFrame, options: list[str]) -> list[pd.Series]:
    return [rows[name].rank(method="dense") - 1 for name in options]


def fixed_options(study: Study, method: str, budget: int) -> dict[str, Any]:
    """Options that are not searched; TIES-SV takes density and lam from the TIES chosen at `budget`."""
    if method in ("average", "task_arithmetic"):
        return {}
    fixed: dict[str, Any] = {"trim_scope": study.trim_scope, "zero_sign": study.zero_sign}
    if method == "ties_sv":
        ties = chosen(RunPaths(study), "ties", budget)
        fixed |= {"density": float(ties["density"]), "lam": float(ties["lam"])}
    return fixed


def chosen(paths: RunPaths, method: str, budget: int) -> pd.Series:
    """The row of `choices.csv` that was chosen for `budget`. UserError where the stage is missing."""
    table = read_choices(paths, method)
    rows = table[(table["ct_tokens"] == budget) & table["chosen"]]
    if len(rows) != 1:
        raise UserError(
            f"{paths.merge(method)}/choices.csv: no choice for {budget:,} CT tokens. Run "
            f"the merge notebook of {method} again with the same ct_budgets"
        )
    return rows.iloc[0]


def read_choices(paths: RunPaths, method: str) -> pd.DataFrame:
    """`choices.csv` of a finished merge stage."""
    return pd.read_csv(require(paths.merge(method)) / "choices.csv")


def tried(paths: RunPaths, method: str) -> int:
    """How many candidates a finished merge stage tried on dev at each budget."""
    return int(read_choices(paths, method).groupby("ct_tokens").size().max())


def models(paths: RunPaths, budget: int) -> dict[str, Path]:
    """The two parents of a merge at `budget`: {"ct": folder, "sft": folder}."""
    return {"ct": require(paths.ct(budget)), "sft": require(paths.sft)}


def score_candidates(
    study: Study, method: str, budget: int, dev_score: DevScore, progress: Progress
) -> pd.DataFrame:
    """One row a candidate: preset, lang, method, ct_tokens, its options, and what it scored on dev.

    dev_score and chance in percent, dev_error (its standard error), n items, dev_tasks (their names, by
    spaces), tied, chosen.
    """
    from lrnb.driver import merge_state
    from lrnb.vectors import TaskVectors

    paths, fixed = RunPaths(study), fixed_options(study, method, budget)
    vectors = TaskVectors(paths.base, models(paths, budget), method=method, threads=study.threads)
    rows = []
    for options in grid(study, method):
        dev = dev_score(merge_state(method, vectors, **fixed, **options))
        named = {k: v for k, v in fixed.items() if not isinstance(v, str)} | options
        rows.append(
            {
                "preset": study.preset,
                "lang": study.lang,
                "method": method,
                "ct_tokens": budget,
                **named,
                "dev_score": dev.score,
                "dev_error": dev.error,
                "n": dev.n,
                "chance": dev.chance,
                "dev_tasks": " ".join(dev.tasks),
            }
        )
        progress.update(1)
    return mark_chosen(pd.DataFrame(rows), list(SEARCHED[method]))


def run(study: Study, method: str, dev_score: DevScore | None = None) -> pd.DataFrame:
    """The whole stage of one method: search on dev, write every budget's merge, choices, manifest.

    `dev_score` is what `dev_scorer` returns; it is made when not given. Returns choices.csv.
    """
    from lrnb.driver import merge_checkpoints

    paths = RunPaths(study)
    inputs = [paths.base, paths.ct(), paths.sft] + [paths.merge("ties")] * (method == "ties_sv")
    with Stage(paths.merge(method), method, study.declared(), inputs) as stage:
        dev_score = dev_score or dev_scorer(study)
        total = len(grid(study, method)) * len(study.ct_budgets)
        with Progress(method, total, "candidates") as progress:
            tables = [
                score_candidates(study, method, budget, dev_score, progress) for budget in study.ct_budgets
            ]
        for budget, table in zip(study.ct_budgets, tables, strict=True):
            best = table[table["chosen"]].iloc[0]
            options: dict[str, Any] = {name: float(best[name]) for name in SEARCHED[method]}
            report = merge_checkpoints(
                method,
                paths.base,
                models(paths, budget),
                paths.merge(method, budget),
                threads=study.threads,
                **fixed_options(study, method, budget),
                **options,
            )
            stage.facts[str(budget)] = {**options, "report": report}
        choices = pd.concat(tables, ignore_index=True)
        with atomic_file(paths.merge(method) / "choices.csv") as temporary:
            choices.to_csv(temporary, index=False)
    return choices


def command(study: Study, method: str, budget: int) -> str:
    """The `lrnb merge` command of the chosen merge at `budget`, for a terminal."""
    paths, best = RunPaths(study), chosen(RunPaths(study), method, budget)
    options = fixed_options(study, method, budget) | {name: float(best[name]) for name in SEARCHED[method]}
    folders = [f"--model {name}={folder}" for name, folder in models(paths, budget).items()]
    given = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
    parts = [f"lrnb merge {method.replace('_', '-')} --base {paths.base}", *folders, " ".join(given)]
    return " \\\n  ".join([*parts, "--out merged"])


def dev_tasks(study: Study) -> list[str]:
    """The tasks that choose: `dev_tasks`, or all tasks in X that have dev items. UserError if none."""
    from lrnb import taskload

    if study.dev_tasks:
        return study.dev_tasks
    folder = RunPaths(study).data_root / "eval"
    found = [t for t in study.tasks if taskload.has_dev(t, study.lang, folder.parent)]
    if not found:
        raise UserError(
            f"{folder}: none of {study.tasks} has dev items in {study.lang!r}, so no merge "
            f"can be chosen. Add eval/<task>/{study.lang}/dev.jsonl or --set dev_tasks="
        )
    return found


def standard_error(scores: Sequence[float], sizes: Sequence[int]) -> float:
    """Of the mean of the tasks' scores, all in percent; one right and one wrong item are added to each
    task, as scores of 0 and 100 are not certain either (Agresti and Caffo 2000).
    """
    n = np.array(sizes) + 2.0
    p = (np.array(scores) / 100 * (n - 2) + 1) / n
    return 100 * float(np.sqrt((p * (1 - p) / n).sum())) / len(n)


def dev_scorer(study: Study) -> DevScore:
    """A function from merged weights to their `Dev` score.

    Opens the base once and swaps its weights; imports torch.
    """
    from lrnb import evaluate, taskload

    paths = RunPaths(study)
    tasks = taskload.load(
        dev_tasks(study),
        study.lang,
        paths.data_root,
        split="dev",
        limit=study.dev_limit,
        seed=study.seed,
        shots=study.shots,
        prompts=study.prompts,
        normalisation=study.normalisation,
    )
    scorer = evaluate.Scorer.from_folder(
        require(paths.base), device=study.device, token_budget=TOKENS_AN_ITEM * study.eval_batch
    )

    n, chance = sum(map(len, tasks.values())), float(np.mean([100 * t.chance for t in tasks.values()]))

    def dev_score(state: Mapping[str, np.ndarray]) -> Dev:
        scorer.load_state(state)
        found = evaluate.dev_score(scorer, tasks)
        error = standard_error([found[name] for name in tasks], [len(task) for task in tasks.values()])
        return Dev(found["mean"], n, chance, tuple(tasks), error)

    return dev_score
