"""All merge methods of a pool in one table, best first, against CT-then-SFT and against task arithmetic.

A method's score is its mean over the tasks in X and the CT budgets. What is compared is paired: the same
seed, budget and items; intervals are over seeds and items, Holm's correction over the methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis.comparisons import Right
from lrnb.analysis.pool_lines import BASELINE, Line, contrast, right_of, seeds_share_items
from lrnb.merging.methods import METHODS

RIVALS = (BASELINE, "task_arithmetic")


def ranking(lines: Sequence[Line]) -> pd.DataFrame:
    """A row a method that two seeds or more have at every budget of CT-then-SFT, the highest mean first.

    Columns: method, seeds, mean, ci_low, ci_high (percent right); and of each rival of RIVALS `lead_`,
    `low_`, `high_` (points), `p_` (Holm), and `record_`: (wins, ties, losses) over seeds and budgets.
    """
    rights = [right_of(line) for line in lines]
    budgets = sorted({tokens for method, tokens in rights[0] if method == BASELINE}) if rights else []
    shared = seeds_share_items(lines)
    rows = [_row(method, rights, budgets, shared) for method in METHODS]
    table = pd.DataFrame([row for row in rows if row])
    if not len(table):
        return table
    for rival in RIVALS:
        known = table[f"p_{rival}"].notna()
        table.loc[known, f"p_{rival}"] = statistics.holm(table.loc[known, f"p_{rival}"].to_numpy())
    return table.sort_values("mean", ascending=False, ignore_index=True)


def _row(method: str, rights: Sequence[Right], budgets: Sequence[int], shared: bool) -> dict[str, Any]:
    own = [one for one in rights if budgets and all((method, b) in one for b in budgets)]
    if len(own) < 2:
        return {}
    score = statistics.over_seeds(over_budgets(own, method, budgets), shared=shared, bounds=(0.0, 1.0))
    ends = {"mean": score.value, "ci_low": score.ci_low, "ci_high": score.ci_high}
    row = {"method": method, "seeds": len(own)} | {name: 100 * x for name, x in ends.items()}
    for rival in RIVALS:
        row |= _against(rival, method, own, budgets, shared)
    return row


def _against(
    rival: str, method: str, own: Sequence[Right], budgets: Sequence[int], shared: bool
) -> dict[str, Any]:
    both = [one for one in own if all((rival, b) in one for b in budgets)]
    if rival == method or len(both) < 2:
        names = ("lead", "low", "high", "p")
        return {f"{name}_{rival}": np.nan for name in names} | {f"record_{rival}": None}
    found = statistics.over_seeds(over_budgets(both, method, budgets, rival), shared=shared)
    points = {"lead": found.value, "low": found.ci_low, "high": found.ci_high}
    told = {f"{name}_{rival}": 100 * x for name, x in points.items()} | {f"p_{rival}": found.p}
    return told | {f"record_{rival}": _record(both, method, budgets, rival)}


def over_budgets(
    own: Sequence[Right], method: str, budgets: Sequence[int], rival: str = ""
) -> list[list[pd.Series]]:
    """Of every seed a series a task in X: each item's mean over the budgets, minus the rival's."""
    found = []
    for one in own:
        cells = [contrast(one, (method, b), (rival, b) if rival else None) for b in budgets]
        found.append([sum(tasks[1:], tasks[0]) / len(budgets) for tasks in zip(*cells, strict=True)])
    return found


def _record(own: Sequence[Right], method: str, budgets: Sequence[int], rival: str) -> tuple[int, int, int]:
    """(wins, ties, losses) of the mean over the tasks in X, over seeds and budgets."""
    cells = [contrast(one, (method, b), (rival, b)) for one in own for b in budgets]
    signs = [np.sign(round(float(np.mean([x.mean() for x in tasks])), 12)) for tasks in cells]
    return signs.count(1), signs.count(0), signs.count(-1)
