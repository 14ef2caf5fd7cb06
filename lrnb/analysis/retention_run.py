"""Makes and scores the merges of `retention_merges` for one run; merges stay in memory.

What each has right is kept in the stage's draft as it is scored, so that what was stopped goes on there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from lrnb.analysis.kept_items import mark_of, scored_once
from lrnb.analysis.retention_merges import (
    Retained,
    changed_entries,
    kept_shares,
    retained_merges,
    state_of,
)
from lrnb.analysis.seeds import ITEMS
from lrnb.errors import UserError
from lrnb.merging.task_vectors import TaskVectors
from lrnb.study.files import make_folder
from lrnb.study.parameters import Study
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, Stage, current
from lrnb.tasks import loading
from lrnb.tuning import on_dev

if TYPE_CHECKING:
    from lrnb.scoring.scorer import Scorer
    from lrnb.tasks.harness import KeptTask


def retention_budget(study: Study) -> int:
    """The CT tokens at which retention is measured: `retention`, by default the largest budget.

    UserError where it is none of the study's budgets.
    """
    budget = study.retention or study.ct_budgets[-1]
    if budget not in study.ct_budgets:
        raise UserError(f"retention: {budget:,} is none of ct_budgets, {study.ct_budgets}; give one of them")
    return budget


def measure_retention(study: Study, stage: Stage) -> pd.DataFrame:
    """Make and score all merges; writes merges.csv, items.parquet and chance.csv into the stage's draft.

    Returns merges.csv: merge (its name), kind, method, left_out, on_dev, ct_tokens, sft_share and ct_share
    (of the entries that differ from the base, those in the merge).
    """
    budget = retention_budget(study)
    vectors = _vectors(study, budget)
    asked = retained_merges(study, budget, vectors.names)
    tasks = _tasks(study)
    folders = [RunPaths(study).base, *on_dev.parent_folders(RunPaths(study), budget).values()]
    work = stage.draft / "work" / mark_of(study, folders)
    make_folder(work)
    scorer = on_dev.open_scorer(study, on_dev.merged_like(study))
    with Progress("retention", len(asked), "merges") as progress:
        for place, one in enumerate(asked):
            how = partial(_score, study, one, vectors, scorer, tasks, budget)
            scored_once(work / f"{place}.parquet", how)
            progress.update(1)
    changed = changed_entries(vectors)
    shares = [kept_shares(one, vectors, study, changed) for one in asked]
    merges = pd.DataFrame([_row(one, own, budget) for one, own in zip(asked, shares, strict=True)])
    items = [pd.read_parquet(work / f"{place}.parquet") for place in range(len(asked))]
    merges.to_csv(stage.draft / "merges.csv", index=False)
    pd.concat(items, ignore_index=True).to_parquet(stage.draft / "items.parquet", index=False)
    chance = pd.Series({name: 100 * task.chance for name, task in tasks.items()}, name="chance")
    chance.rename_axis("task").to_csv(stage.draft / "chance.csv")
    return merges


def _vectors(study: Study, budget: int) -> TaskVectors:
    how: dict[str, Any] = {"method": "ties_sv", "threads": study.threads, "vocabulary": study.vocabulary}
    return TaskVectors(current(RunPaths(study).base), on_dev.parent_folders(RunPaths(study), budget), **how)


def _tasks(study: Study) -> dict[str, KeptTask]:
    """The test tasks that models are compared by."""
    given: dict[str, Any] = {key: getattr(study, key) for key in loading.STUDY}
    given |= {"limit": study.test_limit, "limits": study.test_limits}
    return loading.load_tasks(study.compared, study.lang, RunPaths(study).data_root, **given)


def _score(
    study: Study,
    one: Retained,
    vectors: TaskVectors,
    scorer: Scorer,
    tasks: Mapping[str, KeptTask],
    budget: int,
) -> pd.DataFrame:
    """What a merge has right."""
    from lrnb.scoring.evaluate import score_one

    scorer.load_state(state_of(one, vectors, study))
    return score_one(scorer, tasks).assign(method=one.name, ct_tokens=budget)[ITEMS]


def _row(one: Retained, kept: Mapping[str, float], budget: int) -> dict[str, Any]:
    shares = {f"{parent}_share": x for parent, x in kept.items()}
    head = {"merge": one.name, "kind": one.kind, "method": one.method, "left_out": one.left_out}
    return head | {"on_dev": one.on_dev, "ct_tokens": budget, **dict(one.options), **shares}
