"""The tables of a study, read from its run folder: stages, models, scores, differences.

Nothing here needs torch. What the tables say in words is in `lrnb/findings.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import answers, stats
from lrnb.params import Study, UserError, budget_name
from lrnb.store import MANIFEST, RunPaths, require
from lrnb.style import MERGED, METHODS

MEAN, MEAN_EN = "mean", "mean_en"
COMPARED, WRITTEN = ("scores.csv", "items.parquet"), ("written.csv", "written.parquet")
Models = list[dict[str, Any]]


def models(paths: RunPaths, group: str) -> Models:
    """The models of `parents` or `merged`: model, method, ct_tokens, folder. UserError if missing."""
    budgets = paths.study.ct_budgets
    if group == "merged":
        return [_model(m, b, paths.merge(m, b)) for m in MERGED for b in budgets]
    if group != "parents":
        raise UserError(f"group {group!r}: give parents or merged")
    found = [_model("base", 0, paths.base), _model("sft", 0, paths.sft)]
    found += [_model("ct", b, paths.ct(b)) for b in budgets]
    if paths.study.trains:
        found += [_model("ct_then_sft", b, paths.ct_then_sft(b)) for b in budgets]
    return found


def _model(method: str, tokens: int, folder: Path) -> dict[str, Any]:
    name = f"{method}@{budget_name(tokens)}" if tokens else method
    return {"model": name, "method": method, "ct_tokens": tokens, "folder": require(folder)}


def stages(paths: RunPaths, budgets: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The finished stages in the order they ended: stage, seconds, finished, device, params.

    budgets: leaves out what was made for other CT budgets and is still in the folder; () lists all.
    """
    found, known = [], {budget_name(b) for b in budgets}
    for path in [*paths.shared.glob(f"*/{MANIFEST}"), *paths.lang.glob(f"**/{MANIFEST}")]:
        if known and path.parent.parent.name in ("ct", "ct_then_sft") and path.parent.name not in known:
            continue
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if "stage" in manifest and "finished" in manifest:
            place = path.parent.relative_to(paths.root).as_posix()
            keys = ("seconds", "finished", "device", "params", "facts", "versions")
            row = {"stage": place, **{key: manifest.get(key) for key in keys}}
            found.append(row)
    return sorted(found, key=lambda row: (row["finished"], row["stage"]))


def write_group(out: Path, scores: pd.DataFrame, items: pd.DataFrame, written: Iterable[str]) -> None:
    """Write what `gather` reads: of the tasks `written` apart from the others."""
    for (table, rows), apart in ((COMPARED, False), (WRITTEN, True)):
        score, item = (part[part["task"].isin(list(written)) == apart] for part in (scores, items))
        score.to_csv(out / table, index=False)
        item.to_parquet(out / rows, index=False)


def gather(paths: RunPaths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of both groups in the order of METHODS, with rows for the mean of the tasks."""
    scores, items = _both(paths, *COMPARED)
    return _ordered(pd.concat([scores, *_means(scores, items)], ignore_index=True)), items


def gather_written(paths: RunPaths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of `tasks_written`, as `gather`; they are in no mean and in no comparison."""
    return _both(paths, *WRITTEN)


def _both(paths: RunPaths, table: str, rows: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    groups = [require(paths.scores / name) for name in ("parents", "merged")]
    if missing := [group / rows for group in groups if not (group / rows).is_file()]:
        raise UserError(
            f"{missing[0]} is not there: an earlier version scored these models. Score again with this one: "
            "notebooks/02_merge/04_evaluate.ipynb"
        )
    scores = joined([pd.read_csv(group / table) for group in groups])
    return _ordered(scores), _ordered(joined([pd.read_parquet(group / rows) for group in groups]))


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables one below the other; empty ones, whose columns have no type, change no type."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    place = table["method"].map({name: i for i, name in enumerate(METHODS)})
    order = pd.DataFrame({"place": place, "ct_tokens": table["ct_tokens"]})
    return table.loc[order.sort_values(["place", "ct_tokens"], kind="stable").index].reset_index(drop=True)


def _means(scores: pd.DataFrame, items: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of the mean over tasks; items are drawn anew within every task for the interval."""
    right = {
        key: part["correct"].to_numpy(float) for key, part in items.groupby(["model", "task"], sort=False)
    }
    rows = []
    for model, part in scores.groupby("model", sort=False):
        for name, english in ((MEAN, False), (MEAN_EN, True)):
            tasks = part[part["task"].str.endswith("_en") == english]
            if len(tasks) > 1:
                answers = [right[model, task] for task in tasks["task"]]
                low, high = stats.hierarchical_interval([answers])
                rows.append(
                    tasks.head(1).assign(
                        task=name,
                        family="mean",
                        metric="mean",
                        value=tasks["value"].mean(),
                        ci_low=100 * low,
                        ci_high=100 * high,
                        n=sum(map(len, answers)),
                        chance=tasks["chance"].mean(),
                    )
                )
    return rows


def headline(scores: pd.DataFrame) -> str:
    """The task that stands for the study: the mean over the tasks in X, or the only one there is."""
    tasks = tasks_in_x(scores)
    return MEAN if MEAN in set(scores["task"]) else tasks[0]


def tasks_in_x(scores: pd.DataFrame) -> list[str]:
    """The single tasks scored in language X, in order."""
    names = list(dict.fromkeys(scores["task"]))
    return [n for n in names if n not in (MEAN, MEAN_EN) and not n.endswith("_en")]


def baselines(items: pd.DataFrame) -> tuple[str, ...]:
    """What merges are compared with: CT-then-SFT, or where no model of that kind is there SFT-en and base."""
    return ("ct_then_sft",) if "ct_then_sft" in set(items["method"]) else ("sft", "base")


def beside(items: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Merges and `baseline`; one that saw no CT tokens stands at every budget."""
    merged, own = items[items["method"].isin(MERGED)], items[items["method"] == baseline]
    if baseline == "ct_then_sft":
        return pd.concat([merged, own])
    return pd.concat([merged, *(own.assign(ct_tokens=b) for b in merged["ct_tokens"].unique())])


def compare(items: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Paired differences: every merge to the `baselines`, and TIES-SV to TIES, at the same budget.

    Columns of `stats.compare` with preset. Holm's correction runs over the comparisons of one
    kind (baseline; mean or single task; X or English), so that the main question, the mean over
    the tasks in X, is not paid for with the others.
    """
    pairs = {name: beside(items, name) for name in baselines(items)}
    pairs["ties"] = items[items["method"].isin(["ties", "ties_sv"])]
    table = pd.concat(
        [stats.compare(rows, baseline=b, seed=study.seed, lang=study.lang) for b, rows in pairs.items()]
    )
    table["task"] = table["task"].replace({"(mean)": MEAN, "(mean, en)": MEAN_EN})
    parts = table.groupby([table["baseline"], kinds(table["task"])], sort=False)["p"]
    table = table.assign(p_holm=parts.transform(lambda p: stats.holm(p.to_numpy())))
    return table.assign(preset=study.preset).reset_index(drop=True)


def kinds(tasks: pd.Series) -> pd.Series:
    """The family of Holm's correction that each task is in: a mean, the tasks in X, those in English."""
    return tasks.map(lambda t: t if t in (MEAN, MEAN_EN) else "tasks_en" if t.endswith("_en") else "tasks")


def belongs(task: str, to: str) -> bool:
    """Whether a single task is `to`, or one of those of which `to` is the mean."""
    return task == to or (to in (MEAN, MEAN_EN) and task.endswith("_en") == (to == MEAN_EN))


def fade(items: pd.DataFrame, method: str, budgets: list[int]) -> stats.Difference:
    """How much the lead of `method` over CT-then-SFT shrinks from the first to the last budget.

    In shares: positive where the lead was larger at the first budget. Same items throughout.
    """
    tasks = [t for t in dict.fromkeys(items["task"]) if not t.endswith("_en")]
    return stats.macro_difference(
        [(_lead(items, task, method, budgets[0]), _lead(items, task, method, budgets[-1])) for task in tasks]
    )


def _lead(items: pd.DataFrame, task: str, method: str, budget: int) -> np.ndarray:
    part = items[(items["task"] == task) & (items["ct_tokens"] == budget)]
    right = part.pivot_table(index="item", columns="method", values="correct", sort=True)
    return (right[method] - right["ct_then_sft"]).to_numpy(float)


def against(items: pd.DataFrame, model: str, other: str) -> stats.Difference:
    """model - other on the same items, mean over the tasks in X, in shares."""
    tasks = [t for t in dict.fromkeys(items["task"]) if not t.endswith("_en")]
    part = items[items["model"].isin([model, other])]
    right = part.set_index(["model", "task", "item"])["correct"].sort_index()
    pairs = [(right[model, t], right[other, t]) for t in tasks]
    return stats.macro_difference([(a.to_numpy(float), b.to_numpy(float)) for a, b in pairs])


def levels(scores: pd.DataFrame, items: pd.DataFrame) -> dict[str, float]:
    """task -> the majority level in percent; for a mean, its tasks' mean of max(chance, majority).

    Tasks without classes have no majority of their own, and means of such tasks none either.
    """
    found = answers.majorities(items)
    chance = scores.drop_duplicates("task").set_index("task")["chance"].to_dict()
    for mean, tasks in _of_means(scores).items():
        if set(tasks) & set(found):
            found[mean] = float(np.mean([max(chance[t], found.get(t, 0.0)) for t in tasks]))
    return found


def fallen(scores: pd.DataFrame, items: pd.DataFrame) -> set[tuple[str, str]]:
    """(model, task) of every collapse; a mean counts as fallen when any of its tasks has."""
    table = answers.collapsed(items)
    found = set(table.loc[table["collapsed"], ["model", "task"]].itertuples(index=False, name=None))
    means = _of_means(scores)
    return found | {(model, mean) for model, task in found for mean, of in means.items() if task in of}


def _of_means(scores: pd.DataFrame) -> dict[str, list[str]]:
    """The mean rows that there are, each with its tasks."""
    names = list(dict.fromkeys(scores["task"]))
    english = [t for t in names if t.endswith("_en") and t != MEAN_EN]
    both = {MEAN: tasks_in_x(scores), MEAN_EN: english}
    return {mean: tasks for mean, tasks in both.items() if mean in names}
