"""What computes: one `Cpu` a thread, on loops compiled by numba. `lrnb/device.py` has the same on torch.

A worker holds scratch memory of a fixed size and goes through one span at a time. Every method is a
pure function of its span, so results do not depend on the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from lrnb.checkpoints import BFLOAT16

S = TypeVar("S")
W = TypeVar("W")
T = TypeVar("T")
Bounds = tuple[np.ndarray, np.ndarray]  # low and high, float32, one a parent
ONE = np.float32(1)
NONE = np.float32(-1)  # a slack that wins nothing back


class Operands(NamedTuple):
    """A span's base and parents, 1-D of one type; `wide`: base is 0 and the parents are deltas.

    `key` names the span for workers that keep what they have loaded.
    """

    base: np.ndarray
    parents: tuple[np.ndarray, ...]
    wide: bool
    key: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Ballot:
    """Everything that decides one span: thresholds and weights a parent, float32, and the slack.

    zero: the sign that an exact zero sum takes. own: the parent that slack protects, -1 for none.
    xi: the largest margin won back; `by_sum` says how it is measured (lrnb/ties_sv.py).
    """

    thresholds: np.ndarray
    weights: np.ndarray
    zero: np.float32 = ONE
    own: int = -1
    xi: np.float32 = NONE
    by_sum: bool = True
    lam: np.float32 = ONE
    mean: bool = True


class Scan(NamedTuple):
    """Magnitudes around a bracket: how many above it, equal to its ends, and the values inside, in order."""

    over: int
    at_high: int
    at_low: int
    inside: np.ndarray


class View(NamedTuple):
    """What the pass before a merge sees: the elected + minus the elected -, and the losses of one parent."""

    lead: int
    lost: int = 0
    even: tuple[int, int] = (0, 0)  # exact ties with others, by the sign of the protected entry: -, +
    margins: Scan = Scan(0, 0, 0, np.empty(0, np.float32))


class Tally(NamedTuple):
    """Counts of one merged span; kept and lost have one a parent. bad: results that are not finite."""

    conflicts: int
    overlap: int
    reserved: int
    bad: int
    kept: np.ndarray
    lost: np.ndarray


class Joint(NamedTuple):
    """Histograms of a span's two task vectors; the arrays of `conflict_kernels.joint`."""

    table: np.ndarray
    own: np.ndarray
    ties: np.ndarray
    moments: np.ndarray


class Account(NamedTuple):
    """An election counted exactly: (COUNTS,) and (MASSES, 2), by parent; indices of `conflict_kernels`."""

    counts: np.ndarray
    masses: np.ndarray


class Worker(Protocol):
    span: int  # entries it takes at once

    def scan(self, data: Operands, bounds: Bounds) -> tuple[list[Scan], int]: ...
    def position(self, data: Operands, parent: int, value: np.float32, rank: int) -> int: ...
    def vote(self, data: Operands, ballot: Ballot) -> View: ...
    def observe(self, data: Operands, ballot: Ballot, low: np.float32, high: np.float32) -> View: ...
    def ties(self, data: Operands, ballot: Ballot, dtype: np.dtype) -> tuple[np.ndarray, Tally]: ...
    def average(
        self, data: Operands, shares: np.ndarray, keep: bool, dtype: np.dtype
    ) -> tuple[np.ndarray, int]: ...
    def arithmetic(self, data: Operands, factors: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, int]: ...


class Cpu:
    """A worker on one CPU thread; about (1 + parents) * 2 MB of scratch."""

    span = 1 << 19

    def __init__(self, parents: int) -> None:
        from lrnb import kernels, merge_kernels

        self.looks, self.loops, self.parents = kernels, merge_kernels, parents
        self.pad = np.empty((kernels.ROWS + parents, kernels.BLOCK), np.float32)
        self.room = np.empty((parents, 0), np.float32)
        self.out = np.empty(0, np.float32)

    def _room(self, n: int) -> np.ndarray:
        if self.room.shape[1] < n:
            self.room = np.empty((self.parents, n), np.float32)
        return self.room

    def _out(self, data: Operands, dtype: np.dtype) -> np.ndarray:
        """The buffer for a result; fresh memory for every span would cost more than filling it."""
        n = len(data.base)
        if len(self.out) < n:
            self.out = np.empty(n, np.float32)
        bits = dtype == BFLOAT16 and not data.wide
        return self.out.view(np.uint16)[:n] if bits else self.out[:n]

    def scan(self, data: Operands, bounds: Bounds) -> tuple[list[Scan], int]:
        """A Scan of |delta| for each parent, and the number of deltas that are not finite."""
        counts, room = np.zeros((self.parents, 4), np.int64), self._room(len(data.base))
        bad = self.looks.scan(data.base, data.parents, self.pad, *bounds, counts, room)
        found = [Scan(c[0], c[1], c[2], x[: c[3]].copy()) for c, x in zip(counts.tolist(), room, strict=True)]
        return found, int(bad)

    def position(self, data: Operands, parent: int, value: np.float32, rank: int) -> int:
        """The index of the `rank`-th entry, from 1, at which a parent's |delta| is `value`."""
        return int(self.looks.position(data.base, data.parents[parent], value, rank))

    def vote(self, data: Operands, ballot: Ballot) -> View:
        """The lead alone."""
        return View(int(self.looks.vote(*data[:2], self.pad, ballot.thresholds, ballot.weights)))

    def observe(self, data: Operands, ballot: Ballot, low: np.float32, high: np.float32) -> View:
        """The lead, and a Scan of the margins at which `ballot.own` loses."""
        counts, level, room = np.zeros(5, np.int64), np.zeros(2, np.int64), self._room(len(data.base))[0]
        lead = self.looks.observe(
            *data[:2], self.pad, ballot.thresholds, ballot.weights, ballot.own, low, high, counts, room, level
        )
        over, at_high, at_low, within, lost = map(int, counts)
        margins = Scan(over, at_high, at_low, room[:within].copy())
        return View(int(lead), lost, (int(level[0]), int(level[1])), margins)

    def ties(self, data: Operands, ballot: Ballot, dtype: np.dtype) -> tuple[np.ndarray, Tally]:
        """The merged span, valid until the next call, and its counts."""
        out, p = self._out(data, dtype), self.parents
        counts = np.zeros(self.loops.PARENTS + 2 * p, np.int64)
        b = ballot
        self.loops.ties(
            *data[:2], self.pad, b.thresholds, b.weights, b.zero, b.own, b.xi, b.by_sum, b.lam, b.mean,
            out, counts,
        )  # fmt: skip
        per = counts[self.loops.PARENTS :]
        n = counts.tolist()
        return _as(out), Tally(n[0], n[1], n[2], n[3], per[:p], per[p:])

    @staticmethod
    def no_joint() -> Joint:
        """Empty histograms, to add to."""
        from lrnb import conflict_kernels as loops

        shapes = ((2, loops.BINS, loops.BINS), (2, loops.PLACES), (2, loops.BINS))
        table, own, ties = (np.zeros(shape, np.uint32) for shape in shapes)
        return Joint(table, own, ties, np.zeros((2, loops.MOMENTS)))

    def joint(self, data: Operands) -> Joint:
        """Histograms and moments of two task vectors."""
        from lrnb import conflict_kernels as loops

        found, places = self.no_joint(), np.empty((2, self.pad.shape[1]), np.uint32)
        lanes, highs = np.zeros(loops.SUMS * loops.LANES), np.zeros(2, np.uint32)
        loops.joint(*data[:2], self.pad, places, *found[:3], lanes, highs)
        sums = lanes.reshape(loops.SUMS, loops.LANES).sum(axis=1)
        found.moments[:, loops.L1], found.moments[:, loops.L2] = sums[:2], sums[2:4]
        found.moments[:, loops.MAX], found.moments[0, loops.CROSS] = highs.view(np.float32), sums[4]
        return found

    def account(self, data: Operands, ballot: Ballot) -> Account:
        """What one election of two parents keeps, drops and wins back; needs `ballot.own`."""
        from lrnb import conflict_kernels as loops

        counts, lanes = np.zeros(loops.COUNTS, np.int64), np.zeros((2, loops.MASSES * loops.LANES))
        b = ballot
        loops.account(
            *data[:2], self.pad, b.thresholds, b.weights, b.zero, b.own, b.xi, b.by_sum, counts, lanes
        )
        return Account(counts, lanes.reshape(2, loops.MASSES, loops.LANES).sum(axis=2).T)

    def average(
        self, data: Operands, shares: np.ndarray, keep: bool, dtype: np.dtype
    ) -> tuple[np.ndarray, int]:
        """The merged span, valid until the next call; how many entries of it or of base are not finite.

        keep: an entry that is equal in all parents is kept as it is.
        """
        out, counts = self._out(data, dtype), np.zeros(self.loops.PARENTS, np.int64)
        self.loops.average(*data[:2], self.pad, shares, keep, out, counts)
        return _as(out), int(counts[self.loops.BAD])

    def arithmetic(self, data: Operands, factors: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, int]:
        """The merged span, valid until the next call; how many of its entries are not finite."""
        out, counts = self._out(data, dtype), np.zeros(self.loops.PARENTS, np.int64)
        self.loops.arithmetic(*data[:2], self.pad, factors, out, counts)
        return _as(out), int(counts[self.loops.BAD])


def _as(out: np.ndarray) -> np.ndarray:
    """uint16 bits as bfloat16; other results stay float32 until they are rounded by the caller."""
    return out.view(BFLOAT16) if out.dtype == np.uint16 else out


def run_all(workers: Sequence[W], items: Sequence[S], one: Callable[[W, S], T]) -> list[T]:
    """`one(worker, item)` for every item, each worker on a thread; results in the items' order.

    The first error stops all workers and is raised.
    """
    results: list[T | None] = [None] * len(items)
    todo = iter(enumerate(items))  # taking from it is atomic under the GIL

    def loop(worker: W) -> None:
        try:
            for i, item in todo:
                results[i] = one(worker, item)
        except BaseException:
            deque(todo, 0)
            raise

    if len(workers) == 1 or len(items) < 2:
        loop(workers[0])
        return results  # type: ignore[return-value]
    with ThreadPoolExecutor(min(len(workers), len(items))) as pool:
        try:
            for done in [pool.submit(loop, worker) for worker in workers[: len(items)]]:
                done.result()
        except BaseException:  # an interrupt reaches only this thread
            deque(todo, 0)
            raise
    return results  # type: ignore[return-value]
