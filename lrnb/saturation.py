"""The atlases of a study, one a budget, and what changes along CT tokens.

Source of the question: Tao et al. 2024 (arXiv 2407.03994), section 5: with more CT tokens CT's task vector
grows until it saturates, and with it the share of SFT's entries that the election discards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrnb import atlas as atlases
from lrnb import choose, conflicts
from lrnb.atlas import Atlas
from lrnb.params import Study, budget_name
from lrnb.progress import Progress
from lrnb.store import RunPaths, require
from lrnb.vectors import TaskVectors
from lrnb.whatif import what_if

FIXED_DENSITY = 0.5  # the same at every budget, so that only CT differs
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
SLACKS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)


def make(study: Study) -> pd.DataFrame:
    """Write an atlas for every budget, and return the exact counts at two settings (shares.csv).

    Columns of `conflicts.shares` and of `atlas.sizes`, with ct_tokens, setting, density, slack. fixed:
    density 0.5 and no slack, so that budgets differ by CT alone. chosen: what TIES-SV chose on dev.
    """
    paths, tables = RunPaths(study), []
    with Progress("discarded", len(study.ct_budgets), "budgets") as progress:
        for budget in study.ct_budgets:
            models = choose.models(paths, budget)
            vectors = TaskVectors(require(paths.base), models, method="conflicts", threads=study.threads)
            made = one(study, budget, vectors)
            atlases.save(made, paths.atlas(budget))
            tables += [t.assign(ct_tokens=budget) for t in _settings(study, vectors, made)]
            progress.update(1)
    return pd.concat(tables, ignore_index=True)


def one(study: Study, budget: int, vectors: TaskVectors | None = None) -> Atlas:
    """The atlas of one budget at what TIES-SV chose on dev; its facts name the models."""
    if vectors is None:
        models = choose.models(RunPaths(study), budget)
        vectors = TaskVectors(
            require(RunPaths(study).base), models, method="conflicts", threads=study.threads
        )
    best = choose.chosen(RunPaths(study), "ties_sv", budget)
    return atlases.build(
        vectors,
        density=float(best["density"]),
        slack=float(best["slack"]),
        zero_sign=study.zero_sign,
        facts={
            "ct_tokens": budget,
            "trim_scope": study.trim_scope,
            "base": str(RunPaths(study).base),
            **{name: str(folder) for name, folder in choose.models(RunPaths(study), budget).items()},
        },
    )


def _settings(study: Study, vectors: TaskVectors, made: Atlas) -> list[pd.DataFrame]:
    density, slack = made.facts["density"]["ct"], made.facts["slack"]
    options: dict[str, Any] = {"trim_scope": study.trim_scope, "zero_sign": study.zero_sign}
    exact = conflicts.with_shares(conflicts.with_model(made.exact(study.trim_scope)))
    fixed = conflicts.shares(vectors, density=FIXED_DENSITY, **options)
    sizes = atlases.sizes(made)
    chosen = exact[fixed.columns].assign(setting="chosen", density=density, slack=slack)
    fixed = fixed.assign(setting="fixed", density=FIXED_DENSITY, slack=0.0)
    return [pd.concat([table, sizes[atlases.SIZES]], axis=1) for table in (chosen, fixed)]


def load(study: Study) -> dict[int, Atlas]:
    """The atlas of every budget. UserError saying which notebook makes them."""
    paths = RunPaths(study)
    require(paths.conflicts)
    return {budget: atlases.load(paths.atlas(budget)) for budget in study.ct_budgets}


def elections(found: Mapping[int, Atlas], **setting: Any) -> dict[int, pd.DataFrame]:
    """What the election of every budget would count at one setting (options of `what_if`)."""
    return {budget: what_if(one, **setting).table for budget, one in found.items()}


def along(found: Mapping[int, Atlas], tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """One row a budget: the whole model in `tables` (of `elections`) and the sizes of both task vectors.

    Columns of `conflicts.shares` and `atlas.sizes`, ct_tokens and budget (its name).
    """
    rows = []
    for budget, one in found.items():
        row = tables[budget].iloc[-1].to_dict() | atlases.sizes(one).iloc[-1][atlases.SIZES].to_dict()
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
            rows.append({"ct_tokens": budget, "cell": cell, **conflicts.sums(part)})
    return pd.DataFrame(rows)


def last_step(table: pd.DataFrame, column: str) -> float:
    """The part of the whole change of `column` along CT tokens that falls to the last step, in [0, 1].

    Near 0: the curve is flat at its end. NaN with fewer than three budgets, or without any change.
    """
    values = table.sort_values("ct_tokens")[column].to_numpy(float)
    if len(values) < 3 or not np.ptp(values):
        return float("nan")
    return float(abs(values[-1] - values[-2]) / np.ptp(values))
