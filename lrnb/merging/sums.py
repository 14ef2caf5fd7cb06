"""Sums over a scope, the same for any number of threads and any size of spans.

Partial sums are over portions of one size, in float64, and added in their order. On a GPU the order inside a
portion is another one, so the last digits may differ there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrnb.merging.cpu import Operands, Worker
from lrnb.merging.task_vectors import Span, TaskVectors
from lrnb.merging.thresholds import Cut

PORTION = 1 << 19  # entries whose products are added at once: fixed, so that sums do not depend on spans


def dot_products(vectors: TaskVectors, names: list[str], of: str) -> np.ndarray:
    """(parents, parents) float64: dot products of the "parents" or of their "deltas" over a scope."""

    def one(worker: Worker, span: Span, data: Operands) -> np.ndarray:
        return worker.gram(data, of)

    spans = vectors.spans(names, size=max(PORTION, vectors.workers[0].span))
    total = sum(vectors.run(spans, one), np.zeros((len(vectors.parents),) * 2))
    if not np.isfinite(total).all():
        (vectors.refuse_deltas if of == "deltas" else vectors.refuse_inputs)()
    return total


def masses(vectors: TaskVectors, names: list[str], cuts: Sequence[Cut] = ()) -> np.ndarray:
    """(parents,) float64: the sum of |task vector| over the entries of a scope that the cuts leave."""

    def one(worker: Worker, span: Span, data: Operands) -> np.ndarray:
        return worker.mass(data, [cut.at(span) for cut in cuts] or [np.float32(0)] * len(vectors.parents))

    stops = [cut.stop for cut in cuts]
    spans = vectors.spans(names, stops, size=max(PORTION, vectors.workers[0].span))
    total = sum(vectors.run(spans, one), np.zeros(len(vectors.parents)))
    if not np.isfinite(total).all():
        vectors.refuse_deltas()
    return total
