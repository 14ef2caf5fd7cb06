"""A sample of the entries of all task vectors, on which any election can be run without the models.

A stratified sample, as in any textbook of survey sampling (Cochran 1977, "Sampling Techniques", chapter 5A):
entries are sorted into classes by how rare their largest magnitude is in its tensor, in octaves of rank, and
by whether parents move them against each other. Each class gives a similar number, drawn systematically along
the signs and magnitudes of all parents, and each entry drawn stands for as many of its class as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lrnb.conflicts import kernels as loops

SIZE = 4_096  # entries kept of a tensor for each parent; a tensor that has no more in all is kept whole
PICKED = 4_096  # entries of each level that are drawn from for each parent, about
LEVELS = 10  # of rarity: the larger half of a tensor, the larger quarter, ...
SHARES = np.array([0, 0.05, 0.35, 0.6])  # of a sample: moved by no parent, by one, by several, in conflict
LOOK = 1 << 14  # entries from which the levels' magnitudes are told


@dataclass(frozen=True)
class Sample:
    """entries: (P, S) float32 task vectors, tensor after tensor. runs: (R, 3) tensor, start and stop of
    entries of one class; stands: (R,) float64, for how many entries each of a run stands."""

    entries: np.ndarray
    runs: np.ndarray
    stands: np.ndarray

    @cached_property
    def operands(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """A base of zeros, and the parents over it."""
        return np.zeros(self.entries.shape[1], np.float32), tuple(np.ascontiguousarray(self.entries))

    @cached_property
    def weights(self) -> np.ndarray:
        """(S,) for how many entries each one stands."""
        return np.repeat(self.stands, self.runs[:, 2] - self.runs[:, 1])

    def stops(self, tensors: int) -> np.ndarray:
        """(tensors,) the entry after the last one of each."""
        ends = np.searchsorted(self.runs[:, 0], np.arange(tensors), "right")
        return np.append(0, self.runs[:, 2])[ends]

    @cached_property
    def tensors(self) -> np.ndarray:
        """(S,) the tensor of each entry."""
        return np.repeat(self.runs[:, 0], self.runs[:, 2] - self.runs[:, 1])

    def of(self, tensors: Sequence[int] | np.ndarray) -> np.ndarray:
        """(S,) bool, whether each entry lies in one of these tensors."""
        return np.isin(self.runs[:, 0], tensors).repeat(self.runs[:, 2] - self.runs[:, 1])


class Drawn(NamedTuple):
    """A tensor's part of a sample: entries (P, s), and of its classes how many and what each stands for."""

    entries: np.ndarray
    lengths: np.ndarray
    stands: np.ndarray


def joined_sample(tensors: Sequence[Drawn]) -> Sample:
    """The parts of all tensors, in order."""
    lengths = np.concatenate([part.lengths for part in tensors])
    stops, owners = np.cumsum(lengths), np.repeat(np.arange(len(tensors)), [len(x.lengths) for x in tensors])
    runs = np.stack([owners, stops - lengths, stops], axis=1)
    entries = np.concatenate([part.entries for part in tensors], axis=1)
    return Sample(entries, runs, np.concatenate([part.stands for part in tensors]))


def rarity_levels(some: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(P, bins) uint8: how rare magnitudes from each edge on are among some task vectors, (P, m)."""
    sizes = np.sort(np.abs(some), axis=1)
    above = np.stack([len(x) - np.searchsorted(x, edges[:-1]) for x in sizes])
    rank = np.maximum(above, 1) / max(some.shape[1], 1)
    return np.clip(np.floor(-np.log2(rank)), 0, LEVELS - 1).astype(np.uint8)


def limits(some: np.ndarray, levels: np.ndarray, edges: np.ndarray, n: int) -> np.ndarray:
    """(classes,) uint64: of 2^32 entries so many of each class are to be picked from n."""
    bins = np.searchsorted(edges[1:-1], np.abs(some), side="right")
    rarest = np.max([own[at] for own, at in zip(levels, bins, strict=True)], axis=0)
    there = np.bincount(rarest, minlength=LEVELS) * n / max(some.shape[1], 1)
    rates = np.minimum(PICKED * len(some) / np.maximum(there, 1), 1)
    return (np.repeat(rates, loops.KINDS) * (SHARES[_kinds()] > 0) * 2**32).astype(np.uint64)


def _kinds() -> np.ndarray:
    return np.tile(np.arange(loops.KINDS), LEVELS)


def draw(found: np.ndarray, classes: np.ndarray, totals: np.ndarray) -> Drawn:
    """About SIZE entries a parent of those picked from a tensor.

    found: (P, picked); classes: (picked,); totals: of each class the entries that the tensor has.
    """
    there = np.bincount(classes, minlength=len(totals))
    rates = np.divide(_quotas(there, SIZE * len(found)), there, where=there > 0, out=np.zeros(len(there)))
    order = _along(found, classes)
    steps = np.floor(np.cumsum(rates[classes[order]]) + 0.5)
    taken = order[np.diff(steps, prepend=0) > 0]
    lengths = np.bincount(classes[taken], minlength=len(totals))
    some = lengths > 0
    return Drawn(found[:, taken], lengths[some], totals[some] / lengths[some])


def _quotas(there: np.ndarray, left: float) -> np.ndarray:
    """How many to take of each class: in proportion to SHARES, what a class does not have goes to others."""
    wanted, quotas = SHARES[_kinds()] * (there > 0), np.zeros(len(there))
    for c in np.argsort(there / np.maximum(wanted, 1e-9)):
        quotas[c] = min(there[c], left * wanted[c] / max(wanted.sum(), 1e-9))
        left, wanted[c] = left - quotas[c], 0
    return quotas


def _along(found: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The order of entries by class, then by the sign and the magnitude's upper bits of each parent."""
    index = int(classes.size).bit_length()
    some = found[:16]
    room = min((58 - index) // len(some), 12)  # bits of a parent: sign, exponent and three more at best
    key = classes.astype(np.uint64)
    for x in some:
        key = key << np.uint64(room) | (x.view(np.uint32) >> np.uint32(32 - room)).astype(np.uint64)
    key = np.sort(key << np.uint64(index) | np.arange(classes.size, dtype=np.uint64))
    return (key & np.uint64((1 << index) - 1)).astype(np.int64)
