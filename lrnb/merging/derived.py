"""Exact thresholds of numbers that are derived from all parents' entries, such as their variance.

As in `thresholds.py`: a sample brackets the wanted value, one pass counts what lies outside and collects what
lies inside, and the counts prove the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.cpu import Operands, Scan, Worker
from lrnb.merging.sums import PORTION
from lrnb.merging.task_vectors import Span, TaskVectors
from lrnb.merging.thresholds import ALL, NEVER, bracket, locate, sample_size

Array = Any
Value = Callable[[list[Array]], Array]  # of task vectors: a float32 an entry, at least 0


def least_of_largest(vectors: TaskVectors, names: list[str], value: Value, share: float) -> np.float32:
    """The least of the round(share * n) largest of the n values above 0 of a scope; infinity for none of
    them.

    UserError where a task vector is not finite.
    """
    sample, widen = _sample(vectors, names, value), 1.0
    while True:
        low, high = bracket(sample, share, widen)
        found = _scans(vectors, names, value, low, high)
        count = sum(n for n, _ in found)
        if not round(share * count):
            return NEVER
        if kth := locate(round(share * count), (low, high), [scan for _, scan in found]):
            return kth.value
        widen *= 4


def _sample(vectors: TaskVectors, names: list[str], value: Value) -> np.ndarray:
    """Values above 0 of a sample, ascending; none of a small scope."""
    n = vectors.size(names)
    if n <= ALL:
        return np.empty(0, np.float32)
    values = value(list(vectors.sample(names, sample_size(n))[0]))
    return np.sort(values[values > 0])


def _scans(
    vectors: TaskVectors, names: list[str], value: Value, low: np.float32, high: np.float32
) -> list[tuple[int, Scan]]:
    """(values above 0, those around the bracket) of every span."""

    def look(taus: list[Array], _: int) -> tuple[int, Scan, bool]:
        values = formulas.in_main_memory(value(taus))
        return int(np.count_nonzero(values > 0)), _scan(values, low, high), bool(np.isfinite(values).all())

    def one(worker: Worker, span: Span, data: Operands) -> tuple[int, Scan]:
        seen = worker.look(data, look)
        if not all(fine for _, _, fine in seen):
            vectors.refuse_deltas()
        return sum(n for n, _, _ in seen), _together([scan for _, scan, _ in seen])

    return vectors.run(vectors.spans(names), one)


def _scan(values: np.ndarray, low: np.float32, high: np.float32) -> Scan:
    counts = (int(np.count_nonzero(x)) for x in (values > high, values == high, (values == low) & (low > 0)))
    over, at_high, at_low = counts
    return Scan(over, at_high, at_low, values[(values > max(low, np.float32(0))) & (values < high)])


def _together(scans: list[Scan]) -> Scan:
    over, at_high = sum(scan.over for scan in scans), sum(scan.at_high for scan in scans)
    inside = [scan.inside for scan in scans] or [np.empty(0, np.float32)]
    return Scan(over, at_high, sum(scan.at_low for scan in scans), np.concatenate(inside))


def sums_of(
    vectors: TaskVectors, names: list[str], terms: Callable[[list[Array]], list[Array]]
) -> np.ndarray:
    """The sums over a scope of some terms, float64 each; see `sums.py`. UserError where one is not finite."""

    def look(taus: list[Array], _: int) -> np.ndarray:
        rows = [formulas.in_main_memory(x) for x in terms(taus)]
        return np.array([x.astype(np.float64).sum() for x in rows])

    def one(worker: Worker, span: Span, data: Operands) -> np.ndarray:
        return sum(worker.look(data, look), np.zeros(1))

    spans = vectors.spans(names, size=max(PORTION, vectors.workers[0].span))
    total = sum(vectors.run(spans, one), np.zeros(1))
    if not np.isfinite(total).all():
        vectors.refuse_deltas()
    return total
