"""Joint histograms of two task vectors: what the conflict atlas keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lrnb import conflict_kernels as loops
from lrnb.select import WHOLE, Bracket

PER = loops.FINE // loops.COARSE  # fine bins in a coarse one
ZERO = np.float32(0)


@dataclass(frozen=True)
class Histograms:
    """Both task vectors by magnitude, T tensors, B coarse bins (4 an octave) and F fine ones (128).

    same, opposite: (T, B, B) uint32, entries whose signs agree or differ; row |tau_CT|, column |tau_SFT|.
    own: (T, 2, 2 F) uint32, each parent's entries above a fine bin's lower edge, and at it. ties: (T, 2, B)
    uint32, opposite entries of equal magnitude where SFT is above 0, and below. Bin 0 holds the entries
    that are exactly 0. first: the number of coarse bins cut off below, where there was nothing.
    """

    same: np.ndarray
    opposite: np.ndarray
    own: np.ndarray
    ties: np.ndarray
    first: int

    @cached_property
    def fine(self) -> np.ndarray:
        """(F + 1,) lower edges of the fine bins, and the upper one of the last; the first, of zeros, is 0."""
        steps = np.arange(self.own.shape[2] // 2) + self.first * PER
        octave, part = np.divmod(steps, loops.FINE)
        edges = np.ldexp(1 + part / loops.FINE, octave + loops.LOWEST)
        return np.concatenate([[0.0], edges])

    @cached_property
    def edges(self) -> np.ndarray:
        """(B + 1,) lower edges of the coarse bins, as `fine`."""
        return np.concatenate([[0.0], self.fine[1::PER]])

    @cached_property
    def full(self) -> np.ndarray:
        """(T, 2, B) all entries by coarse bin and parent, float64."""
        both = self.own.reshape(*self.own.shape[:2], -1, 2).sum(axis=3, dtype=np.float64)
        inner = both[..., 1:].reshape(*both.shape[:2], -1, PER).sum(axis=3)
        return np.concatenate([both[..., :1], inner], axis=2)

    def brackets(self, t: int, ks: Sequence[int]) -> list[Bracket]:
        """Of each parent two magnitudes between which the k-th largest of tensor t lies, k counts from 1.

        Both are the same where it is known: at the lower edge of a fine bin, or 0.
        """
        found: list[Bracket] = []
        for own, k in zip(self.own[t], ks, strict=True):
            seen = np.cumsum(own.reshape(-1, 2)[::-1], dtype=np.int64)  # downwards
            place, at_edge = divmod(min(int(np.searchsorted(seen, k)), len(seen) - 1), 2)
            bin, last = len(seen) // 2 - 1 - place, len(seen) // 2 - 1
            low, high = np.float32(self.fine[bin]), np.float32(self.fine[bin + 1])
            if at_edge or bin == 0:
                found.append((low, low))
            else:  # the first and last bin also hold what lies beyond them
                found.append((low if bin > 1 else ZERO, high if bin < last else WHOLE[1]))
        return found

    @cached_property
    def whole(self) -> Histograms:
        """All tensors as one: T = 1, counts in uint64."""

        def total(x: np.ndarray) -> np.ndarray:
            return x.sum(axis=0, keepdims=True, dtype=np.uint64)

        return Histograms(
            total(self.same), total(self.opposite), total(self.own), total(self.ties), self.first
        )


def sparse(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places, counts) of what is not 0 in an array, flattened."""
    places = np.flatnonzero(x)
    return places, x.reshape(-1)[places]


def cropped(joints: list[list[tuple[np.ndarray, np.ndarray]]]) -> Histograms:
    """Sparse table, own and ties of every tensor as histograms, without the bins that none of them uses."""
    used = np.unique(
        np.concatenate([np.r_[p // loops.BINS % loops.BINS, p % loops.BINS] for (p, _), *_ in joints])
    )
    used = used[used > 0]
    first, last = (int(used[0]) - 1, int(used[-1])) if len(used) else (0, 1)
    size, fine = last - first + 1, 2 * (1 + (last - first) * PER)
    shapes = ((2, size, size), (2, fine), (2, size))
    dense = [np.zeros((len(joints), *shape), np.uint32) for shape in shapes]
    full = ((2, loops.BINS, loops.BINS), (2, loops.PLACES), (2, loops.BINS))
    cuts = (first, 2 * first * PER, first)
    for t, parts in enumerate(joints):
        for out, (places, counts), shape, cut, keep in zip(dense, parts, full, cuts, (1, 2, 1), strict=True):
            half, *rest = np.unravel_index(places, shape)
            new: Any = tuple(np.where(at >= keep, at - cut, at) for at in rest)
            out[(t, half, *new)] = counts
    table, own, ties = dense
    return Histograms(table[:, 0], table[:, 1], own, ties, first)
