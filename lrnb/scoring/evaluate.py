"""Scores of models on the study's tasks: the harness does the counting, `Scorer` the arithmetic.

Values are percent. Every item is kept (prediction, gold, log-likelihoods), since paired tests and a
look at collapsed models need them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.errors import UserError
from lrnb.scoring.cache import ScoreCache, model_hash
from lrnb.scoring.given_folder import fit_folder
from lrnb.scoring.open_model import device_and_precision, exchange_key, read_weights
from lrnb.scoring.scorer import Scorer, greedy
from lrnb.scoring.unwritten import Unwritten
from lrnb.study.files import digest
from lrnb.study.stages import device_name
from lrnb.tasks import loading
from lrnb.tasks.harness import KeptTask, harness_items, quiet
from lrnb.training.bits_per_byte import bits_per_byte

__all__ = [
    "ITEM_COLUMNS",
    "SCORE_COLUMNS",
    "ScoredModel",
    "Scorer",
    "dev_right",
    "dev_score",
    "evaluate_models",
    "score_models",
    "score_one",
    "text_bits",
]
_log = logging.getLogger(__name__)
UNREADABLE = 0.5  # share of unknown tokens from which on a model cannot be said to read a task
LOOKED_AT = 200  # requests of a task that are looked at for it

SCORE_COLUMNS = [
    *("preset", "lang", "model", "method", "ct_tokens", "task", "family", "metric"),
    *("value", "ci_low", "ci_high", "n", "chance", "shots", "seed", "cut"),
]  # cut: items whose context was longer than the model's window
ITEM_COLUMNS = [
    *("model", "method", "ct_tokens", "task", "item", "gold", "prediction", "correct"),
    *("options", "loglikelihoods", "context", "generation", "texts", "cut"),
]  # texts: the options as shown; correct may be a share of training sets, see `StudyTask.items`
# Generated: options, loglikelihoods, texts empty; prediction "" if unread

BITS_COLUMNS = ["model", "method", "ct_tokens", "lang", "bits_per_byte", "bytes"]


@dataclass(frozen=True)
class ScoredModel:
    """A model to score: its folder, or how to make it; the method that made it, the CT tokens it has seen."""

    folder: str | Path | Unwritten
    method: str = ""
    ct_tokens: int = 0

    @property
    def where(self) -> Path | Unwritten:
        return self.folder if isinstance(self.folder, Unwritten) else Path(self.folder)


def score_models(
    models: Mapping[str, ScoredModel | str | Path],
    tasks: Mapping[str, KeptTask],
    *,
    preset: str = "",
    lang: str = "",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    cache: str | Path | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores every model on every task; (scores, items) with SCORE_COLUMNS and ITEM_COLUMNS.

    models: label -> folder or `Model`; tasks: from `loading.load_tasks`; cache: a folder where scored items
    are kept, so that only what changed is scored again; options: of `Scorer.from_folder` (device, precision,
    batch, ...). progress(n) is called with n finished items; there are len(models) * sum(map(len,
    tasks.values())).
    """
    if not models:
        raise UserError("no model to score; give at least one checkpoint folder")
    named = {label: m if isinstance(m, ScoredModel) else ScoredModel(m, label) for label, m in models.items()}
    desk = Desk(progress, options, cache)
    tables = [
        desk.items(model.where, dict(tasks)).assign(
            model=label, method=model.method, ct_tokens=model.ct_tokens
        )
        for label, model in named.items()
    ]
    items = pd.concat(tables, ignore_index=True)[ITEM_COLUMNS]
    scores = summary(items, tasks).assign(preset=preset, lang=lang, seed=seed)
    return scores[SCORE_COLUMNS], items


class Desk:
    """Scores one model after the other, what is cached excepted.

    A model is read or made once; where it has the architecture and tokenizer of the one before, only its
    weights are.
    """

    def __init__(self, progress: Any, options: dict[str, Any], cache: str | Path | None) -> None:
        self.progress, self.options = progress, options
        self.scorer: Scorer | None = None
        self.kind: tuple[str, str] | None = None
        self.where: Path | Unwritten | None = None  # of the open model
        asked = options.get("device", "auto")
        how = {"precision": device_and_precision(asked, options.get("precision", "auto"))[1]}
        how |= {"max_length": str(options.get("max_length"))}
        how["device"] = "cpu" if asked == "cpu" else device_name(asked)
        self.cache = ScoreCache(Path(cache), how) if cache else None

    def items(self, where: Path | Unwritten, tasks: dict[str, KeptTask]) -> pd.DataFrame:
        keys = self.cache.keys(where, tasks) if self.cache else {}
        done = {name: rows for name in keys if (rows := self.cache.read(keys[name])) is not None}  # type: ignore[union-attr]
        if self.progress and done:
            self.progress(sum(map(len, done.values())))
        todo = {name: task for name, task in tasks.items() if name not in done}
        if todo:
            found = score_one(self._open(where), todo)
            done |= {str(name): part for name, part in found.groupby("task", sort=False)}
        for name in todo if self.cache else ():
            self.cache.write(keys[name], done[name])  # type: ignore[union-attr]
        _forget(where)
        return _plain(pd.concat([done[name] for name in tasks], ignore_index=True))

    def bits(self, where: Path | Unwritten, texts: list[str]) -> float:
        key = self.cache.key(model_hash(where), digest(texts)) if self.cache else ""
        if self.cache and (found := self.cache.read(key)) is not None:
            _forget(where)
            return float(found["bits"].iloc[0])
        scorer = self._open(where)
        value = bits_per_byte(scorer.model, scorer.tokenizer, texts)
        if self.cache:
            self.cache.write(key, pd.DataFrame({"bits": [value]}))
        return value

    def continuation(self, folder: Path, prompt: str, tokens: int) -> str:
        """The likeliest continuation of a prompt, up to so many tokens."""
        scorer = self._open(folder)
        return greedy(scorer.model, scorer.tokenizer, [scorer.tokenizer(prompt)["input_ids"]], (), tokens)[0]

    def _open(self, where: Path | Unwritten) -> Scorer:
        if self.scorer and self.where == where:
            return self.scorer
        folder, before = where.like if isinstance(where, Unwritten) else where, self.kind
        self.where, self.kind = where, exchange_key(folder)
        if self.scorer is None or self.kind != before or not any(folder.glob("*.safetensors")):
            self.scorer = Scorer.from_folder(folder, progress=self.progress, **self.options)
        elif isinstance(where, Path):
            self.scorer.load_state(read_weights(where))
        if isinstance(where, Unwritten):
            self.scorer.load_state(where.state())
            where.forget()
        return self.scorer


def _forget(where: Path | Unwritten) -> None:
    """Let go of weights that were made to be looked up only."""
    if isinstance(where, Unwritten):
        where.forget()


def text_bits(
    models: Mapping[str, ScoredModel],
    texts: Mapping[str, Sequence[str]],
    *,
    progress: Callable[[int], None] | None = None,
    cache: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Bits per byte of held-out texts: one row a model and language, with columns BITS_COLUMNS.

    texts: language -> documents; progress(n) is called with n finished ones. Otherwise as `score_models`.
    """
    desk = Desk(None, options, cache)
    rows = []
    for label, model in models.items():
        for lang, documents in texts.items():
            size = sum(len(text.encode()) for text in documents)
            value = desk.bits(model.where, list(documents))
            rows.append((label, model.method, model.ct_tokens, lang, value, size))
            if progress:
                progress(len(documents))
    return pd.DataFrame(rows, columns=BITS_COLUMNS)


def score_one(scorer: Scorer, tasks: Mapping[str, KeptTask]) -> pd.DataFrame:
    """Items of one loaded model: ITEM_COLUMNS without those that name the model."""
    refuse_unknown_script(scorer, tasks)
    found = harness_items(scorer, dict(tasks))
    for name, rows in found.items():
        if cut := sum(row["cut"] for row in rows):
            _log.warning("task %r: %d of %d items are longer than the model's %d tokens and lost the left "
                         "part of their context", name, cut, len(rows), scorer.max_length)  # fmt: skip
    return _plain(pd.DataFrame([{"task": name, **row} for name, rows in found.items() for row in rows]))


def _plain(items: pd.DataFrame) -> pd.DataFrame:
    """`correct` as numbers where some items have shares (see `StudyTask.items`)."""
    return items.astype({"correct": float}) if items["correct"].dtype == object else items


def refuse_unknown_script(scorer: Scorer, tasks: Mapping[str, KeptTask]) -> None:
    """UserError where most of a task's text is the unknown token to the model: answers would mean nothing.

    Tokenizers that fall back to bytes read every script, if badly; they pass.
    """
    unknown = scorer.tokenizer.unk_token_id
    for name, task in tasks.items():
        with quiet():
            task.build_all_requests()
        texts = [request.args[0] for request in task.instances[:LOOKED_AT]]
        ids = [token for text in texts for token in scorer.tok_encode(text)]
        share = sum(token == unknown for token in ids) / max(len(ids), 1) if unknown is not None else 0
        if share > UNREADABLE:
            raise UserError(
                f"{share:.0%} of the tokens of task {name!r} are unknown to the model's tokenizer: it has no "
                "tokens for this script. Score a model that has them, or one that falls back to bytes"
            )


def summary(items: pd.DataFrame, tasks: Mapping[str, KeptTask]) -> pd.DataFrame:
    """One row per model and task, from items: value and its bootstrap interval in percent."""
    rows = []
    keys = ["model", "method", "ct_tokens", "task"]
    for key, part in items.groupby(keys, sort=False):
        task = tasks[key[-1]]
        low, high = statistics.interval([[part["correct"]]])
        rows.append({
            **dict(zip(keys, key, strict=True)), "family": task.family, "metric": task.metric,
            "value": 100 * part["correct"].mean(), "ci_low": 100 * low, "ci_high": 100 * high,
            "n": len(part), "chance": 100 * task.chance, "shots": task.config.num_fewshot,
            "cut": int(part["cut"].sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def dev_right(scorer: Scorer, tasks: Mapping[str, KeptTask]) -> dict[str, list[float]]:
    """Of each task, what the loaded weights have right, an item after the other."""
    found = harness_items(scorer, dict(tasks))
    return {name: [row["correct"] for row in rows] for name, rows in found.items()}


def dev_score(scorer: Scorer, tasks: Mapping[str, KeptTask]) -> dict[str, float]:
    """Percent right per task and their "mean", for choosing among merges of loaded weights."""
    scores = {name: 100 * float(np.mean(right)) for name, right in dev_right(scorer, tasks).items()}
    return {**scores, "mean": float(np.mean(list(scores.values())))}


def evaluate_models(
    models: Mapping[str, str | Path],
    tasks: Iterable[str],
    lang: str,
    data_root: str | Path,
    *,
    base: str | Path | None = None,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, items) of models outside of any run, as `score_models`, all opened before any is scored.

    models: label -> folder, LoRA folder (with its `base`) or Hub id, see `opening.open_source`; given:
    further options of `loading.load_tasks` (split, limit, shots, prompts, normalisation); options: of
    `score_models`.
    """
    loaded = loading.load_tasks(tasks, lang, data_root, seed=seed, **(given or {}))
    folders = {label: fit_folder(where, loaded.values(), base=base) for label, where in models.items()}
    return score_models(folders, loaded, lang=lang, seed=seed, **options)
