"""How large the entries of each parent's task vector are: what the conflict atlas knows of thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lrnb.conflicts import kernels as loops
from lrnb.merging.thresholds import WHOLE, Bracket

ZERO = np.float32(0)
Sparse = tuple[np.ndarray, np.ndarray]  # places and counts of what is not 0


def edges(first: int, bins: int) -> np.ndarray:
    """(bins + 1,) lower edges of bins, and the upper one of the last; the first, of zeros, is 0.

    first: the bins that are left out after it.
    """
    octave, part = np.divmod(np.arange(bins) + first, loops.FINE)
    return np.concatenate([[0.0], np.ldexp(1 + part / loops.FINE, octave + loops.LOWEST)])


@dataclass(frozen=True)
class Magnitudes:
    """Histograms of T tensors and P parents in B bins, 128 an octave.

    counts: (T, P, 2 B), entries above a bin's lower edge, and at it. Bin 0 holds those that are exactly 0.
    first: the number of bins left out after it, where there was nothing.
    """

    counts: np.ndarray
    first: int

    @cached_property
    def edges(self) -> np.ndarray:
        return edges(self.first, self.counts.shape[2] // 2)

    @cached_property
    def whole(self) -> Magnitudes:
        """All tensors as one: T = 1."""
        return Magnitudes(self.counts.sum(axis=0, keepdims=True, dtype=np.int64), self.first)

    @cached_property
    def _seen(self) -> np.ndarray:
        """(T, P, 2 B) entries so far, from the highest bin down, in a bin those above its edge first."""
        bins = self.counts.reshape(*self.counts.shape[:2], -1, 2)[:, :, ::-1]
        return np.cumsum(bins.reshape(self.counts.shape), axis=2, dtype=bins.dtype)

    def _find(self, t: int, p: int, k: int) -> tuple[int, bool, int]:
        """The bin of the k-th largest, whether it lies at its lower edge, and how many are larger by bin."""
        seen = self._seen[t, p]
        place = min(int(np.searchsorted(seen, seen.dtype.type(k))), len(seen) - 1)
        bin, at_edge = len(seen) // 2 - 1 - place // 2, place % 2 == 1
        return bin, at_edge or bin == 0, int(seen[place - 1]) if place else 0

    def brackets(self, t: int, ks: Sequence[int]) -> list[Bracket]:
        """Of each parent two magnitudes between which the k-th largest of tensor t lies, k counts from 1.

        Both are the same where it is known: at the lower edge of a bin, or 0.
        """
        found: list[Bracket] = []
        last = len(self.edges) - 2
        for p, k in enumerate(ks):
            bin, known, _ = self._find(t, p, k)
            low, high = np.float32(self.edges[bin]), np.float32(self.edges[bin + 1])
            if known:
                found.append((low, low))
            else:  # the first and last bin also hold what lies beyond them
                found.append((low if bin > 1 else ZERO, high if bin < last else WHOLE[1]))
        return found

    def thresholds(self, t: int, ks: Sequence[int]) -> list[float]:
        """Of each parent the k-th largest magnitude of tensor t, interpolated in a bin; infinity for 0."""
        found = []
        for p, k in enumerate(ks):
            bin, known, larger = self._find(t, p, max(k, 1))
            low, high = self.edges[bin], self.edges[bin + 1]
            part = 0.0 if known else 1 - (k - larger) / self.counts[t, p, 2 * bin]
            found.append(low + (high - low) * part if k else np.inf)
        return found


def sparse(x: np.ndarray) -> Sparse:
    """What is not 0 in a histogram, (PLACES,)."""
    places = np.flatnonzero(x)
    return places, x[places]


def cropped(tensors: Sequence[Sequence[Sparse]]) -> Magnitudes:
    """One histogram a tensor and parent, without the bins that none of them uses."""
    used = np.unique(np.concatenate([places // 2 for tensor in tensors for places, _ in tensor]))
    used = used[used > 0]
    first, last = (int(used[0]) - 1, int(used[-1])) if len(used) else (0, 1)
    counts = np.zeros((len(tensors), len(tensors[0]), 2 * (last - first + 1)), np.uint32)
    for t, tensor in enumerate(tensors):
        for p, (places, found) in enumerate(tensor):
            counts[t, p, np.where(places > 1, places - 2 * first, places)] = found
    return Magnitudes(counts, first)
