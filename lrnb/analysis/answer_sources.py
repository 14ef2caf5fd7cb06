"""What is given as a side of a comparison: a run, `lrnb evaluate --out`, or samples of the harness."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lrnb.analysis.answered import Answered, answered_items
from lrnb.analysis.harness_samples import SAMPLES, Wanted, read_samples
from lrnb.errors import UserError
from lrnb.study.stages import require

EVALUATION = "evaluation.json"  # in a folder of `lrnb evaluate --out`: what was asked
WHAT = (
    "Give a run folder (runs/<preset>/<lang>), a folder of `lrnb evaluate --out`, or what "
    "lm-evaluation-harness wrote with --log_samples: its output folder, a model's folder in it, or one file"
)


def sources(text: str) -> list[tuple[Path, str]]:
    """(path, model or "") of PATH[:MODEL]; a path may hold *, ? and [...]. UserError for nothing there."""
    path, _, model = text.rpartition(":")
    for place, name in ((text, ""), (path, model)):
        if place and (found := _there(place)):
            return [(one, name) for one in found]
    raise UserError(f"{text}: nothing is there. {WHAT}")


def _there(place: str) -> list[Path]:
    """The path, or what its wildcards stand for, in order."""
    path = Path(place)
    if path.exists() or not any(mark in place for mark in "*?["):
        return [path] if path.exists() else []
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def answers_at(path: Path, model: str, wanted: Wanted) -> dict[str, Answered]:
    """model -> its answers; only `model` where it is named. wanted: metrics, see `harness_samples`."""
    for folder in (path, path / "scores"):
        if (folder / "items.parquet").is_file():
            return _own_items(folder, model, wanted)
    found = _harness_models(path, wanted)
    _refuse_unknown_model(path, model, found)
    return {model: found[model]} if model else found


def _refuse_unknown_model(path: Path, model: str, there: Iterable[str]) -> None:
    if model and model not in there:
        raise UserError(f"{path}: has no model {model!r}; there are {', '.join(there)}")


def _harness_models(path: Path, wanted: Wanted) -> dict[str, Answered]:
    if path.is_file():
        return {path.stem: read_samples(path, wanted)}
    if any(path.glob(SAMPLES)):
        return {path.name: read_samples(path, wanted)}
    models = sorted({file.parent for file in path.glob(f"*/{SAMPLES}")})
    if not models:
        raise UserError(f"{path}: has no answers. {WHAT}")
    return {folder.name: read_samples(folder, wanted) for folder in models}


def _own_items(folder: Path, model: str, wanted: Wanted) -> dict[str, Answered]:
    if wanted:
        raise UserError(
            f"{folder}: items of lrnb have the one metric they were scored by. Leave out --metric, or score "
            "again with --normalisation"
        )
    if folder.name == "scores" and not (folder / EVALUATION).is_file():
        require(folder)
    scores = pd.read_csv(folder / "scores.csv")
    items = pd.read_parquet(folder / "items.parquet")
    _refuse_unknown_model(folder, model, items["model"].unique())
    items = items[items["model"] == model] if model else items  # texts are hashed, which takes its time
    return answered_items(items, str(folder / "items.parquet"), scores)
