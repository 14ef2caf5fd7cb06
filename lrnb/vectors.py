"""Task vectors: base and parents checked against each other and read in aligned float32 pieces.

Everything downstream sees a model as one long vector: its float tensors in the order of their
names, each flattened, tied weights once. That order decides what "lowest index" means.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints import (
    BFLOAT16,
    Checkpoint,
    check_finite,
    is_float,
    open_checkpoint,
    same_bits,
)
from lrnb.params import UserError
from lrnb.select import Cut

PIECE = 1 << 17  # entries worked on at once: a handful of float32 pieces stay in the cache
Model = Mapping[str, Any] | str | Path
Piece = tuple[str, slice]


class TaskVectors:
    """A base and its parents, opened once for any number of merges.

    `base` and each parent: a folder, an open `Checkpoint`, or a dict of tensors (numpy or torch).
    Refused with a UserError that names the tensor: differing names, shapes, tying or non-float
    tensors, NaN and Inf. Task vectors are computed piece by piece and never stored.
    """

    def __init__(self, base: Model, parents: Mapping[str, Model], *, method: str = "merge") -> None:
        if not parents:
            raise UserError(f"{method}: no parents given. Give at least one model beside the base.")
        self.base, self.aliases = _open(base, "base")
        self.models: dict[str, Mapping[str, np.ndarray]] = {}
        for label, model in parents.items():
            self.models[label], _ = _open(model, label)
        compare(method, self.base, self.models, self.aliases)
        self.parents = list(self.models)
        stored = [name for name in sorted(self.base) if name not in self.aliases]
        self.names = [name for name in stored if is_float(self.base[name].dtype)]
        self.others = [name for name in stored if name not in set(self.names)]
        self.cuts: dict[tuple[Any, ...], Cut] = {}  # filled by election.cuts

    def pieces(self, names: list[str]) -> Iterator[Piece]:
        """(name, span) over the tensors `names`, in order, at most PIECE entries each."""
        for name in names:
            for start in range(0, self.size([name]), PIECE):
                yield name, slice(start, min(start + PIECE, self.size([name])))

    def stored(self, name: str) -> str:
        """The name under which a tied tensor is merged; else `name` itself."""
        return self.aliases.get(name, name)

    def size(self, names: list[str]) -> int:
        """Number of entries in the tensors `names`."""
        return sum(self.base[name].size for name in names)

    def base_piece(self, piece: Piece) -> np.ndarray:
        """A 1-D view of the base in its own dtype."""
        return self.base[piece[0]].reshape(-1)[piece[1]]

    def parent_piece(self, parent: str, piece: Piece) -> np.ndarray:
        """A 1-D view of a parent in its own dtype."""
        return self.models[parent][piece[0]].reshape(-1)[piece[1]]

    def delta(self, parent: str, piece: Piece) -> np.ndarray:
        """parent - base as 1-D float32, whatever the dtypes (design, section 2)."""
        theirs, ours = self.parent_piece(parent, piece), self.base_piece(piece)
        wide = working_dtype(theirs.dtype, ours.dtype)
        with np.errstate(over="ignore"):
            delta = theirs.astype(wide, copy=False) - ours.astype(wide, copy=False)
            delta = delta.astype(np.float32, copy=False)
        if not np.isfinite(delta).all():
            raise UserError(
                f"{piece[0]!r}: {parent} - base is beyond float32's range. "
                f"Give the base that {parent} was trained from."
            )
        return delta

    def scopes(self, trim_scope: str) -> list[list[str]]:
        """The groups of tensors that share a threshold: one of all, or one each."""
        if trim_scope not in ("model", "tensor"):
            raise UserError(f"trim_scope must be 'model' or 'tensor', got {trim_scope!r}")
        return [self.names] if trim_scope == "model" else [[name] for name in self.names]

    def relative_size(self, parent: str) -> float:
        """|task vector| / |base|: far below 1 for a parent trained from this base."""
        theirs = sum(square(self.delta(parent, piece)) for piece in self.pieces(self.names))
        ours = sum(square(self.base_piece(piece)) for piece in self.pieces(self.names))
        return float(np.sqrt(theirs / ours)) if ours else float(theirs > 0)


def square(x: np.ndarray) -> float:
    """Sum of squares in float64."""
    wide = x.astype(np.float64)
    return float(wide @ wide)


def working_dtype(*dtypes: np.dtype) -> np.dtype:
    """float32, or float64 where a tensor is stored in float64."""
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def compare(
    method: str,
    base: Mapping[str, np.ndarray],
    models: Mapping[str, Mapping[str, np.ndarray]],
    aliases: Mapping[str, str],
) -> None:
    """UserError naming the tensor where a model's names, shapes, tying or types differ from base."""
    for label, model in models.items():
        _compare_tying(method, base, label, model, aliases)
        copies = set(aliases) | set(getattr(model, "aliases", {}))
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


def _open(model: Model, label: str) -> tuple[Mapping[str, np.ndarray], dict[str, str]]:
    """The tensors as numpy arrays, contiguous, and {tied name: first name}."""
    if isinstance(model, str | Path):
        model = open_checkpoint(model)
    if isinstance(model, Checkpoint):
        return model, model.aliases
    views = {name: to_numpy(value) for name, value in model.items()}
    check_finite(label, views)
    return {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in views.items()}, _shared(views)


def _shared(views: Mapping[str, np.ndarray]) -> dict[str, str]:
    """{name: earlier name} of arrays that are the same memory read the same way."""
    first: dict[Any, str] = {}
    aliases = {}
    for name in sorted(views, key=lambda n: (n == "lm_head.weight", n)):
        x = views[name]
        key = (x.__array_interface__["data"][0], x.shape, x.strides, x.dtype.str)
        if x.size and first.setdefault(key, name) != name:
            aliases[name] = first[key]
    return aliases


def to_numpy(x: Any) -> np.ndarray:
    """A numpy view of a numpy array, a number or a torch tensor (bfloat16 by way of its bits)."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return np.asarray(x)
    x = x.detach().cpu()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(BFLOAT16)
    return x.numpy()


def like_input(result: np.ndarray, x: Any) -> Any:
    """`result` as the kind of tensor that `x` is: torch on the same device, or numpy."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return result
    if result.dtype == BFLOAT16:
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16).to(x.device)
    return torch.from_numpy(result).to(x.device)
