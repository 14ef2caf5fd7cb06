"""TSV-Merge: of each parent's task matrix the strongest directions, made orthogonal to each other's, then
summed.

    tau_i  = U_i diag(s_i) V_i'            the largest k = min(rows, columns) // parents of each are kept
    U, V   = [U_1 ... U_n], [V_1 ... V_n]  side by side
    theta  = base + lam * U* diag(s_1 ... s_n) V*'

where U* is the orthogonal matrix nearest to U (its singular values set to 1), and V* that to V: directions of
two parents that point the same way are turned apart, so that one does not add to the other. Vectors,
embeddings and head take the mean of the task vectors, times lam.

Source: Gargiulo et al. 2024, "Task Singular Vectors: Reducing Task Interference in Model Merging", arXiv
2412.00081, section 4 (TSV-Merge), k as in its authors' code. `iso_c.py` says what is our choice.

Of a matrix (2, 2) each of two parents keeps one direction. Where these are orthogonal already, it is the sum;
where they are the same, one takes the place of both:

>>> import numpy as np
>>> base = np.zeros((2, 2), np.float32)
>>> ct, sft = np.float32([[3, 0], [0, 0]]), np.float32([[0, 0], [0, 1]])
>>> (tsv_m(base, {"ct": ct, "sft": sft}).round(4) + 0).tolist()
[[3.0, 0.0], [0.0, 1.0]]
>>> (tsv_m(base, {"ct": ct, "sft": ct}).round(4) + 0).tolist()
[[3.0, 0.0], [0.0, 0.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.matrices import concatenated, decompose, nearest_orthogonal, prepare_matrix
from lrnb.merging.methods.iso_c import ByMatrix
from lrnb.merging.registry import Look, Method, Settled
from lrnb.merging.task_vectors import TaskVectors

Array = Any


def tsv_m(base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], *, lam: float = 1.0) -> Tensors:
    """TSV-Merge, formula above. Tensors, result and errors as in `average`; of dicts each tensor by
    itself."""
    return merge_tensors(METHOD, base, parents, {"lam": lam})


def _prepare(vectors: TaskVectors, names: list[str], options: ByMatrix) -> Settled:
    """Decomposes every parent's matrix."""
    return prepare_matrix(vectors, names, options.lam, _turned_apart)


def _turned_apart(taus: list[Array]) -> Array:
    """The strongest directions of all, made orthogonal."""
    kept = min(taus[0].shape) // len(taus)
    found = [decompose(tau) for tau in taus]
    left, right = (
        nearest_orthogonal(concatenated([side[:, :kept] for side in sides], 1))
        for sides in ([x.left for x in found], [x.right for x in found])
    )
    return (left * concatenated([x.values[:kept] for x in found], 0)) @ right.T


METHOD = Method(
    name="tsv_m",
    label="TSV-M",
    summary="each parent's strongest directions of a matrix, made orthogonal to each other's, summed",
    source="Gargiulo et al. 2024, arXiv 2412.00081",
    look=Look("#5E3C99", "star-triangle-down"),
    options=ByMatrix,
    prepare=_prepare,
    parents=(2, 0),
    cost=20,
)
