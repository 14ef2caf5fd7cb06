"""Answers that lm-evaluation-harness keeps with --log_samples: <output>/<model>/samples_<task>_<time>.jsonl.

A line is one document under one filter, with `doc_hash`, `prompt_hash` and a number for each metric (0.4.13;
`EvaluationTracker.save_results_samples` there).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb.analysis.answered import ASKED, Answered
from lrnb.data.lines import json_lines
from lrnb.errors import UserError

SAMPLES = "samples_*.jsonl"
NAMED = re.compile(r"samples_(?P<task>.+?)(_(?P<time>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?))?\.jsonl")
PREFERRED = ("acc_norm", "acc", "exact_match")  # else the first that is a number for each document
NEEDED_KEYS = ("doc_hash", "prompt_hash", "filter", "metrics")
Wanted = Mapping[str, str]  # task, or a pattern of tasks -> metric, or "metric,filter"


def read_samples(place: Path, wanted: Wanted) -> Answered:
    """The answers of one model: a file of samples, or a folder of them, of each task the newest.

    wanted: metrics by task (* for any), named as the harness does: acc_norm, or exact_match,flexible-extract.
    Else acc_norm, acc or exact_match, and of several filters the last. UserError for what has no such metric.
    """
    files: dict[str, Path] = {}
    for path in sorted([place] if place.is_file() else place.glob(SAMPLES), key=_time):
        files[_name(path)["task"]] = path
    found = Answered(str(place), {})
    for task, path in files.items():
        rows = _rows(path)
        metric, kind = _choice(rows, task, path, wanted)
        found.tasks[task] = _answers([row for row in rows if row["filter"] == kind], metric, path)
        found.metrics[task] = f"{metric},{kind}" if kind != "none" else metric
        if "acc_mutual_info" not in rows[0]["metrics"]:  # which asks every option twice
            found.chances[task] = 100 * float(
                np.mean([_chance(row) for row in rows if row["filter"] == kind])
            )
    return found


def _name(path: Path) -> Any:
    match = NAMED.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path}: no file of samples; the harness calls them samples_TASK_TIME.jsonl")
    return match


def _time(path: Path) -> tuple[str, str]:
    return _name(path)["time"] or "", path.name


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in json_lines(path):
        if not isinstance(row, dict) or (missing := [key for key in NEEDED_KEYS if key not in row]):
            lacks = ", ".join(missing) if isinstance(row, dict) else "an object"
            raise UserError(
                f"{path}:{number}: lacks {lacks}: not of lm-evaluation-harness, or of an early one. Run it "
                "again with --log_samples, or give another file"
            )
        if not _is_listed(row["metrics"]) or not isinstance(row.get("doc_id", 0), int | str):
            raise UserError(
                f"{path}:{number}: metrics is no list of names, or doc_id no number: a damaged file. Run "
                "the harness again with --log_samples"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: has no samples. Run the harness again with --log_samples")
    return rows


def _is_listed(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _choice(rows: list[dict[str, Any]], task: str, path: Path, wanted: Wanted) -> tuple[str, str]:
    """(metric, filter) of a task."""
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    filters = list(dict.fromkeys(str(row["filter"]) for row in rows))
    asked = next((value for pattern, value in wanted.items() if fnmatch(task, pattern)), "")
    metric, _, kind = asked.partition(",")
    good = [name for name in metrics if all(_is_share(row.get(name)) for row in rows)]
    metric = metric or next((name for name in (*PREFERRED, *good) if name in good), "")
    if metric not in good or (kind and kind not in filters):
        why = f"{asked!r} is none of them" if asked else "none of its metrics is one"
        there = [f"{name},{one}" if one != "none" else name for name in good for one in filters]
        raise UserError(
            f"{path}: {why}: {task} has a number from 0 to 1 for every document as "
            f"{', '.join(there) or 'none'} (it names {', '.join(metrics)}). Choose one: --metric {task}=NAME"
        )
    return metric, kind or filters[-1]


def _chance(row: dict[str, Any]) -> float:
    """Share right by chance: of as many options as were asked, 0 of a single answer; NaN if not kept."""
    asked = row.get("resps")
    return (
        float("nan")
        if not isinstance(asked, list) or not asked
        else 1 / len(asked)
        if len(asked) > 1
        else 0.0
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _answers(rows: list[dict[str, Any]], metric: str, path: Path) -> pd.DataFrame:
    found = [(str(row["doc_hash"]), str(row["prompt_hash"]), float(row[metric])) for row in rows]
    places = [row.get("doc_id", place) for place, row in enumerate(rows)]
    if len(set(places)) < len(places):
        raise UserError(
            f"{path}: a document stands in it twice: two evaluations wrote to one file. Give a file of one"
        )
    table = pd.DataFrame(found, columns=ASKED, index=places)
    return table.sort_index().reset_index(drop=True)
