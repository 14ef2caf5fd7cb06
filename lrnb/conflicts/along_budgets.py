"""The atlases of a study, one a budget, and what changes along CT tokens.

Source of the question: Tao et al. 2024 (arXiv 2407.03994), section 5: with more CT tokens the scores of
merges stop rising, because CT's task vector grows, and with it what the election discards of SFT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrnb.conflicts import atlas as atlases
from lrnb.conflicts import counts
from lrnb.conflicts.atlas import Atlas
from lrnb.conflicts.what_ifs import what_if
from lrnb.study.parameters import budget_name

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
SLACKS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)


def elections(found: Mapping[int, Atlas], **setting: Any) -> dict[int, pd.DataFrame]:
    """What the election of every budget would count at one setting (options of `what_if`)."""
    return {budget: what_if(one, **setting).table for budget, one in found.items()}


def along(found: Mapping[int, Atlas], tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """One row a budget: the whole model in `tables` (of `elections`) and the sizes of both task vectors.

    Columns of `counts.shares` and `atlas.sizes`, ct_tokens and budget (its name).
    """
    rows = []
    for budget, one in found.items():
        row = atlases.sizes(one).iloc[-1].to_dict() | tables[budget].iloc[-1].to_dict()
        rows.append({"ct_tokens": budget, "budget": budget_name(budget), **row})
    return pd.DataFrame(rows)


def grid(
    found: Mapping[int, Atlas],
    densities: Sequence[float] = DENSITIES,
    slacks: Sequence[float] = SLACKS,
    **options: Any,
) -> pd.DataFrame:
    """`along` for every density and slack; adds both as columns."""
    tables = [
        along(found, elections(found, density=d, slack=s, **options)).assign(density=d, slack=s)
        for d in densities
        for s in slacks
    ]
    return pd.concat(tables, ignore_index=True)


def cells(found: Mapping[int, Atlas], trim_scope: str) -> pd.DataFrame:
    """One row a cell of layer x module and budget: exact counts, ct_tokens, cell, n."""
    rows = []
    for budget, one in found.items():
        for cell, part in one.exact(trim_scope).groupby(one.places, sort=False):
            rows.append({"ct_tokens": budget, "cell": cell, **counts.sums(part, one.protect)})
    return pd.DataFrame(rows)


def last_step(table: pd.DataFrame, column: str) -> float:
    """The part of the whole change of `column` along CT tokens that falls to the last step, in [0, 1].

    Near 0: the curve is flat at its end. NaN with fewer than three budgets, or without any change.
    """
    values = table.sort_values("ct_tokens")[column].to_numpy(float)
    if len(values) < 3 or not np.ptp(values):
        return float("nan")
    return float(abs(values[-1] - values[-2]) / np.ptp(values))
