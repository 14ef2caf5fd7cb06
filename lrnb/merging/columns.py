"""Sums along the columns of a matrix that is gone through span by span.

A matrix of more than two dimensions is taken as (all but the last, last). What is summed at once is a number
of whole rows that follows from their length alone, so sums do not depend on spans or threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrnb.merging.cpu import Operands, Worker
from lrnb.merging.sums import PORTION
from lrnb.merging.task_vectors import Span, TaskVectors


@dataclass(frozen=True)
class Columns:
    """The columns of a matrix with rows of `width` entries; by_row: each row that is stored counts as one."""

    width: int
    by_row: bool = False

    def spread(self, values: np.ndarray, start: int, count: int) -> np.ndarray:
        """A number a column as one an entry, for `count` entries of the matrix from `start` on."""
        if self.by_row:
            first, last = start // self.width, (start + count - 1) // self.width
            return np.repeat(values[first : last + 1], self.width)[start % self.width :][:count]
        return np.resize(np.roll(values, -(start % self.width)), count)


def products(vectors: TaskVectors, name: str, columns: Columns) -> np.ndarray:
    """(2 * parents + 1, columns) float64: base * base, each parent's square, each parent * base."""
    n, rows = vectors.base[name].size, max(1, PORTION // columns.width)
    spans = [Span(name, a, min(a + rows * columns.width, n), a) for a in range(0, n, rows * columns.width)]

    def one(worker: Worker, span: Span, data: Operands) -> np.ndarray:
        return worker.products(data, columns.width, columns.by_row)

    found = vectors.run(spans, one)
    total = np.concatenate(found, axis=1) if columns.by_row else sum(found[1:], found[0])
    if not np.isfinite(total).all():
        vectors.refuse_deltas()
    return total
