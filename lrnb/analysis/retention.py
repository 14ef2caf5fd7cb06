"""Score against the share of SFT's entries kept, a slope a task, and what a part left out costs.

All merges are of one CT budget, so that a slope is not that of CT tokens. A slope is a sum of the merges'
scores by weights, so that it is one number an item: its interval is over items, over several runs over seeds
and items (`statistics.paired_difference`); the merges of the grid are fixed, not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis.comparisons import right_answers
from lrnb.analysis.retention_merges import ABLATION, EVERYTHING, GRID, MIDDLE, elected_options
from lrnb.study.files import MANIFEST
from lrnb.study.stages import RunPaths

ALPHA = 0.05  # of a p after Holm's correction
STEP = 0.1  # a slope is in points for so much more of SFT's entries
SLOPE, AT_EQUAL_CT, STEEPER = "slope", "slope at equal share of CT", "steeper than the other tasks"


class Retention(NamedTuple):
    """Of one run: merges.csv, chance by task in percent, merge -> task -> right (1) or wrong (0) by item."""

    merges: pd.DataFrame
    chance: Mapping[str, float]
    right: Mapping[str, Mapping[str, pd.Series]]

    @property
    def tasks(self) -> list[str]:
        return list(next(iter(self.right.values())))


def read_retention(folder: Path) -> Retention:
    """What the stage `retention` wrote into `folder`."""
    merges = pd.read_csv(folder / "merges.csv", keep_default_na=False, na_values=[""]).fillna(
        {"left_out": ""}
    )
    found = right_answers(pd.read_parquet(folder / "items.parquet"))
    chance = pd.read_csv(folder / "chance.csv").set_index("task")["chance"].to_dict()
    return Retention(merges, chance, {merge: right for (merge, _), right in found.items()})


def retention_there(paths: RunPaths) -> Retention | None:
    """That of a run, None where it was not measured."""
    return read_retention(paths.retention) if (paths.retention / MANIFEST).is_file() else None


def retention_points(run: Retention) -> pd.DataFrame:
    """merges.csv with a row a merge and task: task, n, value, ci_low, ci_high, chance (percent)."""
    rows = []
    for merge in run.merges.to_dict("records"):
        for task, right in run.right[merge["merge"]].items():
            low, high = statistics.interval([[right]])
            ends = {"value": 100 * right.mean(), "ci_low": 100 * low, "ci_high": 100 * high}
            head = {str(name): value for name, value in merge.items()}
            rows.append(head | {"task": task, "n": len(right), "chance": run.chance[task]} | ends)
    return pd.DataFrame(rows)


def retention_slopes(runs: Sequence[Retention], *, shared: bool = False) -> pd.DataFrame:
    """Per task how the score goes with the share of SFT's entries kept, over the merges of the grid.

    Least squares in each run, in points for each 10% of SFT's entries. runs: of one run, or of several seeds;
    shared: whether they answer the same items. Columns: task, what (SLOPE; AT_EQUAL_CT, with the share of
    CT's entries kept as a second variable; STEEPER: the slope minus the mean slope of the other tasks of its
    language), slope, ci_low, ci_high, p, p_holm (over the tasks of a language), merges, seeds.
    """
    rows = []
    for task in runs[0].tasks:
        others = [t for t in runs[0].tasks if t != task and t.endswith("_en") == task.endswith("_en")]
        asked: dict[str, tuple[list[str], dict[str, float]]] = {
            SLOPE: (["sft_share"], {task: 1.0}),
            AT_EQUAL_CT: (["sft_share", "ct_share"], {task: 1.0}),
            STEEPER: (["sft_share"], {task: 1.0} | dict.fromkeys(others, -1 / max(1, len(others)))),
        }
        for what, (columns, factors) in asked.items():
            if what != STEEPER or others:
                found = _contrast(runs, factors, partial(_slope_weights, columns=columns), shared)
                head = {"task": task, "what": what, "merges": int((runs[0].merges["kind"] == GRID).sum())}
                rows.append(head | _told(found, "slope", len(runs)))
    return _with_holm(pd.DataFrame(rows), "what")


def _slope_weights(run: Retention, columns: Iterable[str]) -> dict[str, float]:
    """By which the scores of the grid's merges are added up to the slope on the first of `columns`."""
    grid = run.merges[run.merges["kind"] == GRID]
    design = np.column_stack([np.ones(len(grid)), grid[list(columns)].to_numpy(float)])
    return dict(zip(grid["merge"], STEP * np.linalg.pinv(design)[1], strict=True))


def ablation_losses(runs: Sequence[Retention], *, shared: bool = False) -> pd.DataFrame:
    """Per task what the merge of the grid's middle loses where SFT's entries of a part are left out.

    runs, shared: as above. Columns: left_out, share (of SFT's entries, what is left out; mean over runs),
    task, loss (points), ci_low, ci_high, p, p_holm (over the parts and tasks of a language), seeds.
    """
    rows = []
    merges = runs[0].merges
    for part in merges.loc[merges["kind"] == ABLATION, "left_out"]:
        share = float(np.mean([_share_left_out(run, part) for run in runs]))
        for task in runs[0].tasks:
            found = _contrast(runs, {task: 1.0}, partial(_loss_weights, part=part), shared)
            rows.append({"left_out": part, "share": share, "task": task} | _told(found, "loss", len(runs)))
    return _with_holm(pd.DataFrame(rows)) if rows else pd.DataFrame()


def _middle(run: Retention) -> pd.Series:
    wanted = dict(elected_options(MIDDLE))
    grid = run.merges[run.merges["kind"] == GRID]
    same = np.all([np.isclose(grid[name], value) for name, value in wanted.items()], axis=0)
    return grid[same].iloc[0]


def _without(run: Retention, part: str) -> pd.Series:
    return run.merges[(run.merges["kind"] == ABLATION) & (run.merges["left_out"] == part)].iloc[0]


def _loss_weights(run: Retention, part: str) -> dict[str, float]:
    return {_middle(run)["merge"]: 1.0, _without(run, part)["merge"]: -1.0}


def _share_left_out(run: Retention, part: str) -> float:
    return float(_middle(run)["sft_share"] - _without(run, part)["sft_share"])


def _contrast(
    runs: Sequence[Retention], factors: Mapping[str, float], weights: Callable[[Retention], dict[str, float]],
    shared: bool,
) -> statistics.Difference:  # fmt: skip
    """Sum over tasks (by `factors`) and merges (by `weights` in each run) of the scores, in shares."""
    pairs, bound = [], 0.0
    for run in runs:
        of_merges = weights(run)
        summed = [
            len(factors)
            * factor
            * pd.Series(sum(w * run.right[merge][task] for merge, w in of_merges.items()))
            for task, factor in factors.items()
        ]
        pairs.append([(items, 0 * items) for items in summed])
        most = sum(abs(w) for w in of_merges.values())
        bound = max(bound, most * sum(map(abs, factors.values())))
    return statistics.paired_difference(pairs, shared=shared, bounds=(-bound, bound))


def _told(found: statistics.Difference, name: str, runs: int) -> dict[str, Any]:
    ends = {name: found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
    return {key: 100 * value for key, value in ends.items()} | {"p": found.p, "seeds": runs}


def _with_holm(table: pd.DataFrame, *by: str) -> pd.DataFrame:
    """p_holm over the rows of X and over those of English, apart by the columns `by`."""
    groups = [table["task"].str.endswith("_en"), *(table[name] for name in by)]
    return table.assign(p_holm=table.groupby(groups)["p"].transform(lambda p: statistics.holm(p.to_numpy())))


def findings_of_retention(slopes: pd.DataFrame, losses: pd.DataFrame) -> list[str]:
    """What the two tables say: the most fragile ability in X and in English, the costliest parts."""
    found = []
    for english in (False, True):
        own = slopes[slopes["task"].str.endswith("_en") == english]
        if len(own):
            found.append(_most_fragile(own, "English" if english else "X"))
    if len(losses):
        parts = losses[losses["left_out"] != EVERYTHING]
        sure = parts[(parts["p_holm"] < ALPHA) & (parts["loss"] > 0)]
        found += [_costliest(own) for _, own in sure.groupby("task", sort=False)]
        if untold := [task for task in dict.fromkeys(parts["task"]) if task not in set(sure["task"])]:
            found.append(
                f"No part of SFT costs {', '.join(untold)} more than the items can tell ({_noise(parts)})."
            )
    return found


def _most_fragile(slopes: pd.DataFrame, where: str) -> str:
    rows = slopes.set_index(["what", "task"])
    task = str(rows.loc[SLOPE]["slope"].idxmax())
    text = (
        f"In {where} {task} gains most with SFT's entries kept: {_points(rows.loc[SLOPE, task], 'slope')} "
        f"for each 10% of them, {_points(rows.loc[AT_EQUAL_CT, task], 'slope')} at an equal share of CT's"
    )
    if (STEEPER, task) in rows.index:
        text += f"; {_points(rows.loc[STEEPER, task], 'slope')} steeper than the mean of the other tasks"
    return f"{text} ({_noise(slopes)})."


def _costliest(sure: pd.DataFrame) -> str:
    worst = sure.loc[sure["loss"].idxmax()]
    return (
        f"{worst['task']}: leaving {worst['left_out']} of SFT out costs most, {_points(worst, 'loss')}, with "
        f"{worst['share']:.1%} of SFT's entries ({_noise(sure)})."
    )


def _points(row: Any, name: str) -> str:
    ends = f"{row['ci_low']:+.1f} to {row['ci_high']:+.1f}"
    return f"{row[name]:+.1f} points (95% {ends}, Holm p {row['p_holm']:.3f})"


def _noise(table: pd.DataFrame) -> str:
    seeds = int(table["seeds"].max())
    return f"over {seeds} seeds and items" if seeds > 1 else "of the items of one run"
