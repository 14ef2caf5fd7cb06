"""WIDEN: column by column, how far a parent moved in length and in direction decides how much of it is taken.

Of a matrix W (out, in) column j has the length |W_j|. Parent i moved it by

    m_ij = | |W_ij| - |base_j| |            d_ij = 1 - cos(W_ij, base_j)

Each is ranked within the parent, the smallest first: r = 0, 1/n, ..., (n - 1)/n over the n columns. A score
is the softmax of the ranks over the parents, or `calibrated` (1) where a rank is above `above` times the mean
rank: columns that matter to a parent are taken whole, whatever the others say. Then

    theta = base + sum(tau_i * (score of m_i + score of d_i) / 2),       a column at a time

In vectors (norms, biases) each entry is scored by |tau_i| itself in the place of both ranks. A matrix of
embeddings is taken by tokens: its columns are the rows that are stored.

Source: Yu et al. 2024, "Extend Model Merging from Fine-Tuned to Pre-Trained Large Language Models via Weight
Disentanglement", arXiv 2408.03092, section 4, and its authors' code for the scores of vectors and the
transposed embeddings. Here lengths, cosines and scores are float64 and rounded to float32 once; a column of
zeros counts as not turned. Of equal values the first has the lower rank.

Two columns. CT makes both longer, the second more, and turns none: ranks 0 and 1/2 by length, and again by
direction, of which nothing was changed. SFT turns the first and lets the second be: ranks 1/2 and 0. The mean
rank is 1/4, so CT's second and SFT's first column are taken whole; of CT's first the softmax of 0 and 1/2,
0.378.

>>> import numpy as np
>>> base = np.float32([[1, 1], [1, 1]])
>>> ct, sft = base + np.float32([[1, 2], [1, 2]]), base + np.float32([[1, 0], [-1, 0]])
>>> widen(base, {"ct": ct, "sft": sft}).astype(float).round(3).tolist()
[[2.378, 3.0], [0.378, 3.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.columns import Columns, products
from lrnb.merging.cpu import Formula
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.layers import is_embedding
from lrnb.merging.registry import Look, Method, Options, Published, option
from lrnb.merging.shared_options import WIDEN
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.sums import masses
from lrnb.merging.task_vectors import Span, TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class Widen(Options):
    above: float = option("calibrated are ranks above this much of their mean", 1.0, low=0, search=(1.0, 2.0))
    calibrated: float = option("the score of such ranks", 1.0, low=0)

    def scope(self) -> str:
        """Columns are ranked within a tensor."""
        return "tensor"

    def passes(self) -> int:
        """One for lengths and directions."""
        return 2

    def memory(self, sizes: Sequence[int], parents: int) -> float:
        """Of a column: sums, ranks and scores; of a matrix twice as long as wide, and no more than its
        root."""
        return sum(8 * (6 * parents + 1) * (n / 64) for n in sizes)

    def scores(self, ranks: np.ndarray, means: np.ndarray) -> np.ndarray:
        """(parents, n) float64 of ranks; means: of the ranks of each parent, (parents, 1)."""
        soft = np.exp(ranks - ranks.max(axis=0))
        return np.where(ranks > means * self.above, self.calibrated, soft / soft.sum(axis=0))


def widen(base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], **options: Any) -> Tensors:
    """WIDEN, formula above; options: those of `Widen`. Tensors, result and errors as in `average`; of dicts
    each tensor by itself."""
    return merge_tensors(METHOD, base, parents, options)


def _prepare(vectors: TaskVectors, names: list[str], options: Widen) -> Stepwise:
    """Goes through the tensor once, for its columns."""
    name = names[0]
    shape = vectors.base[name].shape
    if len(shape) < 2 or not vectors.base[name].size:
        return _prepare_vector(vectors, names, options)
    columns = Columns(shape[-1], by_row=is_embedding(name))
    factors = _factors(products(vectors, name, columns), options)
    return Stepwise(vectors, names, lambda span: lambda taus, start: _step(taus, columns, factors, start))


def _factors(sums: np.ndarray, options: Widen) -> np.ndarray:
    """(parents, columns) float32: how much of each parent's column is taken. sums: of `products`."""
    parents = len(sums) // 2
    own, theirs = np.sqrt(sums[0]), np.sqrt(sums[1 : parents + 1])
    sizes = np.sqrt(sums[0] * sums[1 : parents + 1])  # of equal sums just that sum: the cosine is 1
    cosine = np.divide(sums[parents + 1 :], sizes, out=np.ones_like(sizes), where=sizes > 0)
    scores = [options.scores(x, x.mean(axis=1, keepdims=True))
              for x in map(ranks_within, (abs(theirs - own), 1 - cosine))]  # fmt: skip
    return np.asarray((scores[0] + scores[1]) / 2, np.float32)


def ranks_within(moves: np.ndarray) -> np.ndarray:
    """(parents, n): each row's places in ascending order, over n; of equal values the first comes first."""
    order, n = np.argsort(moves, axis=1, kind="stable"), moves.shape[1]
    found = np.empty(moves.shape)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(n) / n, moves.shape), axis=1)
    return found


def _step(taus: Sequence[Array], columns: Columns, factors: np.ndarray, start: int) -> Array:
    spread = [formulas.like(columns.spread(row, start, len(taus[0])), taus[0]) for row in factors]
    total = taus[0] * spread[0]
    for tau, factor in zip(taus[1:], spread[1:], strict=True):
        total = total + tau * factor
    return total


def _prepare_vector(vectors: TaskVectors, names: list[str], options: Widen) -> Stepwise:
    """Each entry of a vector by itself, and the mean of its magnitudes."""
    means = masses(vectors, names)[:, None] / max(vectors.size(names), 1)

    def step(taus: Sequence[Array], start: int) -> Array:
        rows = np.stack([formulas.in_main_memory(tau).astype(float) for tau in taus])
        total = (rows * options.scores(abs(rows), means)).sum(axis=0)
        return formulas.like(total.astype(np.float32), taus[0])

    def formula_of(span: Span) -> Formula:
        return step

    return Stepwise(vectors, names, formula_of)


METHOD = Method(
    name="widen",
    label="WIDEN",
    summary="each parent's columns by how far they moved in length and direction, ranked and softmaxed",
    source="Yu et al. 2024, arXiv 2408.03092",
    look=Look("#E73F74", "octagon"),
    options=Widen,
    prepare=_prepare,
    cost=15,
    published=(Published({"above": 1.0, "calibrated": 1.0}, WIDEN),),
)
