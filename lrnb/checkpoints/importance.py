"""Folders of scores of a model's tensors: `lrnb importance` writes them, merges read them.

Fisher and gradient have a score for every entry: names and shapes are the model's. gram has, under the name
of a linear layer's matrix (outputs, inputs), one of shape (inputs, inputs). All are float32, beside the
model's config.json; importance.json says what they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.reading import Checkpoint
from lrnb.checkpoints.small_files import CONFIG, SmallFiles
from lrnb.checkpoints.writing import write_checkpoint
from lrnb.errors import UserError

BY_ENTRY, GRAM = ("fisher", "gradient"), "gram"
KINDS = (*BY_ENTRY, GRAM)
FACTS = "importance.json"
MAKE = "make them with lrnb importance --kind {0} --model DIR --text FILE --out DIR"


def write_scores(
    out: str | Path, scores: Mapping[str, np.ndarray], model: Checkpoint, facts: Mapping[str, Any]
) -> None:
    """Write the folder `out`, all of it or nothing. facts: "kind" and more, for importance.json."""
    texts = {CONFIG: model.config, FACTS: facts}
    contents = {name: (json.dumps(text, indent=1) + "\n").encode() for name, text in texts.items()}
    write_checkpoint(out, scores, SmallFiles(contents))


def open_scores(folder: Path, kind: str) -> Checkpoint:
    """The scores in a folder. UserError where it holds none, or those of another kind."""
    make = MAKE.format(kind)
    try:
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{folder}: no scores ({FACTS} missing or damaged); {make}") from None
    if found != kind:
        raise UserError(f"{folder}: scores by {found}, and {kind} is asked for; {make}")
    return open_source(folder, finite=False)
