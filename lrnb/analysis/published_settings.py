"""What tuning on dev is worth: methods as tuned against the same at the settings that papers publish.

Both are merges of the same parents, on the same items; see `lrnb questions --published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lrnb import statistics
from lrnb.analysis.comparisons import Right
from lrnb.analysis.pool_lines import BASELINE, Line, right_of, seeds_share_items
from lrnb.analysis.question_merges import Asked, published_merges
from lrnb.analysis.ranking import over_budgets
from lrnb.merging.methods import METHODS


def against_published(lines: Sequence[Line]) -> pd.DataFrame:
    """A row a published setting that two seeds or more have, with its method tuned, at every CT budget.

    Columns: method, setting, source, seeds, tuned and published (mean over seeds, CT budgets and tasks in X,
    percent right), difference (tuned minus published, points), ci_low, ci_high, p, p_holm (over the rows).
    """
    rights = [right_of(line) for line in lines]
    budgets = sorted({tokens for method, tokens in rights[0] if method == BASELINE}) if rights else []
    asked = dict.fromkeys(one for one, _ in published_merges(METHODS, budgets))
    shared = seeds_share_items(lines)
    table = pd.DataFrame([row for one in asked if (row := _row(one, rights, budgets, shared))])
    return table.assign(p_holm=statistics.holm(table["p"].to_numpy())) if len(table) else table


def _row(one: Asked, rights: Sequence[Right], budgets: Sequence[int], shared: bool) -> dict[str, Any]:
    both = [r for r in rights if all({(one.method, b), (one.name, b)} <= r.keys() for b in budgets)]
    if len(both) < 2:
        return {}
    found = statistics.over_seeds(over_budgets(both, one.method, budgets, one.name), shared=shared)
    ends = {"difference": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
    levels = {"tuned": _level(both, one.method, budgets), "published": _level(both, one.name, budgets)}
    return {
        "method": one.method,
        "setting": ", ".join(f"{name} {value}" for name, value in one.options),
        "source": next(p.source for p in METHODS[one.method].published if p.options == dict(one.options)),
        "seeds": len(both),
        **{name: 100 * value for name, value in (levels | ends).items()},
        "p": found.p,
    }


def _level(rights: Sequence[Right], arm: str, budgets: Sequence[int]) -> float:
    """The mean over seeds, CT budgets and tasks in X."""
    means = [sum(x.mean() for x in tasks) / len(tasks) for tasks in over_budgets(rights, arm, budgets)]
    return float(sum(means) / len(means))
