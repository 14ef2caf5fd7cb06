"""The part of a run's page on SFT on rows in X: what the rows are like, scores, paired differences."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lrnb.analysis import data_tables, results
from lrnb.analysis.kinds import arm_model
from lrnb.analysis.rows_in_x import findings_of_rows, of_the_rows, read_rows_in_x
from lrnb.figures.scores import differences_to_baseline, scores_by_budget
from lrnb.report.tables import known_records
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths

FILES = [f"rows_in_x/{name}" for name in ("scores.csv", "leads.csv", "rows.csv", "items.parquet")]


def rows_in_x_part(study: Study, items: pd.DataFrame) -> dict[str, Any]:
    """frames, items (of all models), claims, figures and what the template shows; {} without `sft_x`.

    items: those of the models with English rows. UserError where the stage is missing.
    """
    if not study.sft_x:
        return {}
    paths = RunPaths(study)
    made = read_rows_in_x(paths)
    scores, leads, every = made["scores"], made["leads"], results.joined([items, made["items"]])
    said = findings_of_rows(scores, leads, study.margin)
    return {
        "frames": {f"rows_in_x_{name}": made[name] for name in ("scores", "leads", "rows")},
        "items": every,
        "names": [*study.sft_x],
        "rows": known_records(made["rows"]),
        "uneven": _uneven(paths),
        "claims": {claim: [f for f in said if f["claim"] == claim] for claim in (f["claim"] for f in said)},
        "scored": _scored(study, scores, every),
        "differences": _differences(leads, results.headline(scores)),
        "files": FILES,
    }


def _uneven(paths: RunPaths) -> dict[str, int]:
    """SFT -> examples that it was trained on, where they are not as many for all."""
    trained = data_tables.trainings_of(paths).set_index("stage")["examples"]
    names = ["SFT-en", *(arm_model("sft", name) for name in paths.study.sft_x)]
    found = {name: int(trained[name]) for name in names if name in trained and trained[name] == trained[name]}
    return found if len(set(found.values())) > 1 else {}


def _scored(study: Study, scores: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    """Of each folder the scores of its arm against CT tokens, with base and CT."""
    head = results.headline(scores)
    marks: dict[str, Any] = {"levels": results.levels(scores, items), "fallen": results.fallen(scores, items)}
    return {name: scores_by_budget(of_the_rows(scores, name), head, **marks) for name in study.sft_x}


def _differences(leads: pd.DataFrame, task: str) -> list[Any]:
    """A figure for everything that arms are held against."""
    own = [leads[leads["against"] == name].assign(baseline=name) for name in leads["against"].unique()]
    return [differences_to_baseline(rows, task, rows["baseline"].iloc[0]) for rows in own]
