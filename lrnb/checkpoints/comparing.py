"""Base and parents checked against each other: every difference that forbids a merge is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrnb.checkpoints.layouts import bare_names
from lrnb.checkpoints.reading import Checkpoint, is_float, same_bits
from lrnb.checkpoints.trial import opening_fault
from lrnb.errors import UserError

ONCE = (
    'Open and save each once by the same transformers: python -c "from transformers import '
    "AutoModelForCausalLM as M; M.from_pretrained('DIR', dtype='auto').save_pretrained('NEW')\", copy its "
    "tokenizer files, and give NEW"
)
PACKED = re.compile(r"(experts)\..*|(gate_up|gate|up)_proj\..*|(qkv|q|k|v)_proj\..*|W_pack\..*")


def compare(
    method: str,
    base: Mapping[str, np.ndarray],
    models: Mapping[str, Mapping[str, np.ndarray]],
    aliases: Mapping[str, str],
    first: str = "base",
) -> None:
    """UserError naming the tensor where a model's names, shapes, tying or types differ from base.

    first: how messages call `base`; methods without a base compare with the first model, by its name.
    """
    for label, model in models.items():
        _compare_tying(method, base, first, label, model, aliases)
        copies = set(aliases) | (set(model.aliases) if isinstance(model, Checkpoint) else set())
        _compare_names(method, (first, base), (label, model), copies)
        for name in sorted(set(base) - copies):
            _compare_tensor(f"{method}: {name!r}", base[name], first, label, model[name])


def _related(first: str, label: str) -> str:
    """What to give in the place of two models that are not related."""
    origin = f"the base that {label} was trained from"
    return origin if first == "base" else f"models of one architecture: {label} is not like {first}"


def _the(first: str) -> str:
    return "the base" if first == "base" else first


def _compare_tying(
    method: str, base: Any, first: str, label: str, model: Any, aliases: Mapping[str, str]
) -> None:
    if isinstance(base, Checkpoint) and isinstance(model, Checkpoint):
        if base.tied != model.tied:
            words = [("tied" if x.tied else "separate") for x in (base, model)]
            raise UserError(
                f"{method}: input and output embeddings are {words[0]} in {first} but "
                f"{words[1]} in {label}. Give {_related(first, label)}, "
                f"or save {label} with tie_word_embeddings as in {_the(first)}."
            )
        return
    for copy, name in aliases.items():
        if isinstance(model, dict) and getattr(model, "aliases", {}).get(copy) == name:
            continue
        if {copy, name} <= set(model) and not same_bits(model[copy], model[name]):
            raise UserError(
                f"{method}: {copy!r} is tied to {name!r} in {first} but differs from it "
                f"in {label}. Untie it in {_the(first)} (copy the array) or tie it in {label}."
            )


def _compare_names(method: str, one: tuple[str, Any], other: tuple[str, Any], copies: set[str]) -> None:
    (first, base), (label, model) = one, other
    ours, theirs = set(base) - copies, set(model) - copies
    for names, there, here in ((ours - theirs, first, label), (theirs - ours, label, first)):
        if names and (odd := _other_layout(ours, theirs)):
            raise UserError(
                f"{method}: {label} is laid out otherwise than {_the(first)} in its files ({odd}). "
                f"{_way_out(label, model)}"
            )
        if names:
            raise UserError(
                f"{method}: {sorted(names)[0]!r} is in {there} but not in {here} "
                f"({len(names)} such tensors). Give {_related(first, label)}, saved by the same library."
            )


def _way_out(label: str, model: Any) -> str:
    """To save it anew, where transformers reads it: it fills what it does not find with random numbers."""
    if isinstance(model, Checkpoint) and (fault := opening_fault(model)):
        return (
            f"transformers does not read it ({fault}), so saving it anew would not help: give {label} as "
            "save_pretrained wrote it where it was trained"
        )
    return ONCE


def _other_layout(ours: set[str], theirs: set[str]) -> str:
    """How two sets of names differ that are of one model by prefix or packing; "" where they are not."""
    a, b = bare_names(ours), bare_names(theirs)
    if set(a) == set(b):
        odd = min(key for key in a if a[key] != b[key])
        return f"{a[odd]!r} against {b[odd]!r}"
    if {PACKED.sub("", key) for key in a} == {PACKED.sub("", key) for key in b}:
        return f"{min(set(a) - set(b), default='')!r} against {min(set(b) - set(a), default='')!r}"
    return ""


def _compare_tensor(where: str, ours: np.ndarray, first: str, label: str, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape:
        rows = ours.ndim == theirs.ndim == 2 and ours.shape[1] == theirs.shape[1]
        why, remedy = (
            ("their vocabularies differ", "merge folders with tokenizers, and give --vocabulary owner")
            if rows and where.rstrip("'").endswith(("embed_tokens.weight", "lm_head.weight"))
            else ("they are different models", f"give {_related(first, label)}")
        )
        raise UserError(f"{where} is {ours.shape} in {first} but {theirs.shape} in {label}: {why}; {remedy}.")
    if is_float(ours.dtype) != is_float(theirs.dtype):
        raise UserError(
            f"{where} is {ours.dtype} in {first} but {theirs.dtype} in {label}: only "
            "floats are merged; save both in the same kind of dtype."
        )
    if not is_float(ours.dtype) and not same_bits(ours, theirs):
        raise UserError(
            f"{where} is not a float tensor ({ours.dtype}) and differs between {first} "
            f"and {label}: it cannot be merged; make them equal."
        )
