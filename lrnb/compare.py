"""Base and parents checked against each other: every difference that forbids a merge is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrnb.checkpoints import Checkpoint, is_float, same_bits
from lrnb.params import UserError


def compare(
    method: str,
    base: Mapping[str, np.ndarray],
    models: Mapping[str, Mapping[str, np.ndarray]],
    aliases: Mapping[str, str],
) -> None:
    """UserError naming the tensor where a model's names, shapes, tying or types differ from base."""
    for label, model in models.items():
        _compare_tying(method, base, label, model, aliases)
        copies = set(aliases) | (set(model.aliases) if isinstance(model, Checkpoint) else set())
        _compare_names(method, set(base) - copies, label, set(model) - copies)
        for name in sorted(set(base) - copies):
            _compare_tensor(f"{method}: {name!r}", base[name], label, model[name])


def _compare_tying(method: str, base: Any, label: str, model: Any, aliases: Mapping[str, str]) -> None:
    if isinstance(base, Checkpoint) and isinstance(model, Checkpoint):
        if base.tied != model.tied:
            words = [("tied" if x.tied else "separate") for x in (base, model)]
            raise UserError(
                f"{method}: input and output embeddings are {words[0]} in base but "
                f"{words[1]} in {label}. Give the base that {label} was trained from, "
                f"or save {label} with tie_word_embeddings as in the base."
            )
        return
    for copy, name in aliases.items():
        if isinstance(model, dict) and getattr(model, "aliases", {}).get(copy) == name:
            continue
        if {copy, name} <= set(model) and not same_bits(model[copy], model[name]):
            raise UserError(
                f"{method}: {copy!r} is tied to {name!r} in base but differs from it "
                f"in {label}. Untie it in the base (copy the array) or tie it there."
            )


def _compare_names(method: str, ours: set[str], label: str, theirs: set[str]) -> None:
    for names, there, here in ((ours - theirs, "base", label), (theirs - ours, label, "base")):
        if names:
            raise UserError(
                f"{method}: {sorted(names)[0]!r} is in {there} but not in {here} "
                f"({len(names)} such tensors). Give the base that {label} was trained "
                "from, saved by the same library."
            )


def _compare_tensor(where: str, ours: np.ndarray, label: str, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape:
        rows = ours.ndim == theirs.ndim == 2 and ours.shape[1] == theirs.shape[1]
        why, remedy = (
            ("their vocabularies differ", f"resize {label}'s embeddings to the base's vocabulary")
            if rows and where.rstrip("'").endswith(("embed_tokens.weight", "lm_head.weight"))
            else ("they are different models", f"give the base that {label} was trained from")
        )
        raise UserError(f"{where} is {ours.shape} in base but {theirs.shape} in {label}: {why}; {remedy}.")
    if is_float(ours.dtype) != is_float(theirs.dtype):
        raise UserError(
            f"{where} is {ours.dtype} in base but {theirs.dtype} in {label}: only "
            "floats are merged; save both in the same kind of dtype."
        )
    if not is_float(ours.dtype) and not same_bits(ours, theirs):
        raise UserError(
            f"{where} is not a float tensor ({ours.dtype}) and differs between base "
            f"and {label}: it cannot be merged; make them equal."
        )
