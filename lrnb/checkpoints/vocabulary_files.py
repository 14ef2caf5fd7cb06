"""Config and tokenizer files of a folder made to fit the rows that its embeddings have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lrnb.checkpoints.alignment import Alignment
from lrnb.checkpoints.small_files import SmallFiles
from lrnb.checkpoints.tokens import TOKENIZER_FILE, read_tokens


def fitted_files(files: SmallFiles, alignment: Alignment) -> SmallFiles:
    """Rows and tokenizer as in `alignment`; files: with the tokenizer and the ids of its owner."""
    fitted = files.with_rows(next(iter(alignment.tables.values()))[0])
    own = {TOKENIZER_FILE: alignment.tokenizer.encode()} if alignment.tokenizer else {}
    return SmallFiles(fitted.contents | own, fitted.notes)


def check_ids(folder: Path, alignment: Alignment) -> None:
    """RuntimeError where the tokenizer written has other ids than the rows: a fault of this module."""
    if alignment.ids and (written := read_tokens(folder)) and dict(written.ids) != dict(alignment.ids):
        odd = _first_difference(written.ids.items(), alignment.ids.items())
        raise RuntimeError(f"{folder}: tokenizer and rows differ at {odd}, please report")


def _first_difference(ours: Iterable[tuple[str, int]], theirs: Iterable[tuple[str, int]]) -> tuple[str, int]:
    return min(set(ours) ^ set(theirs), key=lambda item: item[1])
