"""A merge checked by use: how well it and what it was made of predict a little text, and what it writes.

A merge can end without an error, and the model then writes nonsense. Such a model predicts text worse than
all its parents, which a sound merge hardly ever does: it lies between them, or near.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lrnb.checkpoints.opening import open_source
from lrnb.data.corpus import held_out
from lrnb.errors import UserError
from lrnb.study.odd_files import refuse_odd_file

BYTES = 500  # of each text, half a second for a model of 270M parameters on two cores
PROMPT = 60  # characters that the answer goes on from
ANSWER = 12  # tokens
MARGIN = 0.1  # of the worst parent's bits per byte
AUTO = "auto"
ENGLISH = """\
The river rises in the hills north of the town and runs for about ninety kilometres before it meets the
sea. In spring, when the snow melts, it often floods the lower fields, and the farmers who live there
have learned to build their barns on higher ground. A stone bridge was finished in 1742 and is still in
use, although heavy lorries have to take the new road. On market days people come from the villages
around to sell vegetables, cheese and bread, and the school children paint signs for their parents'
stalls.
"""


def texts_for(asked: str, sources: Iterable[str | Path]) -> dict[str, str]:
    """What to predict: {"X": a text, "English": ours}, cut to BYTES each.

    asked: a file of text in X, or "auto": the text held out by the run that one of the models `sources` lies
    in, and English alone where none does. UserError for a file that is missing, not UTF-8, or empty.
    """
    own = _of_run(sources) if asked == AUTO else _of_file(Path(asked))
    return {name: _cut(text) for name, text in {"X": own, "English": ENGLISH}.items() if text}


def _of_file(path: Path) -> str:
    try:
        if path.exists():
            refuse_odd_file(path)
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--check {path}: cannot be read ({error}). Give a text file in UTF-8, or auto"
        ) from None
    if not text:
        raise UserError(
            f"--check {path}: no text in it. Give some sentences in the merge's language, or auto"
        )
    return text


def _of_run(sources: Iterable[str | Path]) -> str:
    """The text that a run kept out of training, of the first model that lies in one with its own corpus."""
    for folder in (folder for source in sources for folder in Path(source).resolve().parents):
        if texts := held_out(folder / "corpus", "X").get("X"):
            return "\n".join(texts)
    return ""


def _cut(text: str) -> str:
    return text.encode()[:BYTES].decode(errors="ignore").strip()


def check_merge(
    merged: Path,
    models: Mapping[str, str | Path],
    base: str | Path | None,
    texts: Mapping[str, str],
    device: str = "auto",
) -> dict[str, Any]:
    """Bits per byte of every text by the base, the parents and the merge; and what the merge writes.

    models: the parents, as `open_source` takes them with their `base`. Returns {"bits_per_byte": {text:
    {model: value}}, "prompt", "answer", "warnings"}; the answer is the likeliest continuation of the first
    text's beginning. UserError where a model cannot be opened or predicts no number.
    """
    from lrnb.scoring.evaluate import Desk

    sources = ({"base": base} if base is not None else {}) | dict(models)
    folders = {name: open_source(where, base=base, finite=False).folder for name, where in sources.items()}
    desk, prompt = Desk(None, {"device": device}, None), _whole_words(next(iter(texts.values())))
    bits: dict[str, dict[str, float]] = {name: {} for name in texts}
    for name, folder in {**folders, "merge": merged}.items():
        for text, words in texts.items():
            bits[text][name] = round(_finite(desk.bits(folder, [words]), folder, text), 4)
    answer = desk.continuation(merged, prompt, ANSWER)
    told = {"bits_per_byte": bits, "prompt": prompt, "answer": answer}
    return told | {"warnings": [x for name, row in bits.items() if (x := complaint_about(name, row, models))]}


def _whole_words(text: str) -> str:
    """Its first PROMPT characters, up to the last space in them where there is one."""
    start, cut = text[:PROMPT], text[:PROMPT].rfind(" ")
    return start[:cut] if cut > 0 else start


def _finite(bits: float, folder: Path, text: str) -> float:
    if not math.isfinite(bits):
        raise UserError(f"{folder}: its prediction of {text} is no number; the model is broken. Merge others")
    return bits


def complaint_about(text: str, bits: Mapping[str, float], parents: Iterable[str]) -> str:
    """The warning that the merge predicts a text worse than all its parents by more than MARGIN; or ""."""
    worst = max(bits[name] for name in parents)
    if bits["merge"] <= worst * (1 + MARGIN):
        return ""
    return (
        f"{text}: {bits['merge']:.3f} bits per byte, and the worst of its parents has {worst:.3f}; the merge "
        "is probably broken. Look at its answer, at other options, and whether the base is its parents'"
    )
