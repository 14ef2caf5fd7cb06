"""Merging as plain functions on tensors: task vectors, average, task arithmetic, TIES.

Sources: TIES, Yadav et al. 2023, arXiv 2306.01708; task arithmetic, Ilharco et al. 2023, arXiv
2212.04089. Where the papers leave room, the docstrings here and in `lrnb/election.py` say what was
chosen. TIES-SV is in `lrnb/ties_sv.py`. Folders are merged by `lrnb/driver.py`, through the same
functions; its `merge_state` and `merge_checkpoints` are also names of this module.

All arithmetic is float32 (float64 where a tensor is stored in float64) in the order of the parents,
and the result is rounded once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrnb.election import (
    Elected,
    PerParent,
    Rules,
    Slack,
    disjoint_mean,
    elect,
    per_parent,
    rules,
    weighted_sum,
)
from lrnb.params import UserError
from lrnb.vectors import Piece, TaskVectors, like_input, to_numpy, working_dtype

Tensors = Any  # a tensor, or a dict name -> tensor; numpy or torch
DtypeOf = Callable[[str], np.dtype]  # output dtype of a tensor
Pieces = Iterator[tuple[Piece, np.ndarray]]


def add_step(base: np.ndarray, step: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """base + step rounded once to `dtype`; the base's own bits where step is 0."""
    total = base.astype(working_dtype(base.dtype), copy=False) + step
    result = cast(total, dtype, name)
    if (kept := (total == 0) & (step == 0)).any():  # -0.0 + 0.0 would lose its sign
        result[kept] = base[kept].astype(dtype)
    return result


def cast(x: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """`x` in `dtype`; UserError where an entry leaves its range."""
    with np.errstate(over="ignore"):
        result = x.astype(dtype, copy=False)
    if not np.isfinite(result).all():
        bad = int(np.count_nonzero(~np.isfinite(result)))
        raise UserError(
            f"{name!r}: {bad:,} merged entries are beyond {np.dtype(dtype).name}'s "
            "range. Lower lam or the weights, or write float32"
        )
    return result


def ties_pieces(
    vectors: TaskVectors,
    dtype_of: DtypeOf,
    rules: Rules,
    *,
    lam: float = 1.0,
    trim_scope: str = "model",
    make_slack: Callable[[], Slack] | None = None,
    watch: Callable[[Elected], None] | None = None,
) -> Pieces:
    """TIES (with `make_slack`, TIES-SV) over all scopes; `watch` sees every elected piece."""
    factor = np.float32(per_parent(["lam"], lam, 1.0, "lam", -1e30, 1e30)[0])
    scopes = vectors.scopes(trim_scope)  # options are checked here, before the first piece

    def stream() -> Pieces:
        for names in scopes:
            for elected in elect(vectors, names, rules, make_slack() if make_slack else None):
                if watch:
                    watch(elected)
                piece, step = elected.piece, factor * disjoint_mean(elected, rules.weights)
                yield piece, add_step(vectors.base_piece(piece), step, dtype_of(piece[0]), piece[0])

    return stream()


def average_pieces(vectors: TaskVectors, dtype_of: DtypeOf, shares: Sequence[float]) -> Pieces:
    """sum of share * parent; an entry that is equal in all parents is kept as it is."""
    for piece in vectors.pieces(vectors.names):
        stored = [vectors.parent_piece(parent, piece) for parent in vectors.parents]
        wide = working_dtype(*(x.dtype for x in stored))
        arrays = [x.astype(wide, copy=False) for x in stored]
        total = weighted_sum(arrays, [wide.type(share) for share in shares])
        equal = np.logical_and.reduce([x == arrays[0] for x in arrays])
        np.copyto(total, arrays[0], where=equal)
        yield piece, cast(total, dtype_of(piece[0]), piece[0])


def arithmetic_pieces(vectors: TaskVectors, dtype_of: DtypeOf, lams: Sequence[float]) -> Pieces:
    """base + sum of lam * task vector."""
    factors = [np.float32(lam) for lam in lams]
    for piece in vectors.pieces(vectors.names):
        step = weighted_sum([vectors.delta(parent, piece) for parent in vectors.parents], factors)
        yield piece, add_step(vectors.base_piece(piece), step, dtype_of(piece[0]), piece[0])


def average_shares(parents: list[str], alpha: float | None, weights: PerParent) -> list[float]:
    """Each parent's share. `alpha` is that of the parent named ct, else of the first."""
    if alpha is None:
        numbers = per_parent(parents, weights, 1.0, "weights", 0.0, 1e30)
        if not sum(numbers):
            raise UserError("weights: all are 0. Give at least one parent a weight above 0")
        return [number / sum(numbers) for number in numbers]
    if weights is not None or len(parents) != 2:
        raise UserError(f"alpha is for two parents and no weights; parents are {parents}")
    share = per_parent(["alpha"], alpha, 0.5, "alpha", 0.0, 1.0)[0]
    lead = parents.index("ct") if "ct" in parents else 0
    return [share if i == lead else 1 - share for i in range(2)]


def task_vector(base: Tensors, parent: Tensors) -> Tensors:
    """parent - base in float32, shape of the base; a tensor or a dict of its float tensors."""
    if not isinstance(base, Mapping):
        return task_vector({"tensor": base}, {"tensor": parent})["tensor"]
    vectors = TaskVectors(base, {"parent": parent}, method="task_vector")
    pieces = ((p, vectors.delta("parent", p)) for p in vectors.pieces(vectors.names))
    found = dict(assemble(vectors, pieces, lambda name: np.dtype(np.float32)))
    return {
        name: like_input(found[vectors.stored(name)], x)
        for name, x in base.items()
        if vectors.stored(name) in found
    }


def ties(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    weights: PerParent = None,
    lam: float = 1.0,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
) -> Tensors:
    """TIES: trim each task vector to `density`, elect a sign per entry, average those agreeing.

    `base` is a tensor or a dict of tensors; a dict is one scope, with one threshold over all of it
    (call per tensor for thresholds per tensor). `parents` is {name: same kind as base} or a list.
    `density` and `weights` are numbers, or one per parent. Returns base's kind, shapes and dtypes.
    UserError where tensors do not match or an option is out of range.
    """

    def pieces(vectors: TaskVectors, dtype_of: DtypeOf) -> Pieces:
        checked = rules(vectors.parents, density, weights, zero_sign, at_threshold)
        return ties_pieces(vectors, dtype_of, checked, lam=lam)

    return run_on_tensors("ties", base, parents, pieces)


def average(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    alpha: float | None = None,
    weights: PerParent = None,
) -> Tensors:
    """Weighted average: alpha * CT + (1 - alpha) * SFT, or sum(w_i * parent_i) / sum(w_i).

    `base` gives the dtypes and is checked against; its values do not enter. Arguments and errors
    as in `ties`.
    """

    def pieces(vectors: TaskVectors, dtype_of: DtypeOf) -> Pieces:
        shares = average_shares(vectors.parents, alpha, weights)
        return average_pieces(vectors, dtype_of, shares)

    return run_on_tensors("average", base, parents, pieces)


def task_arithmetic(
    base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], *, lam: PerParent = 1.0
) -> Tensors:
    """base + sum of lam_i * task vector_i; `lam` is a number or one per parent. Else as `ties`."""

    def pieces(vectors: TaskVectors, dtype_of: DtypeOf) -> Pieces:
        lams = per_parent(vectors.parents, lam, 1.0, "lam", -1e30, 1e30)
        return arithmetic_pieces(vectors, dtype_of, lams)

    return run_on_tensors("task_arithmetic", base, parents, pieces)


def assemble(
    vectors: TaskVectors, pieces: Iterable[tuple[Piece, np.ndarray]], dtype_of: DtypeOf
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, whole tensor) from pieces that come in order; empty tensors come last."""
    whole, name = np.empty(0), ""
    for piece, values in pieces:
        if piece[1].start == 0:
            name = piece[0]
            whole = np.empty(vectors.base[name].size, dtype_of(name))
        whole[piece[1]] = values
        if piece[1].stop == whole.size:
            yield name, whole.reshape(vectors.base[name].shape)
    for empty in vectors.names:
        if not vectors.base[empty].size:
            yield empty, np.empty(vectors.base[empty].shape, dtype_of(empty))


def run_on_tensors(
    method: str,
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    pieces: Callable[[TaskVectors, DtypeOf], Pieces],
) -> Tensors:
    """Apply a merge to a tensor or a dict of tensors; the result has base's kind and dtypes."""
    if not isinstance(parents, Mapping):
        parents = {f"parent {i + 1}": parent for i, parent in enumerate(parents)}
    if not isinstance(base, Mapping):
        alone = {label: {"tensor": parent} for label, parent in parents.items()}
        return run_on_tensors(method, {"tensor": base}, alone, pieces)["tensor"]
    vectors = TaskVectors(base, parents, method=method)
    stored = {name: to_numpy(x).dtype for name, x in base.items()}
    merged = dict(assemble(vectors, pieces(vectors, stored.__getitem__), stored.__getitem__))
    merged |= {name: vectors.base[name].copy() for name in vectors.others}
    results = {name: like_input(array, base[name]) for name, array in merged.items()}
    return {name: results[vectors.stored(name)] for name in base}


def __getattr__(name: str) -> Any:
    """`merge_state`, `merge_checkpoints`: they need ties_sv, which needs this module."""
    if name in ("merge_state", "merge_checkpoints"):
        return getattr(importlib.import_module("lrnb.driver"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
