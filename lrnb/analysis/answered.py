"""What models have right, document by document, wherever it was scored: the input of a comparison.

Items of this package are read here; a document is the item's number with its right answer and its options,
its prompt is the text that the model saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lrnb.analysis.failures import option_texts
from lrnb.analysis.results import MEAN, MEAN_EN
from lrnb.errors import UserError
from lrnb.study.files import digest

ASKED = ["document", "prompt", "correct"]  # of every table of answers: two hashes, and right or wrong


@dataclass(frozen=True)
class Answered:
    """The answers of one model: task -> table with columns ASKED, one row an item, and what `correct` counts.

    source: where they were read, for messages. chances: task -> percent right by chance, where it is known.
    """

    source: str
    tasks: dict[str, pd.DataFrame]
    metrics: dict[str, str] = field(default_factory=dict)
    chances: dict[str, float] = field(default_factory=dict)


def answered_items(
    items: pd.DataFrame, source: str, scores: pd.DataFrame | None = None
) -> dict[str, Answered]:
    """model -> its answers, from items of this package (ITEM_COLUMNS of `lrnb.scoring.evaluate`).

    scores: those of these items, which name each task's metric and chance level.

    UserError where an earlier version scored them, without prompts.
    """
    if missing := sorted({"context", "gold", "options", "correct"} - set(items)):
        raise UserError(
            f"{source} has no {', '.join(missing)}: an earlier version scored these models. Score again with "
            "this one: lrnb run or lrnb evaluate"
        )
    metrics, chances = ({} if scores is None else _by_task(scores, name) for name in ("metric", "chance"))
    known = items.assign(document=_documents(items), prompt=items["context"].astype(str))
    known = known.assign(correct=known["correct"].astype(float))
    found: dict[str, Answered] = {}
    for (model, task), own in known.groupby(["model", "task"], sort=False):
        answers = found.setdefault(str(model), Answered(source, {}, metrics, chances))
        answers.tasks[str(task)] = own[ASKED].reset_index(drop=True)
    return found


def _by_task(scores: pd.DataFrame, column: str) -> dict[str, Any]:
    return dict(zip(scores["task"].astype(str), scores[column], strict=True))


def _documents(items: pd.DataFrame) -> list[str]:
    columns = [name for name in ("item", "gold", "options", "texts") if name in items]
    return [_document(row) for row in items[columns].to_dict("records")]


def _document(row: dict[str, Any]) -> str:
    """Number, right answer and options; options in any order, by their texts where there are any."""
    names, texts = [str(name) for name in row["options"]], option_texts(row)
    gold = str(row["gold"])
    shown = texts[names.index(gold)] if texts and gold in names else gold
    return digest([int(row["item"]), shown, sorted(texts)])


def all_means(tasks: Iterable[str]) -> dict[str, list[str]]:
    """{"mean": all tasks}: for tasks whose names say nothing of the language; a mean needs two."""
    single = [task for task in dict.fromkeys(tasks) if task not in (MEAN, MEAN_EN)]
    return {MEAN: single} if len(single) > 1 else {}
