"""Degraded copies of rows to train on: words dropped and put out of order. They are no machine translation.

`python -m lrnb.tasks.degraded FOLDER OUT [SEED]` writes three copies of a folder of `sft_x`, to be compared
with the rows themselves where no translated ones are at hand. The noise is that of Lample et al. (2018, arXiv
1711.00043, there with 0.1 and 3): each word is dropped with a probability, and moved by at most k places.
Labels, options and answers stay, and so does the number of rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex

from lrnb.data.corpus import WITHOUT_SPACES
from lrnb.errors import UserError
from lrnb.study.files import atomic_folder, write_text
from lrnb.tasks.row_forms import SUFFIXES
from lrnb.tasks.rows import local_rows
from lrnb.tasks.task_file import spec

KEPT = ("id", "item", "label", "answer", "options")  # fields of a row that stay


class Noise(NamedTuple):
    """How much a text is degraded."""

    dropped: float  # probability that a word goes
    moved: int  # places that a word may move


LEVELS = {"degraded-1": Noise(0.1, 3), "degraded-2": Noise(0.25, 6), "degraded-3": Noise(0.5, 12)}


def degraded_text(text: str, noise: Noise, rng: np.random.Generator) -> str:
    """`text` with words dropped and moved; one is left at least.

    Words are parted by spaces; in scripts without spaces single characters take their place, syllables in
    Tibetan.
    """
    words, between = _words(text)
    if not words:
        return text
    kept = np.flatnonzero(rng.random(len(words)) >= noise.dropped)
    kept = kept if len(kept) else np.array([rng.integers(len(words))])
    order = np.argsort(np.arange(len(kept)) + rng.uniform(0, noise.moved + 1, len(kept)), kind="stable")
    return between.join(words[place] for place in kept[order])


def _words(text: str) -> tuple[list[str], str]:
    """The units of a text, and what stands between them."""
    if 2 * len(WITHOUT_SPACES.findall(text)) <= len(regex.findall(r"\p{L}", text)):
        return text.split(), " "
    if regex.search(r"(?=\p{L})\p{Script=Tibetan}", text):
        return regex.findall(r"[^་\s]+[་\s]*", text), ""
    return regex.findall(r"\X", text), ""


def degraded_rows(rows: list[dict[str, Any]], noise: Noise, seed: int) -> list[dict[str, Any]]:
    """The rows with the texts of all fields but KEPT degraded."""
    rng = np.random.default_rng(seed)
    return [
        {
            key: degraded_text(value, noise, rng) if isinstance(value, str) and key not in KEPT else value
            for key, value in row.items()
            if key != "item"
        }
        for row in rows
    ]


def degrade_folder(folder: Path, out: Path, seed: int = 0) -> list[Path]:
    """Write a copy of every <task>.* of a folder at each of LEVELS, `out/<level>/<task>.jsonl`; the folders.

    UserError for a folder without rows, and for a file called like no task.
    """
    files = sorted(path for path in Path(folder).glob("[!.]*") if path.suffix in SUFFIXES)
    if not files:
        raise UserError(f"{folder}: no rows there; give a folder with <task>.jsonl, as sft_x takes it")
    found = {path.stem: local_rows(spec(path.stem), path) for path in files}
    for level, noise in LEVELS.items():
        with atomic_folder(Path(out) / level) as made:
            for task, rows in found.items():
                lines = [json.dumps(row, ensure_ascii=False) for row in degraded_rows(rows, noise, seed)]
                write_text(made / f"{task}.jsonl", "\n".join(lines) + "\n")
    return [Path(out) / level for level in LEVELS]


if __name__ == "__main__":
    for copy in degrade_folder(Path(sys.argv[1]), Path(sys.argv[2]), int(next(iter(sys.argv[3:]), "0"))):
        print(copy)
