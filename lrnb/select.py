"""Exact selection of the k-th largest magnitude over a stream of arrays, and trimming with it.

Instead of sorting, a random sample brackets the wanted rank; one pass counts what lies outside the
bracket and collects the values inside; the exact counts then prove the answer, or the bracket is
widened and the pass repeated. The answer never depends on the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SAMPLE = 1 << 16  # values sampled; the bracket then holds about 1.5% of the data
Arrays = Callable[[], Iterable[np.ndarray]]


class Kth(NamedTuple):
    """The k-th largest magnitude, how many entries are larger, and how many are equal to it."""

    value: np.float32
    above: int
    equal: int


def kth_magnitude(arrays: Arrays, k: int) -> Kth:
    """Exact k-th largest |x| (k counts from 1) over the float32 arrays that `arrays()` yields.

    `arrays` is called once for a pass (usually three) and must yield the same finite values each
    time. ValueError where k is not in 1..n.
    """
    n = sum(x.size for x in arrays())
    if not 1 <= k <= n:
        raise ValueError(f"kth_magnitude: k = {k} is not in 1..{n}")
    sample = _sample(arrays, n)
    margin = 3.5 * np.sqrt(len(sample) * (k / n) * (1 - k / n)) + 2
    while True:
        low, high = _bracket(sample, k / n, margin)
        if (found := _scan(arrays, k, low, high)) is not None:
            return found
        margin *= 4


def _sample(arrays: Arrays, n: int) -> np.ndarray:
    """About SAMPLE magnitudes, ascending; all of them where there are no more than that."""
    rng, rate = np.random.default_rng(0), min(1.0, SAMPLE / n)
    picked = []
    for x in arrays():
        if not x.size:
            continue
        take = x if rate == 1 else x[rng.integers(0, x.size, size=rng.poisson(rate * x.size))]
        picked.append(np.abs(take))
    return np.sort(np.concatenate(picked))


def _bracket(sample: np.ndarray, share: float, margin: float) -> tuple[np.float32, np.float32]:
    """Values between which the wanted rank should lie; -1 and inf where the sample ends."""
    middle = len(sample) * (1 - share)
    first, last = int(np.floor(middle - margin)), int(np.ceil(middle + margin))
    low = sample[first] if first >= 0 and len(sample) else np.float32(-1)
    high = sample[last] if last < len(sample) else np.float32(np.inf)
    return low, high


def _scan(arrays: Arrays, k: int, low: np.float32, high: np.float32) -> Kth | None:
    """One pass. None if the k-th value turns out to lie outside [low, high]."""
    over = at_high = at_low = 0
    parts = [np.empty(0, np.float32)]
    for x in arrays():
        size = np.abs(x)
        reach = size >= high
        over += int(np.count_nonzero(size > high))
        at_high += int(np.count_nonzero(reach))
        inside = (size > low) & ~reach
        at_low += int(np.count_nonzero(size == low))
        parts.append(size[np.flatnonzero(inside)])
    at_high -= over
    inner = np.concatenate(parts)
    if over < k <= over + at_high:
        return Kth(high, over, at_high)
    rank = k - over - at_high  # 1 is the largest strictly inside
    if 1 <= rank <= len(inner):
        value = np.partition(inner, len(inner) - rank)[len(inner) - rank]
        larger = int(np.count_nonzero(inner > value))
        return Kth(value, over + at_high + larger, int(np.count_nonzero(inner == value)))
    if low < high and len(inner) < rank <= len(inner) + at_low:
        return Kth(low, over + at_high + len(inner), at_low)
    return None


@dataclass(frozen=True)
class Cut:
    """Where trimming cuts: magnitudes from `threshold` on stay; of those equal to it, the first
    `quota` (None: all)."""

    threshold: np.float32
    quota: int | None = None


def find_cut(arrays: Arrays, n: int, density: float, at_threshold: str = "keep-all") -> Cut:
    """The cut that keeps k = round(density * n) of the n entries (design, section 3).

    "keep-all" keeps every entry that equals the k-th magnitude, so that the result does not depend
    on order; "exact" keeps the ones with the lowest index until k are kept.
    """
    k = round(density * n)
    if k == 0:
        return Cut(np.float32(np.inf))
    found = kth_magnitude(arrays, k)
    return Cut(found.value, None if at_threshold == "keep-all" else k - found.above)


class Trimmer:
    """Applies a cut to the pieces of a scope, which must come in the scope's order."""

    def __init__(self, cut: Cut) -> None:
        self.threshold, self.left = cut.threshold, cut.quota

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """`piece` (1-D float32) with the entries below the cut set to zero."""
        size = np.abs(piece)
        keep = size >= self.threshold
        if self.left is not None:
            equal = np.flatnonzero(size == self.threshold)
            keep[equal[self.left :]] = False
            self.left -= min(self.left, len(equal))
        return piece * keep
