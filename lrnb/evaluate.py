"""Scores of models on the study's tasks: the harness does the counting, `Scorer` the arithmetic.

Values are percent. Every item is kept (prediction, gold, log-likelihoods), since paired tests and a
look at collapsed models need them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import answers, stats, taskload
from lrnb.harness import KeptTask
from lrnb.harness import items as harness_items
from lrnb.params import UserError
from lrnb.scorer import Scorer
from lrnb.weights import exchange_key, read_weights

__all__ = [
    "ITEM_COLUMNS",
    "SCORE_COLUMNS",
    "Model",
    "Scorer",
    "dev_score",
    "evaluate_folder",
    "score_models",
    "score_one",
]
log = logging.getLogger(__name__)

SCORE_COLUMNS = [
    *("preset", "lang", "model", "method", "ct_tokens", "task", "family", "metric"),
    *("value", "ci_low", "ci_high", "n", "chance", "shots", "seed"),
]
ITEM_COLUMNS = [
    *("model", "method", "ct_tokens", "task", "item", "gold", "prediction", "correct"),
    *("options", "loglikelihoods", "context", "generation"),
]  # generated answers: options and loglikelihoods are empty, prediction is "" where none could be read


@dataclass(frozen=True)
class Model:
    """A checkpoint to score: its folder, the method that made it, the CT tokens it has seen."""

    folder: str | Path
    method: str = ""
    ct_tokens: int = 0


def score_models(
    models: Mapping[str, Model | str | Path],
    tasks: Mapping[str, KeptTask],
    *,
    preset: str = "",
    lang: str = "",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores every model on every task; (scores, items) with SCORE_COLUMNS and ITEM_COLUMNS.

    models: label -> folder or `Model`; tasks: from `taskload.load`; options: of
    `Scorer.from_folder` (device, precision, batch, ...). A model is read once; where it has the
    architecture and tokenizer of the one before, only its weights are. progress(n) is called with
    n finished items; there are len(models) * sum(map(len, tasks.values())).
    """
    tables, scorer, before = [], None, None
    for label, given in models.items():
        model = given if isinstance(given, Model) else Model(given, label)
        kind = exchange_key(Path(model.folder))
        if scorer is None or kind != before:
            scorer, before = Scorer.from_folder(model.folder, progress=progress, **options), kind
        else:
            scorer.load_state(read_weights(Path(model.folder)))
        tables.append(score_one(scorer, tasks).assign(
            model=label, method=model.method, ct_tokens=model.ct_tokens
        ))  # fmt: skip
    if not tables:
        raise UserError("no model to score; give at least one checkpoint folder")
    items = pd.concat(tables, ignore_index=True)[ITEM_COLUMNS]
    scores = summary(items, tasks).assign(preset=preset, lang=lang, seed=seed)
    return scores[SCORE_COLUMNS], items


def score_one(scorer: Scorer, tasks: Mapping[str, KeptTask]) -> pd.DataFrame:
    """Items of one loaded model: ITEM_COLUMNS without those that name the model."""
    scorer.truncated = 0
    found = harness_items(scorer, dict(tasks))
    if scorer.truncated:
        log.warning("%d contexts were longer than %d tokens and lost their left part",
                    scorer.truncated, scorer.max_length)  # fmt: skip
    return pd.DataFrame([{"task": name, **row} for name, rows in found.items() for row in rows])


def summary(items: pd.DataFrame, tasks: Mapping[str, KeptTask]) -> pd.DataFrame:
    """One row per model and task, from items: value and its bootstrap interval in percent."""
    rows = []
    keys = ["model", "method", "ct_tokens", "task"]
    for key, part in items.groupby(keys, sort=False):
        task = tasks[key[-1]]
        low, high = stats.bootstrap_interval(part["correct"])
        rows.append({
            **dict(zip(keys, key, strict=True)), "family": task.family, "metric": task.metric,
            "value": 100 * part["correct"].mean(), "ci_low": 100 * low, "ci_high": 100 * high,
            "n": len(part), "chance": 100 * task.chance, "shots": task.config.num_fewshot,
        })  # fmt: skip
    return pd.DataFrame(rows)


def dev_score(scorer: Scorer, tasks: Mapping[str, KeptTask]) -> dict[str, float]:
    """Percent right per task and their "mean", for choosing among merges of loaded weights."""
    found = harness_items(scorer, dict(tasks))
    scores = {name: 100 * float(np.mean([row["correct"] for row in rows])) for name, rows in found.items()}
    return {**scores, "mean": float(np.mean(list(scores.values())))}


def evaluate_folder(
    folder: str | Path,
    tasks: Iterable[str],
    lang: str,
    data_root: str | Path,
    *,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The table that `lrnb evaluate DIR` prints: SCORE_COLUMNS and those of `answers.collapsed`.

    given: further options of `taskload.load` (split, limit, shots, prompts, normalisation).
    """
    loaded = taskload.load(tasks, lang, data_root, seed=seed, **(given or {}))
    scores, items = score_models(
        {Path(folder).name: folder}, loaded, lang=lang, seed=seed, progress=progress, **options
    )
    seen = answers.collapsed(items)[["task", "top", "top_share", "majority_share", "collapsed"]]
    return scores.merge(seen, on="task")
