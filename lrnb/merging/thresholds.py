"""Exact selection of the k-th largest value over a stream of spans, without sorting it.

A random sample brackets the wanted rank; one pass counts what lies outside the bracket and collects
the values inside; the exact counts then prove the answer, or the bracket is widened and the pass
repeated. The answer never depends on the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lrnb.merging.cpu import Scan
from lrnb.merging.task_vectors import Span

ALL = 1 << 16  # of no more values than this all are collected, without a sample
SAMPLE = 1 << 16, 1 << 22  # values sampled at least and at most
SIGMAS = 4.5  # half of a bracket, in standard errors of a sample's rank

NEVER = np.float32(np.inf)  # a magnitude that nothing reaches


@dataclass(frozen=True)
class Cut:
    """Where trimming cuts: magnitudes above `threshold` stay, and of those equal to it the ones
    before entry `stop` of the scope."""

    threshold: np.float32
    stop: int

    def at(self, span: Span) -> np.float32:
        """The smallest magnitude that stays in a span that `stop` does not divide."""
        return self.threshold if span.first < self.stop else np.nextafter(self.threshold, NEVER)


class Kth(NamedTuple):
    """The k-th largest value, how many are larger, and how many equal it in each span."""

    value: np.float32
    above: int
    equal: np.ndarray


Bracket = tuple[np.float32, np.float32]
WHOLE = (np.float32(-1), np.float32(np.inf))  # holds every magnitude


def sample_size(n: int) -> int:
    """How many of n values to sample: one in 1024; the bracket then holds a few in a thousand."""
    return int(np.clip(n // 1024, *SAMPLE))


def bracket(sample: np.ndarray, share: float, widen: float = 1) -> Bracket:
    """Values between which the one that `share` of all exceed should lie; `sample` ascends."""
    if not len(sample):
        return WHOLE
    margin = widen * (SIGMAS * np.sqrt(len(sample) * max(share * (1 - share), 0)) + 2)
    middle = len(sample) * (1 - share)
    first, last = int(np.floor(middle - margin)), int(np.ceil(middle + margin))
    low = np.float32(sample[first]) if first >= 0 else WHOLE[0]
    return low, np.float32(sample[last]) if last < len(sample) else WHOLE[1]


def locate(k: int, bounds: Bracket, scans: Sequence[Scan]) -> Kth | None:
    """The k-th largest (k counts from 1), from one pass; None if it lies outside the bracket."""
    low, high = bounds
    over, at_high = sum(scan.over for scan in scans), sum(scan.at_high for scan in scans)
    if over < k <= over + at_high:
        return Kth(high, over, np.array([scan.at_high for scan in scans]))
    rank, inner = k - over - at_high, sum(len(scan.inside) for scan in scans)
    if 1 <= rank <= inner:
        return _inside(rank, over + at_high, scans)
    if low < high and inner < rank <= inner + sum(scan.at_low for scan in scans):
        return Kth(low, over + at_high + inner, np.array([scan.at_low for scan in scans]))
    return None


def _inside(rank: int, over: int, scans: Sequence[Scan]) -> Kth:
    values = np.concatenate([scan.inside for scan in scans])
    values.partition(len(values) - rank)
    value = values[len(values) - rank]
    above = over + int(np.count_nonzero(values[len(values) - rank :] > value))
    return Kth(value, above, np.array([np.count_nonzero(scan.inside == value) for scan in scans]))


def kth_largest(
    scan: Callable[[list[Bracket]], list[list[Scan]]],
    samples: Sequence[np.ndarray],
    ks: Sequence[int],
    n: int,
) -> list[Kth]:
    """Exact k-th largest value of several streams of n values each, gone through together.

    scan(brackets) makes one pass and returns a list of Scans, span by span, for every stream;
    `samples` (ascending) guide it, an empty one collects everything. ValueError where a k is not in 1..n.
    """
    if wrong := [k for k in ks if not 1 <= k <= n]:
        raise ValueError(f"kth_largest: k = {wrong[0]} is not in 1..{n}")
    found: list[Kth | None] = [None] * len(ks)
    widen = 1.0
    while None in found:
        bounds = [
            (WHOLE[1], WHOLE[1]) if done else bracket(sample, k / n, widen)
            for sample, k, done in zip(samples, ks, found, strict=True)
        ]
        for i, scans in enumerate(scan(bounds)):
            found[i] = found[i] or locate(ks[i], bounds[i], scans)
        widen *= 4
    return found  # type: ignore[return-value]
