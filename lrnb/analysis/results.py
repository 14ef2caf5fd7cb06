"""The tables of a study, read from its run folder: stages, models, scores.

Nothing here needs torch. What the tables say in words is in `lrnb/analysis/findings.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis.kinds import KINDS, arm_model, kind_and_rows
from lrnb.errors import UserError
from lrnb.scoring import predictions
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import budget_name
from lrnb.study.stages import RunPaths, current
from lrnb.tuning.on_dev import chosen_merge

MEAN, MEAN_EN = "mean", "mean_en"
FIXED_DENSITY = 0.5  # of setting "fixed": the same at every budget, so that only CT differs
COMPARED, APART = ("scores.csv", "items.parquet"), ("written.csv", "written.parquet")
Models = list[dict[str, Any]]


def study_models(paths: RunPaths, group: str) -> Models:
    """The models of `parents`, `merged` or, on the rows of `sft_x_name`, `sft_x`: model, method, ct_tokens,
    folder, made. UserError if missing.

    made: what is scored, the folder or a merge in memory, whose folder is its stage's.
    """
    budgets = paths.study.ct_budgets
    if group == "sft_x":
        return _models_on_rows_in_x(paths)
    if group == "merged":
        return [_merged(paths, m, b) for m in paths.study.methods for b in budgets]
    if group != "parents":
        raise UserError(f"group {group!r}: give parents, merged or sft_x")
    found = [_model("base", 0, paths.base), _model("sft", 0, paths.sft)]
    found += [_model("ct", b, paths.ct(b)) for b in budgets]
    if paths.study.trains:
        found += [_model("ct_then_sft", b, paths.ct_then_sft(b)) for b in budgets]
    return found


def _merged(paths: RunPaths, method: str, budget: int) -> dict[str, Any]:
    made = chosen_merge(paths.study, method, budget)
    place = made if isinstance(made, Path) else paths.merge(method)
    return _model(method, budget, place) | {"made": made}


def _models_on_rows_in_x(paths: RunPaths) -> Models:
    """SFT on rows in X, CT-then-SFT and merges with it, called by `arm_model`."""
    budgets, own = paths.study.ct_budgets, arm_model("sft", paths.study.sft_x_name)
    tuned = arm_model("ct_then_sft", paths.study.sft_x_name)
    found = [_model(own, 0, paths.sft), *(_model(tuned, b, paths.ct_then_sft(b)) for b in budgets)]
    for method in paths.study.methods:
        named = arm_model(method, paths.study.sft_x_name)
        found += [_merged(paths, method, b) | _names(named, b) for b in budgets]
    return found


def _names(method: str, tokens: int) -> dict[str, Any]:
    name = f"{method}@{budget_name(tokens)}" if tokens else method
    return {"model": name, "method": method, "ct_tokens": tokens}


def _model(method: str, tokens: int, folder: Path) -> dict[str, Any]:
    place = current(folder)
    return _names(method, tokens) | {"folder": place, "made": place}


def finished_stages(paths: RunPaths, budgets: Sequence[int] = ()) -> list[dict[str, Any]]:
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
            keys = (
                "seconds",
                "finished",
                "device",
                "params",
                "facts",
                "versions",
                "processor",
                "isa",
                "recipe",
            )
            row = {"stage": place, **{key: manifest.get(key) for key in keys}}
            found.append(row)
    return sorted(found, key=lambda row: (row["finished"], row["stage"]))


def write_group(out: Path, scores: pd.DataFrame, items: pd.DataFrame, apart: Iterable[str]) -> None:
    """Write what `gather` reads, and beside it the tasks `apart`, which are in no mean."""
    names = list(apart)
    for (table, rows), own in ((COMPARED, False), (APART, True)):
        score, item = (part[part["task"].isin(names) == own] for part in (scores, items))
        score.to_csv(out / table, index=False)
        item.to_parquet(out / rows, index=False)


def gather(paths: RunPaths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of both groups in the order of KINDS, with rows for the mean of the tasks."""
    scores, items = _both(paths, *COMPARED)
    return by_kind(with_means(scores, items)), items


def gather_written(paths: RunPaths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of `tasks_written`, as `gather`; they are in no mean and in no comparison."""
    return _apart(paths, written=True)


def gather_language(paths: RunPaths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of `tasks_language`, as `gather_written`."""
    return _apart(paths, written=False)


def _apart(paths: RunPaths, *, written: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores, items = _both(paths, *APART)
    items = items[predictions.generated(items) == written].reset_index(drop=True)
    return scores[scores["task"].isin(items["task"])].reset_index(drop=True), items


def _both(paths: RunPaths, table: str, rows: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    groups = [current(paths.scored(name)) for name in ("parents", "merged")]
    if missing := [group / rows for group in groups if not (group / rows).is_file()]:
        raise UserError(
            f"{missing[0]} is not there: an earlier version scored these models. Score again with this one: "
            "notebooks/02_merge/04_evaluate.ipynb"
        )
    scores = joined([pd.read_csv(group / table) for group in groups])
    return by_kind(scores), by_kind(joined([pd.read_parquet(group / rows) for group in groups]))


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables one below the other; empty ones, whose columns have no type, change no type."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of KINDS and CT tokens; arms on rows in X stand after their kind."""
    kinds = table["method"].map(lambda method: kind_and_rows(method)[0])
    place = kinds.map({name: i for i, name in enumerate(KINDS)})
    order = pd.DataFrame({"place": place, "ct_tokens": table["ct_tokens"]})
    return table.loc[order.sort_values(["place", "ct_tokens"], kind="stable").index].reset_index(drop=True)


def with_means(scores: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """scores, then rows of the mean over tasks; items are drawn anew within every task for the interval."""
    right = {
        key: part["correct"].to_numpy(float) for key, part in items.groupby(["model", "task"], sort=False)
    }
    rows = []
    for model, part in scores.groupby("model", sort=False):
        for name, names in means_of(part["task"]).items():
            tasks, predictions = part[part["task"].isin(names)], [right[model, task] for task in names]
            low, high = statistics.interval([predictions])
            rows.append(
                tasks.head(1).assign(
                    task=name,
                    family="mean",
                    metric="mean",
                    value=tasks["value"].mean(),
                    ci_low=100 * low,
                    ci_high=100 * high,
                    n=sum(map(len, predictions)),
                    chance=tasks["chance"].mean(),
                    **({"cut": tasks["cut"].sum()} if "cut" in tasks else {}),
                )
            )
    return pd.concat([scores, *rows], ignore_index=True)


def means_of(tasks: Iterable[str]) -> dict[str, list[str]]:
    """{mean: the single tasks it is made of}, in X and in English; a mean needs two."""
    single = [task for task in dict.fromkeys(tasks) if task not in (MEAN, MEAN_EN)]
    found = {mean: [t for t in single if t.endswith("_en") == (mean == MEAN_EN)] for mean in (MEAN, MEAN_EN)}
    return {mean: own for mean, own in found.items() if len(own) > 1}


def of_the_model(shares: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The rows of shares.csv that count the whole model at a setting, fixed or chosen."""
    return shares[(shares["tensor"] == "(model)") & (shares["setting"] == setting)]


def headline(scores: pd.DataFrame) -> str:
    """The task that stands for the study: the mean over the tasks in X, or the only one there is."""
    tasks = tasks_in_x(scores)
    return MEAN if MEAN in set(scores["task"]) else tasks[0]


def tasks_in_x(scores: pd.DataFrame) -> list[str]:
    """The single tasks scored in language X, in order."""
    names = list(dict.fromkeys(scores["task"]))
    return [n for n in names if n not in (MEAN, MEAN_EN) and not n.endswith("_en")]


def levels(scores: pd.DataFrame, items: pd.DataFrame) -> dict[str, float]:
    """task -> the majority level in percent; for a mean, its tasks' mean of max(chance, majority).

    Tasks without classes have no majority of their own, and means of such tasks none either.
    """
    found = predictions.majorities(items)
    chance = scores.drop_duplicates("task").set_index("task")["chance"].to_dict()
    for mean, tasks in means_of(scores["task"]).items():
        if set(tasks) & set(found):
            found[mean] = float(np.mean([max(chance[t], found.get(t, 0.0)) for t in tasks]))
    return found


def fallen(scores: pd.DataFrame, items: pd.DataFrame) -> set[tuple[str, str]]:
    """(model, task) of every collapse; a mean counts as fallen when any of its tasks has."""
    table = predictions.collapsed(items)
    found = set(table.loc[table["collapsed"], ["model", "task"]].itertuples(index=False, name=None))
    means = means_of(scores["task"])
    return found | {(model, mean) for model, task in found for mean, of in means.items() if task in of}
