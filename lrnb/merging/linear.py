"""Weighted sums of parents, or of task vectors on the base: what several methods end in.

All arithmetic is float32, in the order of the parents, rounded once. Where a tensor is stored in float64, its
task vector, its sum of parents and the last addition are taken in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrnb.merging.cpu import Operands, Worker
from lrnb.merging.rounding import cast
from lrnb.merging.task_vectors import Span, TaskVectors


@dataclass(frozen=True)
class OfParents:
    """sum of share * parent; with `keep` an entry that is equal in all parents is kept as it is, with `whole`
    a parent whose share is 1 where all others' are 0 (in the sum its -0.0 would be 0.0)."""

    vectors: TaskVectors
    names: list[str]
    shares: Sequence[float]
    keep: bool = True
    whole: bool = False

    def spans(self) -> list[Span]:
        return self.vectors.spans(self.names)

    def merge(self, worker: Worker, span: Span, data: Operands, dtype: np.dtype) -> tuple[np.ndarray, None]:
        shares, keep = self.shares, self.keep
        taken = [i for i, share in enumerate(shares) if share]
        if self.whole and len(taken) == 1 and shares[taken[0]] == 1:
            data, shares, keep = _alone(data, taken[0]), (1.0,), True
        result, bad = worker.average(data, shares, keep, dtype)
        if bad:
            self.vectors.refuse_inputs()
        return cast(result, dtype, span.name, bad), None


def _alone(data: Operands, i: int) -> Operands:
    """The same span with one parent; under a key of its own, since workers keep parents by their place."""
    name, start, stop = data.key
    return Operands(data.base, (data.parents[i],), (f"{name}, parent {i} alone", start, stop))


@dataclass(frozen=True)
class OfTaskVectors:
    """base + sum of factor * task vector."""

    vectors: TaskVectors
    names: list[str]
    factors: Sequence[float]

    def spans(self) -> list[Span]:
        return self.vectors.spans(self.names)

    def merge(self, worker: Worker, span: Span, data: Operands, dtype: np.dtype) -> tuple[np.ndarray, None]:
        result, bad = worker.arithmetic(data, self.factors, dtype)
        if bad:
            self.vectors.refuse_deltas()
        return cast(result, dtype, span.name, bad), None
