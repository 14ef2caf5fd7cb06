"""Config and tokenizer files of a folder made to fit the rows that its embeddings have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrnb.checkpoints.alignment import Alignment
from lrnb.checkpoints.reading import Checkpoint, read_json
from lrnb.checkpoints.tokens import TOKENIZER_FILE, read_tokens

ROLE = "_token_id"  # ends the keys of bos, eos, pad and so on


def fit_vocabulary(folder: Path, alignment: Alignment) -> None:
    """Rows, ids of special tokens and tokenizer as in `alignment`; the folder has the owner's tokenizer.

    Ids are those of the owner's own configuration: where others have the same token, it may be elsewhere.
    """
    owner = alignment.models[alignment.owner]
    assert isinstance(owner, Checkpoint)
    rows = next(iter(alignment.tables.values()))[0]
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            own = read_json(owner.folder / name) if (owner.folder / name).is_file() else owner.config
            fitted = fitted_config(read_json(folder / name), own, rows if name == "config.json" else None)
            (folder / name).write_text(json.dumps(fitted, indent=2) + "\n", encoding="utf-8")
    if alignment.tokenizer:
        (folder / TOKENIZER_FILE).write_text(alignment.tokenizer, encoding="utf-8")
    check_ids(folder, alignment)


def fitted_config(config: dict[str, Any], own: dict[str, Any], rows: int | None) -> dict[str, Any]:
    """A configuration with the special ids of another, and so many rows."""
    fitted = {key: value for key, value in config.items() if not key.endswith(ROLE)}
    fitted |= {key: value for key, value in own.items() if key.endswith(ROLE)}
    if rows is not None and ("vocab_size" in config or "text_config" not in config):
        fitted["vocab_size"] = rows
    if isinstance(config.get("text_config"), dict):
        fitted["text_config"] = fitted_config(config["text_config"], own.get("text_config") or {}, rows)
    return fitted


def check_ids(folder: Path, alignment: Alignment) -> None:
    """RuntimeError where the tokenizer written has other ids than the rows: a fault of this module."""
    if alignment.ids and (written := read_tokens(folder)) and dict(written.ids) != dict(alignment.ids):
        odd = _first_difference(written.ids.items(), alignment.ids.items())
        raise RuntimeError(f"{folder}: tokenizer and rows differ at {odd}, please report")


def _first_difference(ours: Iterable[tuple[str, int]], theirs: Iterable[tuple[str, int]]) -> tuple[str, int]:
    return min(set(ours) ^ set(theirs), key=lambda item: item[1])
