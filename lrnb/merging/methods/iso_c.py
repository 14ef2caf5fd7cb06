"""Iso-C: the sum of all task vectors of a matrix, with its singular values evened out.

    tau    = sum(tau_i) = U diag(s) V'
    theta  = base + lam * mean(s) * U V'

Every direction that any parent moved in is moved in alike; the loud directions, which the parents share, no
longer drown the others. Vectors, embeddings and head take the mean of the task vectors, times lam.

Source: Marczak et al. 2025, "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific
Subspaces", arXiv 2502.04959, section 4.2, and its authors' code for what is no matrix; they have no language
models, so embeddings and head, which are matrices, are our choice. The mean is over all min(rows, columns)
singular values; a direction that nobody moved in (`lrnb/merging/matrices.py`: SMALLEST) stays where it is.

Two directions, moved by 3 and by 1: both are moved by 2.

>>> import numpy as np
>>> base = np.zeros((2, 2), np.float32)
>>> ct, sft = np.float32([[3, 0], [0, 0]]), np.float32([[0, 0], [0, 1]])
>>> iso_c(base, {"ct": ct, "sft": sft}).round(4).tolist()
[[2.0, 0.0], [0.0, 2.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.matrices import decompose, matrix_memory, prepare_matrix
from lrnb.merging.registry import Look, Method, Options, Settled, option
from lrnb.merging.task_vectors import TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class ByMatrix(Options):
    """The options of methods that merge a matrix at a time."""

    lam: float = option(
        "factor on the merged task vector", 1.0, search=(0.5, 0.75, 1.0), parameter="lams", label="λ"
    )

    def scope(self) -> str:
        """A matrix by itself."""
        return "tensor"

    def passes(self) -> int:
        """One to decompose."""
        return 2

    def memory(self, sizes: Sequence[int], parents: int) -> float:
        """The task vectors of a matrix, and as much again."""
        return matrix_memory(sizes, parents)


def iso_c(base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], *, lam: float = 1.0) -> Tensors:
    """Iso-C, formula above. Tensors, result and errors as in `average`; of dicts each tensor by itself."""
    return merge_tensors(METHOD, base, parents, {"lam": lam})


def _prepare(vectors: TaskVectors, names: list[str], options: ByMatrix) -> Settled:
    """Decomposes the matrix."""
    return prepare_matrix(vectors, names, options.lam, _evened)


def _evened(taus: list[Array]) -> Array:
    """The sum with its singular values evened out."""
    parts = decompose(sum(taus[1:], taus[0]))
    return (float(parts.values.sum()) / parts.of) * (parts.left @ parts.right.T)


METHOD = Method(
    name="iso_c",
    label="Iso-C",
    summary="the sum of task vectors of each matrix, its singular values evened out",
    source="Marczak et al. 2025, arXiv 2502.04959",
    look=Look("#1B7837", "star-triangle-up"),
    options=ByMatrix,
    prepare=_prepare,
    cost=16,
)
