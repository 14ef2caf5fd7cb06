"""Which model's tokenizer, chat templates and generation settings a merged model has, if nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrnb.checkpoints.reading import Checkpoint
from lrnb.checkpoints.small_files import (
    GENERATION,
    TEMPLATES,
    TOKENIZER_CONFIG,
    has_template,
    has_tokenizer,
)
from lrnb.checkpoints.tokens import TOKENIZER_FILE, read_tokens, same_tokenizer_files
from lrnb.errors import UserError
from lrnb.study.files import json_object

SLOW = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")


def default_owner(first: str, models: Mapping[str, Checkpoint]) -> str:
    """The model called `first`, or the parent that brings a chat template for the same vocabulary.

    Of several such parents the one called sft. Where `first` has no tokenizer, the first model that has one.
    """
    folders = {label: model.folder for label, model in models.items()}
    speakers = [
        label for label in _other_speakers(first, folders) if same_vocabulary(folders[first], folders[label])
    ]
    if "sft" in speakers or len(speakers) == 1:
        return "sft" if "sft" in speakers else speakers[0]
    with_one = [label for label, folder in folders.items() if has_tokenizer(folder)]
    return first if first in with_one or not with_one else with_one[0]


def tokenizer_notes(owner: str, models: Mapping[str, Checkpoint]) -> list[str]:
    """That nobody has a tokenizer; UserError where the owner alone has none."""
    if has_tokenizer(models[owner].folder):
        return []
    if others := [label for label, model in models.items() if has_tokenizer(model.folder)]:
        raise UserError(
            f"{models[owner].folder}: has no tokenizer, so the merged model would have none. Copy its files "
            f"there, or give --tokenizer {others[0]}"
        )
    return ["no model has a tokenizer, and so the merged one: copy one there before it is used"]


def owner_notes(first: str, owner: str, models: Mapping[str, Checkpoint]) -> list[str]:
    """Whose tokenizer goes along where that is not plain, and the chat templates that do not."""
    folders = {label: model.folder for label, model in models.items()}
    notes = [f"tokenizer, chat templates, generation settings and ids of special tokens are those of {owner}"]
    for label in _other_speakers(owner, folders):
        same = "the same" if same_vocabulary(folders[owner], folders[label]) else "another"
        notes.append(
            f"the chat template and generation settings of {label} are left behind ({same} vocabulary as "
            f"that of {owner}); --tokenizer {label} takes them"
        )
    return notes if owner != first or len(notes) > 1 else []


def _other_speakers(owner: str, folders: Mapping[str, Path]) -> list[str]:
    """The models with a chat template of their own: not that of the owner, or with another end of a turn."""
    own = _speech(folders[owner])
    others = [label for label, folder in folders.items() if label != owner and has_template(folder)]
    return [label for label in others if _speech(folders[label]) != own]


def _speech(folder: Path) -> Any:
    """What a chat with a model depends on: its templates, and the ids that end an answer."""
    files = [*folder.glob("chat_template*"), *(folder / TEMPLATES).glob("*.jinja")]
    texts = {path.name: path.read_bytes() for path in files if path.is_file()}
    ends = json_object(folder / GENERATION).get("eos_token_id")
    return texts, json_object(folder / TOKENIZER_CONFIG).get("chat_template"), ends


def same_vocabulary(one: Path, other: Path) -> bool:
    """Whether two folders have the same tokens under the same ids."""
    if all((folder / TOKENIZER_FILE).is_file() for folder in (one, other)):
        if same_tokenizer_files([one, other]):
            return True
        ours, theirs = read_tokens(one), read_tokens(other)
        return ours is not None and theirs is not None and ours.ids == theirs.ids
    there = [name for name in SLOW if (one / name).is_file()]
    return bool(there) and all(_same_bytes(one, other, name) for name in there)


def _same_bytes(one: Path, other: Path, name: str) -> bool:
    files = [folder / name for folder in (one, other)]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()
