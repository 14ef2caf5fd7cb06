"""Keep only the part of a BPE vocabulary that given texts use, in the tokenizer and in the model.

A multilingual base spends most of its parameters, and on a CPU most of its time, on tokens that a
study never meets. What is kept is closed under merging: with a piece stay the characters, the
intermediate pieces and the merges that build it, in their old order, so that the given texts are
cut exactly as before. Any other text still encodes, through smaller pieces or single bytes.

Why the cut stays the same: BPE always applies the best-ranked merge at hand. Every merge that the
given texts go through is kept and none is added, so at every step the best one is the old one.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from lrnb.checkpoints.small_files import as_list, is_role
from lrnb.errors import UserError
from lrnb.study.files import MANIFEST, atomic_folder
from lrnb.study.progress import Progress

VOCABULARY = "vocabulary.json"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
RESERVED = re.compile(r"unused|reserved", re.IGNORECASE)  # special tokens never trained
SPACES = "▁Ġ\n\t"  # how a space may be spelled in a vocabulary, and the usual line marks
Merge = tuple[str, str]


def prune_vocabulary(
    folder: Path, texts: Iterable[str], out: Path, *, keep: Iterable[str] = ()
) -> dict[str, Any]:
    """Write to `out` the model in `folder` with only the tokens that `texts` need.

    Kept besides: special tokens (not the reserved ones), the 256 byte tokens, single ASCII
    characters, and the pieces in `keep`. Rows of the embeddings are copied unchanged, so logits of
    kept tokens stay the same. Adds vocabulary.json (old and new size, kept ids in their new order)
    and returns it without the ids. UserError for a tokenizer that is not BPE.
    """
    with Progress("reading text", 0, "texts") as progress:
        folder, texts = Path(folder), list(progress.through(texts))
    spec, rows = _read_spec(folder), _embedding_rows(folder)
    used = used_ids(folder / "tokenizer.json", texts)
    kept = _kept_of(folder, used, keep)
    tokenizer = pruned_tokenizer(spec, kept)
    _check_same_cut(folder / "tokenizer.json", tokenizer, texts)
    facts = {
        "old_size": rows,
        "new_size": len(kept),
        "texts": len(texts),
        "ids_used": len(used),
    }
    with atomic_folder(out) as target:
        _write_model(folder, target, kept)
        _write_tokenizer(folder, target, tokenizer)
        _copy_papers(folder, target, facts)
        (target / VOCABULARY).write_text(json.dumps(facts | {"kept_ids": kept}), encoding="utf-8")
    return facts


def pruned_sizes(folder: Path, texts: Iterable[str]) -> tuple[int, int]:
    """(tokens of the model in `folder`, tokens that `prune_vocabulary` would keep for `texts`)."""
    return _embedding_rows(folder), len(_kept_of(folder, used_ids(folder / "tokenizer.json", texts)))


def _kept_of(folder: Path, used: set[int], keep: Iterable[str] = ()) -> list[int]:
    rows = _embedding_rows(folder)
    return [old for old in kept_ids(_read_spec(folder), used | _role_ids(folder), keep) if old < rows]


def used_ids(tokenizer_file: Path, texts: Iterable[str]) -> set[int]:
    """The ids that occur when `texts` are encoded, special tokens not added."""
    from tokenizers import Tokenizer

    tokenizer, used = Tokenizer.from_file(str(tokenizer_file)), set()
    for batch in _batches("pieces in use", texts):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            used.update(encoding.ids)
    return used


def kept_ids(spec: dict[str, Any], used: set[int], keep: Iterable[str] = ()) -> list[int]:
    """Old ids to keep, ascending: `used`, what must stay in any case, and what builds them."""
    vocab = _vocab(spec)
    names = {index: piece for piece, index in vocab.items()}
    wanted = {names[index] for index in used if index in names}
    wanted |= {piece for piece in keep if piece in vocab} | _always(spec, vocab)
    parts = {part for pair in _needed_merges(spec, wanted) for part in (*pair, "".join(pair))}
    characters = {character for piece in wanted for character in piece}
    return sorted(vocab[piece] for piece in (wanted | parts | characters) if piece in vocab)


def pruned_tokenizer(spec: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """A copy of the tokenizer.json `spec` with the pieces `kept` and the merges that build them."""
    new = {old: index for index, old in enumerate(kept)}
    vocab = {piece: new[old] for piece, old in _vocab(spec).items() if old in new}
    merges = [list(pair) for pair in _needed_merges(spec, set(vocab))]
    own = {piece: index for piece, index in vocab.items() if piece in spec["model"]["vocab"]}
    added = [token for token in spec["added_tokens"] if token["id"] in new]
    return spec | {
        "model": spec["model"] | {"vocab": own, "merges": merges},
        "added_tokens": [token | {"id": new[token["id"]]} for token in added],
        "post_processor": _with_new_ids(spec.get("post_processor"), vocab),
    }


def building_merges(piece: str, ranks: dict[Merge, int]) -> list[Merge]:
    """The merges that BPE applies, in order, to build `piece`; empty where it cannot be built."""
    parts, steps = list(piece), []
    while len(parts) > 1:
        rank, at = min((ranks.get(pair, math.inf), i) for i, pair in enumerate(pairwise(parts)))
        if rank == math.inf:
            return []
        steps.append((parts[at], parts[at + 1]))
        parts[at : at + 2] = ["".join(steps[-1])]
    return steps


def _needed_merges(spec: dict[str, Any], pieces: set[str]) -> list[Merge]:
    """The merges that build `pieces`, in the tokenizer's order."""
    merges = spec["model"]["merges"]  # ["a", "b"], or "a b" in older files
    pairs = (tuple(m.split(" ") if isinstance(m, str) else m) for m in merges)
    ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
    needed = {pair for piece in pieces for pair in building_merges(piece, ranks)}
    return sorted(needed, key=ranks.__getitem__)


def _always(spec: dict[str, Any], vocab: dict[str, int]) -> set[str]:
    special = {token["content"] for token in spec["added_tokens"] if token["special"]}
    stays = {piece for piece in special if not RESERVED.search(piece)}
    stays.add(spec["model"].get("unk_token") or "")
    stays |= {piece for piece in vocab if BYTE.fullmatch(piece)}
    stays |= {chr(code) for code in range(32, 127)} | set(SPACES)
    if "ByteLevel" in json.dumps(spec.get("pre_tokenizer")):
        from tokenizers.pre_tokenizers import ByteLevel

        stays |= set(ByteLevel.alphabet())
    return {piece for piece in stays if piece in vocab}


def _vocab(spec: dict[str, Any]) -> dict[str, int]:
    """Piece to id, added tokens included."""
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    return spec["model"]["vocab"] | added


def _with_new_ids(part: Any, vocab: dict[str, int]) -> Any:
    """A post-processor with its special tokens' ids looked up again by name."""
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
            return [part[0], vocab[part[0]]]  # ["</s>", 2] of Bert- and RobertaProcessing
        return [_with_new_ids(item, vocab) for item in part]
    if not isinstance(part, dict):
        return part
    if "ids" in part and "tokens" in part:  # a special token of TemplateProcessing
        return part | {"ids": [vocab[token] for token in part["tokens"]]}
    return {key: _with_new_ids(value, vocab) for key, value in part.items()}


def _read_spec(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"prune: {path} is missing; set base_prune=False, or use another base")
    spec = json.loads(path.read_text(encoding="utf-8"))
    if spec["model"]["type"] != "BPE":
        kind = spec["model"]["type"]
        raise UserError(f"prune: {path} is {kind}, only BPE can be pruned; set base_prune=False")
    return spec


def _embedding_rows(folder: Path) -> int:
    """The model's vocabulary; a tokenizer may know more, such as Gemma's mark for an image."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (config if "vocab_size" in config else config["text_config"])["vocab_size"]


def _role_ids(folder: Path) -> set[int]:
    """Ids that the configuration names: bos, eos, pad and so on."""
    ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in filter(is_role, values):
                ids |= set(as_list(values[key]))
    return ids


def _check_same_cut(old_file: Path, new_spec: dict[str, Any], texts: list[str]) -> None:
    """Every text must give the same pieces as before: a difference is a fault of this module."""
    from tokenizers import Tokenizer

    old, new = Tokenizer.from_file(str(old_file)), Tokenizer.from_str(json.dumps(new_spec))
    for batch in _batches("checking pieces", texts):
        before = old.encode_batch(batch, add_special_tokens=False)
        after = new.encode_batch(batch, add_special_tokens=False)
        for text, one, other in zip(batch, before, after, strict=True):
            if one.tokens != other.tokens:
                raise RuntimeError(f"prune: cut differently than before, please report: {text!r}")


def _write_model(folder: Path, target: Path, kept: list[int]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    layers = {id(layer.weight): layer for layer in both}
    with torch.no_grad():
        for layer in layers.values():  # one layer where the embeddings are tied
            layer.weight[: len(kept)] = layer.weight[torch.tensor(kept)]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    new = {old: index for index, old in enumerate(kept)}
    for config in (model.config, model.generation_config):
        for key, value in config.to_dict().items():
            if is_role(key) and value is not None:
                ids = [new[old] for old in as_list(value)]
                setattr(config, key, ids if isinstance(value, list) else ids[0])
    model.save_pretrained(target)


def _write_tokenizer(folder: Path, target: Path, spec: dict[str, Any]) -> None:
    """tokenizer.json as pruned; tokenizer_config.json names tokens, not ids, and stays."""
    text = json.dumps(spec, ensure_ascii=False)
    (target / "tokenizer.json").write_text(text, encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("added_tokens_decoder", None)  # old ids; tokenizer.json has the new ones
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _copy_papers(folder: Path, target: Path, facts: dict[str, Any]) -> None:
    """Licences and notices go with the weights; a changed model says so in its NOTICE."""
    for path in folder.iterdir():
        if path.is_file() and not (target / path.name).exists() and not _is_weights(path.name):
            shutil.copy2(path, target / path.name)
    notice = target / "NOTICE"
    if notice.is_file():
        change = "Vocabulary cut from {old_size} to {new_size} tokens by lrnb.\n".format(**facts)
        notice.write_text(notice.read_text(encoding="utf-8") + change, encoding="utf-8")


def _is_weights(name: str) -> bool:
    return ".safetensors" in name or name.endswith((".bin", ".bin.index.json")) or name == MANIFEST


def _batches(stage: str, texts: Iterable[str], size: int = 256) -> Iterator[list[str]]:
    """The texts in lists, counted as the progress of `stage`."""
    with Progress(stage, 0, "texts") as progress:
        counted = progress.through(texts)
        while batch := list(islice(counted, size)):
            yield batch
