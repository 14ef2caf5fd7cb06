"""Choosing a merge's hyper-parameters on dev, for every token budget, and writing the chosen merge.

The candidates come from the study's parameters, `tuning_trials` at the most. One is merged in memory,
loaded into the scorer and scored on the dev items; the test items are never looked at here. Equal dev
scores are settled towards the middle of the grid, and `choices.csv` says how many candidates were equal,
how many the grid had, and which one is the declaration's default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from lrnb.checkpoints.alignment import align
from lrnb.checkpoints.opening import open_source
from lrnb.errors import UserError
from lrnb.merging.methods import find
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state
from lrnb.study.files import atomic_file, digest
from lrnb.study.parameters import ENGLISH, Study
from lrnb.study.progress import Progress
from lrnb.study.recipe import RECIPE
from lrnb.study.stages import RunPaths, Stage, current, fingerprint, require
from lrnb.tasks import loading
from lrnb.tasks.task_file import spec
from lrnb.tuning.by_tpe import refuse_missing_optuna, try_candidates
from lrnb.tuning.entry_scores import kinds_of_method, scores_place, with_scores
from lrnb.tuning.kept import keep_merge, kept_merge
from lrnb.tuning.search import (
    candidate_grid,
    candidates,
    check_search,
    grid_size,
    is_default,
    searched,
    settings,
    taken_over,
)

if TYPE_CHECKING:
    from lrnb.scoring.scorer import Scorer
    from lrnb.scoring.unwritten import Unwritten
    from lrnb.tasks.harness import KeptTask

TOKENS_AN_ITEM = 256  # eval_batch counts items of this size


class Dev(NamedTuple):
    """One candidate: percent right, the mean of the dev tasks; items; chance level in percent; the tasks;
    standard error of the score in points, from the items of each task; of each fold of a nested split, where
    one is asked for, the score without its items and on them.
    """

    score: float
    n: int
    chance: float
    tasks: tuple[str, ...]
    error: float = float("nan")
    folds: tuple[tuple[float, float], ...] = ()

    def columns(self) -> dict[str, Any]:
        """As a row of choices.csv has it."""
        named = {"dev_score": self.score, "dev_error": self.error, "n": self.n, "chance": self.chance}
        return named | {"dev_tasks": " ".join(self.tasks)}


DevScore = Callable[[Mapping[str, np.ndarray]], Dev]


def mark_chosen(rows: pd.DataFrame, options: list[str]) -> pd.DataFrame:
    """Add `tied` (candidates sharing the best dev score) and `chosen` (True once).

    Among equals the one nearest the middle of the grid's numbers wins, then the first.
    """
    best = rows["dev_score"] >= rows["dev_score"].max() - 1e-9
    none = pd.Series(0.0, rows.index)
    ranks = _ranks(rows, options)
    away = sum(((rank - (rank.max() / 2)).abs() / max(rank.max(), 1) for rank in ranks), none)
    winner = away[best].idxmin()
    return rows.assign(tied=int(best.sum()), chosen=rows.index == winner)


def _ranks(rows: pd.DataFrame, options: list[str]) -> list[pd.Series]:
    return [rows[name].rank(method="dense") - 1 for name in options if is_numeric_dtype(rows[name])]


def fixed_options(study: Study, method: str, budget: int) -> dict[str, Any]:
    """Options that are not searched; some come from what the method before this one chose at `budget`."""
    after, names = find(method).after, taken_over(study, method)
    best = chosen(RunPaths(study), after.name, budget) if after and names else {}
    return settings(study, method) | values_of_row(best, names)


def values_of_row(row: Mapping[Any, Any], names: Iterable[str]) -> dict[str, Any]:
    """These options from a row of choices.csv: numbers, and words where a choice is searched."""
    return {name: row[name] if isinstance(row[name], str) else float(row[name]) for name in names}


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


class Tried(NamedTuple):
    """How many candidates were tried on dev at each budget: of `grid` combinations `own`; and `before`, by
    the method `after`, whose choice this one starts from.
    """

    own: int
    grid: int
    before: int = 0
    after: str = ""

    def __str__(self) -> str:
        own = f"{self.grid} in the grid, {self.own} tried" if self.grid > self.own else f"{self.own}"
        return f"{self.before + self.own} ({self.before} of {self.after}, then {own})" if self.after else own


def tried(paths: RunPaths, method: str) -> Tried:
    """What a finished merge stage tried on dev at each budget."""
    table, after = read_choices(paths, method), find(method).after
    own = int(table.groupby("ct_tokens").size().max())
    grid = int(table["grid"].max()) if "grid" in table else own  # older tables: all of it
    return Tried(own, grid, tried(paths, after.name).own if after else 0, after.label if after else "")


def parent_folders(paths: RunPaths, budget: int) -> dict[str, Path]:
    """The two parents of a merge at `budget`: {"ct": folder, "sft": folder}."""
    hint = f"Run notebooks/01_ct/02_ct.ipynb with {budget} among its ct_budgets first"
    return {"ct": current(paths.ct(budget), hint), "sft": current(paths.sft)}


def score_candidates(
    study: Study, method: str, budget: int, dev_score: DevScore, progress: Progress
) -> pd.DataFrame:
    """One row a candidate: preset, lang, method, ct_tokens, its options, and what it scored on dev.

    dev_score and chance in percent, dev_error (its standard error), n items, dev_tasks (their names, by
    spaces), grid (the combinations there are, of which these are tried), default (whether it is the
    declaration's), tied, chosen; with `dev_folds`, nested (see `with_nested`).
    """
    paths, fixed = RunPaths(study), fixed_options(study, method, budget)
    how: dict[str, Any] = {"method": method, "threads": study.threads, "vocabulary": study.vocabulary}
    vectors = TaskVectors(paths.base, parent_folders(paths, budget), **how)
    head = {"preset": study.preset, "lang": study.lang, "method": method, "ct_tokens": budget}
    rows, grid, place = [], grid_size(study, method), scores_place({"ct": paths}, budget)
    devs: list[Dev] = []

    def score(options: dict[str, Any]) -> Dev:
        return dev_score(merge_state(method, vectors, **with_scores(method, fixed | options, place)))

    def known() -> dict[str, Any]:
        return {"fixed": fixed, "asked": asked_on_dev(study), **marks_of(paths, budget)}

    for options, dev in try_candidates(study, method, known, score, restored):
        named = {k: v for k, v in fixed.items() if not isinstance(v, str)} | options
        tail = {"grid": grid, "default": is_default(study, method, named)}
        rows.append(head | named | dev.columns() | tail)
        devs.append(dev)
        progress.update(1)
    return with_nested(pd.DataFrame(rows), devs, searched(study, method))


def with_nested(rows: pd.DataFrame, devs: Sequence[Dev], options: list[str]) -> pd.DataFrame:
    """`mark_chosen`, and `nested` where dev is split: of each fold the candidate that the other items choose,
    scored on it; the mean of the folds, the same for all rows.

    It is what the search finds on items that did not choose; `dev_score` of the chosen one less this is the
    part of its lead that is selection.
    """
    marked, found = mark_chosen(rows, options), []
    if not all(dev.folds for dev in devs):
        return marked
    for fold in range(len(devs[0].folds)):
        apart = rows.assign(dev_score=[dev.folds[fold][0] for dev in devs])
        best = int(mark_chosen(apart, options)["chosen"].to_numpy().argmax())
        found.append(devs[best].folds[fold][1])
    return marked.assign(nested=float(np.mean(found)))


def restored(
    score: float,
    n: int,
    chance: float,
    tasks: Sequence[str],
    error: float,
    folds: Sequence[Sequence[float]] = (),
) -> Dev:
    """A `Dev` from its fields as JSON keeps them."""
    return Dev(score, n, chance, tuple(tasks), error, tuple((apart, on) for apart, on in folds))


def marks_of(paths: RunPaths, budget: int) -> dict[str, str]:
    """Fingerprints of the models that a merge at `budget` is made of."""
    folders = {"base": paths.base, **parent_folders(paths, budget)}
    return {label: fingerprint(folder) for label, folder in folders.items()}


def asked_on_dev(study: Study) -> dict[str, Any]:
    """What dev scores depend on beside the model."""
    names = ("shots", "prompts", "normalisation", "vocabulary", "eval_precision")
    items = {name: list(task.eval_docs) for name, task in dev_items(study, dev_tasks(study)).items()}
    return {name: getattr(study, name) for name in names} | {"items": digest(items), "recipe": RECIPE}


def choose_on_dev(study: Study, method: str, dev_score: DevScore | None = None) -> pd.DataFrame:
    """The whole stage of one method: search on dev, every budget's merge (see `kept`), choices, manifest.

    `dev_score` is what `dev_scorer` returns; it is made when not given. Returns choices.csv.
    """
    paths, names, after = RunPaths(study), list(candidates(study, method)), find(method).after
    inputs = [paths.base, paths.ct(), paths.sft, *([paths.merge(after.name)] if after else [])]
    inputs += [paths.importance] if kinds_of_method(study, method) else []
    check_search(study)
    refuse_missing_optuna(study, [method])
    for budget in study.ct_budgets:  # what is missing is said before anything is computed
        parent_folders(paths, budget), fixed_options(study, method, budget)
    with Stage(paths.merge(method), method, study.declared(), inputs) as stage:
        dev_score = dev_score or dev_scorer(study)
        total = len(candidate_grid(study, method)) * len(study.ct_budgets)
        with Progress(method, total, "candidates") as progress:
            tables = [
                score_candidates(study, method, budget, dev_score, progress) for budget in study.ct_budgets
            ]
        for budget, table in zip(study.ct_budgets, tables, strict=True):
            best = table[table["chosen"]].iloc[0]
            options = values_of_row(best, names)
            own, parents = fixed_options(study, method, budget) | options, parent_folders(paths, budget)
            place = scores_place({"ct": paths}, budget)
            kept = keep_merge(study, method, budget, parents, stage.draft, own, place)
            stage.facts[str(budget)] = options | kept
        choices = pd.concat(tables, ignore_index=True)
        with atomic_file(stage.draft / "choices.csv") as temporary:
            choices.to_csv(temporary, index=False)
    return choices


def chosen_merge(study: Study, method: str, budget: int) -> Path | Unwritten:
    """The merge that was chosen for `budget`, as `kept_merge` gives it. UserError where it is missing."""
    paths = RunPaths(study)
    parents = functools.partial(parent_folders, paths, budget)
    place = scores_place({"ct": paths}, budget)
    return kept_merge(study, method, budget, paths.merge(method), parents, merged_like, place)


def merge_command(study: Study, method: str, budget: int) -> str:
    """The `lrnb merge` command of the chosen merge at `budget`, for a terminal."""
    paths, best = RunPaths(study), chosen(RunPaths(study), method, budget)
    known, names = find(method).fields(), searched(study, method)
    options = fixed_options(study, method, budget) | values_of_row(best, names)
    options = with_scores(method, options, scores_place({"ct": paths}, budget))
    folders = [f"--model {name}={folder}" for name, folder in parent_folders(paths, budget).items()]
    given = [
        f"--{known[name].flag or name.replace('_', '-')} {own}"
        for name, value in options.items()
        for own in ([f"{label}={x}" for label, x in value.items()] if isinstance(value, Mapping) else [value])
    ]
    given += [f"--vocabulary {study.vocabulary}"] if study.vocabulary != "refuse" else []
    parts = [f"lrnb merge {method.replace('_', '-')} --base {paths.base}", *folders, " ".join(given)]
    return " \\\n  ".join([*parts, "--out merged"])


def dev_tasks(study: Study) -> list[str]:
    """The tasks that choose in X: `dev_tasks`, or all tasks in X that have dev items. UserError if none."""
    if study.dev_tasks:
        return study.dev_tasks
    folder = RunPaths(study).data_root / "eval"
    found = [t for t in study.tasks if loading.has_dev(t, study.lang, folder.parent, study.script)]
    if not found:
        example = f"eval/{_data_of(study.tasks)}/{study.lang}/dev.jsonl"
        raise UserError(
            f"{folder}: none of {study.tasks} has dev items in {study.lang!r}, so no merge can be "
            f"chosen, and no CT-then-SFT. Add one, such as {example}, or --set 'dev_tasks=[...]'"
        )
    return found


def dev_tasks_en(study: Study) -> list[str]:
    """The tasks that choose SFT-en: those of `sft_mix` that have dev items in English. UserError if none.

    They do not depend on the language, as SFT-en does not.
    """
    folder = RunPaths(study).data_root / "eval"
    found = [f"{task}_en" for task in study.sft_mix if loading.has_dev(task, ENGLISH, folder.parent)]
    if not found:
        example = f"eval/{_data_of(study.sft_mix)}/{ENGLISH}/dev.jsonl"
        raise UserError(
            f"{folder}: none of {[*study.sft_mix]} (sft_mix) has dev items in English, so SFT-en "
            f"cannot be chosen. Add one, such as {example}, or --set tuning_trials=1"
        )
    return found


def _data_of(names: Iterable[str]) -> str:
    """The folder of the first task's rows, below eval/."""
    own = (spec(name).metadata.data for name in names if not loading.is_harness(name))
    return next(own, "topic")


def standard_error(scores: Sequence[float], sizes: Sequence[int]) -> float:
    """Of the mean of the tasks' scores, all in percent; one right and one wrong item are added to each
    task, as scores of 0 and 100 are not certain either (Agresti and Caffo 2000).
    """
    n = np.array(sizes) + 2.0
    p = (np.array(scores) / 100 * (n - 2) + 1) / n
    return 100 * float(np.sqrt((p * (1 - p) / n).sum())) / len(n)


def dev_items(study: Study, names: list[str]) -> dict[str, KeptTask]:
    """The dev items that candidates are scored on."""
    given: dict[str, Any] = {key: getattr(study, key) for key in loading.STUDY}
    return loading.load_tasks(
        names, study.lang, RunPaths(study).data_root, split="dev", limit=study.dev_limit, **given
    )


def merged_like(study: Study) -> Path:
    """The folder with the vocabulary of the study's merges: the base, or the model whose tokenizer they have.

    UserError where a merge would have tokens of several models, which no folder has.
    """
    paths = RunPaths(study)
    folders = {"base": current(paths.base), **parent_folders(paths, study.ct_budgets[0])}
    given = {label: open_source(folder, finite=False) for label, folder in folders.items()}
    alignment = align("dev", given, study.vocabulary)
    if alignment is None:
        return folders["base"]
    if alignment.tokenizer:
        raise UserError(
            f"vocabulary {study.vocabulary}: CT and SFT each have tokens of their own, so merges have more "
            "than any model of the study, and cannot be scored on dev. Give vocabulary=base or body=ct"
        )
    return folders[alignment.owner]


def open_scorer(study: Study, folder: Path) -> Scorer:
    """A model that answers dev items; imports torch."""
    from lrnb.scoring import evaluate

    budget = TOKENS_AN_ITEM * study.eval_batch
    return evaluate.Scorer.from_folder(
        folder, device=study.device, precision=study.eval_precision, token_budget=budget
    )


def score_on_dev(scorer: Scorer, tasks: Mapping[str, KeptTask], folds: int = 1) -> Dev:
    """What the open model scores; with 2 folds or more in each of them, too."""
    from lrnb.scoring import evaluate

    right = evaluate.dev_right(scorer, tasks)
    found = {name: 100 * float(np.mean(values)) for name, values in right.items()}
    chance = float(np.mean([100 * task.chance for task in tasks.values()]))
    sizes = [task.distinct for task in tasks.values()]
    error = standard_error([found[name] for name in tasks], sizes)
    mean = float(np.mean(list(found.values())))
    return Dev(mean, sum(sizes), chance, tuple(tasks), error, fold_scores(right, folds))


def fold_scores(right: Mapping[str, Sequence[float]], folds: int) -> tuple[tuple[float, float], ...]:
    """Of each fold, every `folds`th item of each task: percent right without it and on it, mean over tasks.

    UserError where a task has fewer items than folds.
    """
    if folds == 1:
        return ()
    if small := [name for name, values in right.items() if len(values) < folds]:
        raise UserError(
            f"dev_folds {folds}: {small[0]} has {len(right[small[0]])} dev items; give at most as many folds"
        )
    parts = [(np.arange(len(values)) % folds, np.asarray(values, float)) for values in right.values()]
    return tuple(
        (_percent(x[of != fold] for of, x in parts), _percent(x[of == fold] for of, x in parts))
        for fold in range(folds)
    )


def _percent(tasks: Iterable[np.ndarray]) -> float:
    return 100 * float(np.mean([values.mean() for values in tasks]))


def dev_scorer(study: Study) -> DevScore:
    """A function from merged weights to their `Dev` score.

    Opens a model of their vocabulary once and swaps its weights; imports torch.
    """
    folder = merged_like(study)  # says which notebook comes first
    tasks, scorer = dev_items(study, dev_tasks(study)), open_scorer(study, folder)

    def dev_score(state: Mapping[str, np.ndarray]) -> Dev:
        scorer.load_state(state)
        return score_on_dev(scorer, tasks, study.dev_folds)

    return dev_score
