"""The conflict atlases of a study, one a budget: made, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.analysis.results import FIXED_DENSITY
from lrnb.conflicts import atlas as atlases
from lrnb.conflicts import counts
from lrnb.conflicts.atlas import Atlas
from lrnb.merging.task_vectors import TaskVectors
from lrnb.study.parameters import Study
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, current
from lrnb.tuning import on_dev
from lrnb.tuning.search import elected


def make_atlases(study: Study, out: Path) -> pd.DataFrame:
    """Write an atlas for every budget into `out`, and return the exact counts at two settings (shares.csv).

    Columns of `counts.shares` and of `atlas.sizes`, with ct_tokens, setting, density, slack. fixed:
    density 0.5 and no slack, so that budgets differ by CT alone. chosen: what TIES-SV chose on dev.
    ties_density: what TIES chose, another one than `density` where the study searches TIES-SV's by itself.
    """
    paths, tables = RunPaths(study), []
    with Progress("discarded", len(study.ct_budgets), "budgets") as progress:
        for budget in study.ct_budgets:
            models = on_dev.parent_folders(paths, budget)
            how: dict[str, Any] = {"threads": study.threads, "vocabulary": study.vocabulary}
            vectors = TaskVectors(current(paths.base), models, method="conflicts", **how)
            made = _study_atlas(study, budget, vectors)
            atlases.save(made, out / paths.atlas(budget).name)
            density = _ties_density(study, budget)
            tables += [
                t.assign(ct_tokens=budget, ties_density=density) for t in _settings(study, vectors, made)
            ]
            progress.update(1)
    return pd.concat(tables, ignore_index=True)


def _study_atlas(study: Study, budget: int, vectors: TaskVectors) -> Atlas:
    """The atlas of one budget at what TIES-SV chose on dev; its facts name the models.

    Without TIES-SV in the study at what TIES chose; without both at FIXED_DENSITY. Then without slack.
    """
    return atlases.build(
        vectors,
        **_chosen(study, budget),
        zero_sign=study.zero_sign,
        facts={
            "ct_tokens": budget,
            "trim_scope": study.trim_scope,
            **_folders(study, budget),
        },
    )


def _folders(study: Study, budget: int) -> dict[str, str]:
    paths = RunPaths(study)
    return {"base": str(paths.base), "ct": str(paths.ct(budget)), "sft": str(paths.sft)}


def _chosen(study: Study, budget: int) -> dict[str, Any]:
    """Density and slack of the atlas of one budget."""
    best: dict[str, Any] = {"density": FIXED_DENSITY, "slack": 0.0}
    for method in elected(study):
        row = on_dev.chosen(RunPaths(study), method, budget)
        best |= {name: float(row[name]) for name in best if name in row}
    return best


def _ties_density(study: Study, budget: int) -> float:
    known = "ties" in study.methods
    return float(on_dev.chosen(RunPaths(study), "ties", budget)["density"]) if known else float("nan")


def _settings(study: Study, vectors: TaskVectors, made: Atlas) -> list[pd.DataFrame]:
    density, slack = made.facts["density"]["ct"], made.facts["slack"]
    options: dict[str, Any] = {"trim_scope": study.trim_scope, "zero_sign": study.zero_sign}
    exact = counts.with_shares(counts.with_model(made.exact(study.trim_scope)))
    fixed = counts.shares(vectors, density=FIXED_DENSITY, **options)
    sizes = atlases.sizes(made)
    chosen = exact[fixed.columns].assign(setting="chosen", density=density, slack=slack)
    fixed = fixed.assign(setting="fixed", density=FIXED_DENSITY, slack=0.0)
    return [pd.concat([table, sizes.drop(columns=["tensor", "n"])], axis=1) for table in (chosen, fixed)]


def study_atlases(study: Study) -> dict[int, Atlas]:
    """The atlas of every budget. UserError saying which notebook makes them."""
    return {budget: atlas_at(study, budget) for budget in study.ct_budgets}


def atlas_at(study: Study, budget: int) -> Atlas:
    """The atlas of one budget; its facts name the models where the run lies now. UserError as above."""
    paths = RunPaths(study)
    current(paths.conflicts)
    found = atlases.load(paths.atlas(budget))
    found.facts.update(_folders(study, budget))
    return found
