"""Singular values and directions of whole matrices, for methods that merge a matrix at a time.

A decomposition is that of the Gram matrix of the shorter side, in float64: several times as fast as one of
the matrix itself, and exact enough for what is rounded to float32 in the end. Directions whose singular value
is below SMALLEST times the largest cannot be told from rounding; they count as none.

LAPACK and cuSOLVER are not the same to the last digit on every processor, so entries may differ there by a
rounding of float32 (by one of bfloat16 where that is written); on one machine the bytes are the same each
time. Arrays are numpy's, or torch's on the device of a worker, in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrnb.checkpoints.reading import HEAD
from lrnb.merging.formulas import like
from lrnb.merging.layers import is_embedding
from lrnb.merging.linear import OfTaskVectors
from lrnb.merging.registry import Settled
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import TaskVectors

Array = Any
SMALLEST = 1e-6  # of singular values beside the largest
WIDE = 8  # bytes of a float64


class Parts(NamedTuple):
    """Singular values of a matrix (m, n), the largest first, with directions (m, r) and (n, r), those that
    count; `of`: how many there would be, min(m, n)."""

    left: Array
    values: Array
    right: Array
    of: int


def decompose(matrix: Array) -> Parts:
    """The singular values of a matrix that count, and their directions."""
    wide = matrix.shape[0] <= matrix.shape[1]
    short = matrix if wide else matrix.T
    squares, vectors = _linalg(matrix).eigh(short @ short.T)  # ascending
    values, count = abs(squares) ** 0.5, 0
    if len(values) and float(values[-1]) > 0:
        count = int((values > float(values[-1]) * SMALLEST).sum())
    order = list(range(len(values) - 1, len(values) - 1 - count, -1))
    values, vectors = values[order], vectors[:, order]
    others = short.T @ vectors / values
    left, right = (vectors, others) if wide else (others, vectors)
    return Parts(left, values, right, min(matrix.shape))


def nearest_orthogonal(matrix: Array) -> Array:
    """The matrix with all singular values that count set to 1."""
    parts = decompose(matrix)
    return parts.left @ parts.right.T


def concatenated(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays side by side."""
    first = arrays[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(arrays, axis)
    return sys.modules["torch"].cat(list(arrays), axis)


def _linalg(x: Array) -> Any:
    return np.linalg if isinstance(x, np.ndarray) else sys.modules["torch"].linalg


def matrix_memory(sizes: Sequence[int], parents: int) -> float:
    """Bytes that `prepare_matrix` holds for tensors of these sizes."""
    return sum(WIDE * (parents + 4) * n for n in sizes)


def weighed_mean(arrays: Sequence[Array], squares: Sequence[np.ndarray]) -> Array:
    """(sum A_i S_i) (sum S_i)^-1 of matrices (m, n) and symmetric, positive definite ones (n, n)."""
    own = [like(square, arrays[0]) for square in squares]
    weighted = [a @ s for a, s in zip(arrays, own, strict=True)]
    return _linalg(arrays[0]).solve(sum(own[1:], own[0]), sum(weighted[1:], weighted[0]).T).T


def prepare_matrix(
    vectors: TaskVectors, names: list[str], lam: float, merged: Callable[[list[Array]], Array] | None
) -> Settled:
    """base + lam * merged(task vectors of a matrix); what is no matrix in the network's layers, so vectors,
    embeddings and head, takes lam * the mean of the task vectors, as does one without `merged`."""
    name = names[0]
    shape = vectors.base[name].shape
    if merged is None or len(shape) != 2 or not min(shape) or is_embedding(name) or name == HEAD:
        return OfTaskVectors(vectors, names, [lam / len(vectors.parents)] * len(vectors.parents))
    worker = vectors.workers[0]
    step = worker.as_numpy(merged([worker.as_array(x) for x in _taus(vectors, name)]) * lam)
    flat = step.astype(np.float32).reshape(-1)
    return Stepwise(vectors, names, lambda span: lambda taus, start: _part(flat, taus[0], start))


def _taus(vectors: TaskVectors, name: str) -> list[np.ndarray]:
    """Every parent's task vector of a tensor, float64. UserError where one is not finite."""
    found = []
    for parent in vectors.parents:
        parts = [vectors.delta(parent, span) for span in vectors.spans([name])]
        found.append(np.concatenate(parts).astype(np.float64).reshape(vectors.base[name].shape))
    vectors.tick(found[0].size)
    if not all(np.isfinite(x).all() for x in found):
        vectors.refuse_deltas()
    return found


def _part(step: np.ndarray, tau: Array, start: int) -> Array:
    return like(step[start : start + len(tau)], tau)
