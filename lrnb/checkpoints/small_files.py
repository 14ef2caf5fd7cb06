"""The files of a model folder beside its weights: configuration, tokenizer, chat templates, licences.

What decides how a model is spoken to comes from one model, the owner: tokenizer, every chat template,
processors, generation settings, and the ids of beginning, end and padding, which have to fit each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrnb.checkpoints.quantised import without_settings
from lrnb.checkpoints.reading import own_file, read_json, readable
from lrnb.checkpoints.tokens import read_tokens
from lrnb.study.files import TERMS, json_object
from lrnb.study.odd_files import refuse_odd_files_of

CONFIG, GENERATION, TEMPLATES = "config.json", "generation_config.json", "additional_chat_templates"
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "chat_template*", "sentencepiece*.model",
)  # fmt: skip
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
TEXTS = (".json", ".txt", ".model", ".jinja")
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class SmallFiles:
    """What lies beside the weights. contents: by name; notes: what was changed or left behind, and why."""

    contents: dict[str, bytes]
    notes: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        for name, content in self.contents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    def with_rows(self, rows: int) -> SmallFiles:
        """The same with a configuration for so many rows of embeddings."""
        config = json.loads(self.contents[CONFIG])
        nested = config.get("text_config")
        for place in (config, nested):
            if isinstance(place, dict) and ("vocab_size" in place or place is (nested or config)):
                place["vocab_size"] = rows
        return SmallFiles(self.contents | {CONFIG: _json_bytes(config)}, self.notes)


def small_files(like: Path, owner: Path, dtype: str = "", tokenizer: Path | None = None) -> SmallFiles:
    """Those of a folder whose architecture is that of the folder `like`, and whose speech is `owner`'s.

    dtype: the one that all floats are written in, if there is one. tokenizer: where the owner's tokenizer and
    templates lie, if elsewhere. UserError for a file that cannot be read, is no file, or is a link to a
    stranger's: it would be carried into the output.
    """
    found, home = SmallFiles({}), tokenizer or owner
    config, speaker = read_json(own_file(like / CONFIG)), read_json(own_file(owner / CONFIG))
    config = _own_settings(_with_ids_of(config, speaker), found.notes)
    if dtype:  # transformers loads in the dtype that the config names
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    found.contents.update(_copies(like, TERMS) | _copies(owner, (GENERATION, *PROCESSORS)))
    found.contents.update(_copies(home, TOKENIZER))
    if GENERATION not in found.contents and (like / GENERATION).exists():
        settings = _with_ids_of(read_json(own_file(like / GENERATION)), speaker)
        found.contents[GENERATION] = _json_bytes(settings)
    if (home / TEMPLATES).is_dir():
        found.contents.update(_copies(home / TEMPLATES, ("*.jinja",), f"{TEMPLATES}/"))
    found.contents[CONFIG] = _json_bytes(config)
    if (end := end_id(home)) is not None:
        _end_answers(end, found)
    return found


def refuse_odd_small_files(folder: Path) -> None:
    """UserError for a pipe, a device or a Git LFS pointer among these files, whether they are used or not."""
    refuse_odd_files_of(folder, (CONFIG, GENERATION, *TOKENIZER, *PROCESSORS, *TERMS, f"{TEMPLATES}/*.jinja"))


def _own_settings(config: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The configuration without what does not hold for the folder that is written."""
    kept = without_settings(config)
    if kept != config:
        notes.append("quantisation settings in config.json are left out: the weights are not quantised")
    if kept.pop("auto_map", None):
        notes.append("auto_map in config.json is left out: the folder has no code, transformers has its own")
    return kept


def _with_ids_of(config: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the special tokens' ids of another one, on the level where it has them."""
    theirs = {key: value for key, value in other.items() if is_role(key)}
    kept = {key: value for key, value in config.items() if not is_role(key)} | theirs
    nested, inner = config.get("text_config"), other.get("text_config")
    if isinstance(nested, dict) and isinstance(inner, dict):
        kept["text_config"] = _with_ids_of(nested, inner)
    return kept


def is_role(key: str) -> bool:
    """Whether a configuration's key names the id of a special token: bos_token_id, eos_token_id and so on."""
    return key.endswith("_token_id")


def as_list(value: Any) -> list[Any]:
    """The ids that a configuration gives for one role."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _end_answers(end: int, found: SmallFiles) -> None:
    """The tokenizer's own end among the ids that end an answer: a chat would not stop without it."""
    for name in (CONFIG, GENERATION):
        settings = _json_of(found.contents.get(name, b"{}"))
        known = [x for x in as_list(settings.get("eos_token_id")) if isinstance(x, int)]
        if known and end not in known:
            settings["eos_token_id"] = [*known, end]
            found.contents[name] = _json_bytes(settings)
            found.notes.append(f"eos_token_id of {name} has {end} too, which the tokenizer ends texts with")


def end_id(folder: Path) -> int | None:
    """The id of the token that a folder's tokenizer ends texts with; None where its files do not say."""
    token = json_object(folder / TOKENIZER_CONFIG).get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    tokens = read_tokens(folder) if isinstance(token, str) else None
    return tokens.ids.get(str(token)) if tokens else None


def has_template(folder: Path) -> bool:
    """Whether a model's folder says how a chat with it is written."""
    files = any(folder.glob("chat_template*")) or (folder / TEMPLATES).is_dir()
    return files or bool(json_object(folder / TOKENIZER_CONFIG).get("chat_template"))


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has any file of a tokenizer."""
    return any(any(folder.glob(name)) for name in TOKENIZER if not name.startswith("chat"))


def _copies(source: Path, patterns: tuple[str, ...], prefix: str = "") -> dict[str, bytes]:
    """The contents of the files of `source` that match, by name."""
    found = {}
    with readable(source):
        for path in sorted(source.iterdir()):
            wanted = any(map(path.match, patterns))
            if wanted and (path.suffix in TEXTS or not path.is_dir()):  # not LICENSES/
                found[prefix + path.name] = own_file(path).read_bytes()
    return found


def _json_of(content: bytes) -> dict[str, Any]:
    """The object in a JSON file's content; {} where there is none, which transformers finds too."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
