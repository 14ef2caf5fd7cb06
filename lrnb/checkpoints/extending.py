"""A model with more tokens: new pieces learnt on a text, rows for them, and the folder that holds both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.alignment import vocabulary_tables
from lrnb.checkpoints.new_pieces import Extension, encoded, extend_tokenizer
from lrnb.checkpoints.new_rows import INITS, bytes_a_token, first_rows, focus_weights, mean_weights
from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.owner import SLOW
from lrnb.checkpoints.reading import Checkpoint
from lrnb.checkpoints.small_files import TOKENIZER_CONFIG, SmallFiles, small_files
from lrnb.checkpoints.tokenizer_probe import refuse_endless
from lrnb.checkpoints.tokens import TOKENIZER_FILE, has_tokens
from lrnb.checkpoints.writing import write_checkpoint
from lrnb.errors import UserError

EXTENSION = "extension.json"  # what was added, beside the weights
LEARNT_FROM = 20_000_000  # characters of a text that pieces are learnt from, at most


def extend_vocabulary(
    base: str | Path,
    texts: Iterable[str],
    size: int,
    out: str | Path,
    *,
    init: str = "mean",
    seed: int = 0,
) -> dict[str, Any]:
    """Write `out`: the model `base` with `size` more tokens, learnt on `texts`; returns its facts.

    init: how their rows begin, see `new_rows.py`; seed: of random. Old tokens keep ids and rows, bit for
    bit; the new ones come after the last id, so they take padding rows first. Facts (extension.json):
    tokens, from id `first` on, rows, init, characters learnt from, bytes_per_token before and after on
    these. UserError where the tokenizer cannot be extended, or the texts are empty.
    """
    if size < 1 or init not in INITS:
        raise UserError(
            f"vocabulary: give 1 token or more and an init of {', '.join(INITS)}; got {size}, {init!r}"
        )
    model = open_source(base)
    if not has_tokens(model.folder) or not vocabulary_tables(model):
        raise UserError(
            f"{model.folder}: has no {TOKENIZER_FILE}, or no embeddings, so it is not extended. Save it by "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...), or use another base"
        )
    some = _first_characters(texts)
    if not any(text.strip() for text in some):
        raise UserError("vocabulary: the text is empty; give text in the language, a document a line or row")
    refuse_endless(model.folder, some)
    before = (model.folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    made = extend_tokenizer(before, some, size)
    if not made.pieces:
        raise UserError(
            "vocabulary: the text repeats nothing that the tokenizer cuts into pieces; give more text"
        )
    documents = {"before": list(encoded(before, some)), "after": list(encoded(made.text, some))}
    facts = {"tokens": len(made.pieces), "asked": size, "first": made.first, "init": init}
    facts |= {"characters": sum(map(len, some)), "bytes_per_token": bytes_a_token(some, documents)}
    tables = _grown(model, made, init, seed, documents["after"])
    facts |= {"rows": len(next(iter(tables.values())))}
    tensors = {name: tables.get(name, x) for name, x in model.items()}
    write_checkpoint(out, tensors, _files(model, made, facts))
    return facts


def _first_characters(texts: Iterable[str]) -> list[str]:
    found, size = [], 0
    for text in texts:
        if size >= LEARNT_FROM:
            break
        found.append(text)
        size += len(text)
    return found


def _grown(
    model: Checkpoint, made: Extension, init: str, seed: int, documents: list[list[int]]
) -> dict[str, np.ndarray]:
    """The tables with rows for the new tokens; tied copies are grown alike."""
    names, stop = vocabulary_tables(model), made.first + len(made.pieces)
    rows = len(model[names[0]])
    old = min(rows, made.first)
    weights = mean_weights(made.pieces.values(), old)
    if init == "focus":
        weights = focus_weights(documents, made.first, weights, old)
    found = {}
    for name in names:
        table = model[name]
        grown = np.empty((max(rows, stop), *table.shape[1:]), table.dtype)
        grown[:rows] = table
        grown[rows:] = table[:old].astype(np.float32).mean(axis=0).astype(table.dtype)  # ids without a token
        grown[made.first : stop] = first_rows(table[:old], init, weights, seed)
        found[name] = grown
    return found


def _files(model: Checkpoint, made: Extension, facts: dict[str, Any]) -> SmallFiles:
    """The tokenizer as extended, the number of rows, and extension.json."""
    files = small_files(model.folder, model.folder).with_rows(facts["rows"])
    contents = {name: content for name, content in files.contents.items() if name not in SLOW}
    marks = json.loads(contents.get(TOKENIZER_CONFIG, b"{}"))
    marks["tokenizer_class"] = (
        "PreTrainedTokenizerFast"  # reads tokenizer.json as it is; others build it anew
    )
    own = {TOKENIZER_CONFIG: marks, EXTENSION: facts}
    contents |= {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in own.items()}
    return SmallFiles(contents | {TOKENIZER_FILE: made.text.encode()}, files.notes)
