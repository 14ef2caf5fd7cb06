"""SFT on rows in X beside SFT on English ones: what the rows are like, and which of them teach more.

Each folder of `sft_x` has an SFT, CT-then-SFT and merges of its own, on as many rows of the same tasks; all
answer the same test items. Compared are, kind by kind and budget by budget: each folder with the English
rows, each later folder with the first, and within a folder merges with CT-then-SFT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb.analysis import comparisons, findings, results, trust
from lrnb.analysis.comparisons import ITEMS_ONLY, Right
from lrnb.analysis.kinds import KINDS, arm_model, kind_and_rows, ordered
from lrnb.analysis.no_result import resting_on_scores, why_no_result
from lrnb.data.character_kinds import script_share
from lrnb.study.parameters import SFT_X, Study
from lrnb.study.stages import RunPaths, current, require
from lrnb.tasks.row_files import texts_in
from lrnb.tasks.sft_rows import study_rows

ENGLISH_ROWS = "SFT on English rows"  # what a folder's arm is compared with
OTHER = "other "  # before a kind: the model that it is compared with
TABLES = ("scores", "leads", "rows")  # files of the stage, .csv
LABELS = ("id", "item", "label", "answer")  # of a row: no text of it


def gather_rows_in_x(paths: RunPaths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of all arms on rows in X and, beside them, of what was made with English rows.

    scores has rows for the mean over tasks, and the columns of `trust.marks`. UserError if one is missing.
    """
    scores, items = results.gather(paths)
    folders = [current(paths.of_rows(name).scored("sft_x")) for name in paths.study.sft_x]
    own = results.joined([pd.read_parquet(folder / "items.parquet") for folder in folders])
    table = results.joined([pd.read_csv(folder / "scores.csv") for folder in folders])
    both = results.by_kind(results.joined([items, own]))
    every = results.by_kind(results.joined([scores, results.with_means(table, own)]))
    return trust.marks(every, both), both


def is_on_rows_in_x(model: str) -> bool:
    """Whether the name of a model is one of `arm_model`."""
    return bool(kind_and_rows(model)[1])


def of_the_rows(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """The scores of one folder's arm, with those of base and CT, which all arms share."""
    arms = scores["method"].map(lambda model: kind_and_rows(model)[1])
    return scores[(arms == name) | scores["method"].isin(["base", "ct"])]


def row_leads(items: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Paired differences on the same items, in points; items: of `gather_rows_in_x`.

    Columns of `comparisons.paired_table`, and rows (the folder's name), against (ENGLISH_ROWS, the first
    folder's models, or this folder's CT-then-SFT): Holm's correction is within each of these.
    """
    right, names = comparisons.right_answers(items), [*study.sft_x]
    found: list[dict[str, Any]] = []
    for name in names:
        for rival in ("", *(names[:1] if name != names[0] else ())):
            found += _same_kinds(right, study, name, rival)
        found += _merges(right, study, name)
    table = comparisons.with_holm([row | {"baseline": row["against"]} for row in found])
    return table.assign(baseline=[row["baseline"] for row in found], lang=study.lang, noise=ITEMS_ONLY)


def _same_kinds(right: Right, study: Study, name: str, rival: str) -> list[dict[str, Any]]:
    """Each kind of model on the rows `name`, minus the same kind on the rows `rival`."""
    both: Right = {}
    for model, tokens in right:
        kind, rows = kind_and_rows(model)
        if kind in ("sft", "ct_then_sft", *study.methods) and rows in (name, rival):
            both[(kind if rows == name else f"{OTHER}{kind}"), tokens] = right[model, tokens]
    pairs = {f"{OTHER}{kind}": [kind] for kind in ordered(kind for kind, _ in both if kind in KINDS)}
    against = f"{SFT_X}{rival}" if rival else ENGLISH_ROWS
    return [
        row
        | {"rows": name, "against": against, "method": arm_model(row["method"], name)}
        | {"baseline": arm_model(row["method"], rival)}
        for row in comparisons.paired_rows([both], pairs, seed=study.seed)
    ]


def _merges(right: Right, study: Study, name: str) -> list[dict[str, Any]]:
    """Each merge with SFT on the rows `name`, minus CT-then-SFT on them."""
    baseline = arm_model("ct_then_sft", name)
    pairs = {baseline: [arm_model(method, name) for method in study.methods]}
    head = {"rows": name, "against": baseline}
    return [head | row for row in comparisons.paired_rows([right], pairs, seed=study.seed)]


def rows_table(study: Study, data_root: Path) -> pd.DataFrame:
    """What SFT was trained on: a row a folder and task, the English rows first.

    Columns: rows (the folder's name, "English"), task, n, characters (mean a row), characters_sd, own_script
    and latin (percent of the letters; own: of X, NaN where it is not known).
    """
    paths, found = RunPaths(study), []
    for name in ("", *study.sft_x):
        drawn = study_rows(paths.of_rows(name).study, data_root)
        found += [_described(name or "English", task, own, study.script) for task, own in drawn.items()]
    return pd.DataFrame(found)


def _described(name: str, task: str, rows: Sequence[dict[str, Any]], script: str) -> dict[str, Any]:
    texts = [" ".join(_texts(row)) for row in rows]
    sizes, whole = np.array([len(text) for text in texts]), " ".join(texts)
    return {
        "rows": name,
        "task": task,
        "n": len(rows),
        "characters": float(sizes.mean()),
        "characters_sd": float(sizes.std()),
        "own_script": 100 * script_share(whole, script) if script else float("nan"),
        "latin": 100 * script_share(whole, "Latin"),
    }


def _texts(row: dict[str, Any]) -> Iterable[str]:
    return texts_in([value for key, value in row.items() if key not in LABELS])


def findings_of_rows(
    scores: pd.DataFrame, leads: pd.DataFrame, margin: float = 0.0
) -> list[findings.Finding]:
    """What the comparisons say on the headline task, as `findings.findings_of_scores` has it.

    scores, leads: of `gather_rows_in_x` and `row_leads`.
    """
    own = leads[leads["task"] == results.headline(scores)]
    said = [findings.finding_of_lead(row, _claim(row), margin) for row in own.to_dict("records")]
    return resting_on_scores(said, why_no_result(scores))


def _claim(row: dict[str, Any]) -> str:
    if row["against"] == ENGLISH_ROWS:
        return f"Rows in X ({row['rows']}) teach more than English rows"
    if row["against"] == arm_model("ct_then_sft", row["rows"]):
        return f"Merging beats CT-then-SFT where SFT has rows in X ({row['rows']})"
    return f"The rows {row['rows']} teach more than the rows {row['against'].removeprefix(SFT_X)}"


def read_rows_in_x(paths: RunPaths) -> dict[str, pd.DataFrame]:
    """The tables of the stage by name of TABLES, and items, those of the arms. UserError if it is missing."""
    folder = require(paths.rows_in_x)
    items = pd.read_parquet(folder / "items.parquet")
    return {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES} | {"items": items}
