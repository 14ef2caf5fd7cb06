"""What computes: one `Cpu` a thread, on loops compiled by numba. `lrnb/merging/gpu.py` has the same on torch.

A worker holds scratch memory of a fixed size and goes through one span at a time. Every method is a
pure function of its span, so results do not depend on the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from lrnb.checkpoints.reading import BFLOAT16

S = TypeVar("S")
W = TypeVar("W")
T = TypeVar("T")
Bounds = tuple[np.ndarray, np.ndarray]  # low and high, float32, one a parent
#: (task vectors, one array a parent; index of their first entry in the tensor) -> what is added to the base
Formula = Callable[[list[Any], int], Any]
ONE = np.float32(1)
NONE = np.float32(-1)  # a slack that wins nothing back
BLOCK = 1 << 15  # entries that a formula of whole arrays takes at once: they stay in the cache


class Operands(NamedTuple):
    """A span's base and parents, 1-D: all bfloat16, as its uint16 bits, else float32; base is float64 where
    it is stored so, and the parents are where one of them is.

    `key` names the span for workers that keep what they have loaded.
    """

    base: np.ndarray
    parents: tuple[np.ndarray, ...]
    key: tuple[str, int, int]


@dataclass(frozen=True)
class Ballot:
    """Everything that decides one span: thresholds and weights, one a parent, and the slack.

    zero: the sign that an exact zero sum takes. own: the parent that slack protects, -1 for none.
    xi: the largest margin won back; `by_sum` says how it is measured (lrnb/merging/methods/ties_sv.py).
    """

    thresholds: tuple[np.float32, ...]
    weights: tuple[np.float32, ...]
    zero: np.float32 = ONE
    own: int = -1
    xi: np.float32 = NONE
    by_sum: bool = True
    lam: np.float32 = ONE
    normalize: bool = True


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


class Worker(Protocol):
    span: int  # entries it takes at once

    def scan(self, data: Operands, bounds: Bounds) -> tuple[list[Scan], int]: ...
    def position(self, data: Operands, parent: int, value: np.float32, rank: int) -> int: ...
    def vote(self, data: Operands, ballot: Ballot) -> View: ...
    def observe(self, data: Operands, ballot: Ballot, low: np.float32, high: np.float32) -> View: ...
    def losses(self, data: Operands, ballot: Ballot) -> np.ndarray: ...
    def ties(
        self, data: Operands, ballot: Ballot, dtype: np.dtype, won: np.ndarray | None = None
    ) -> tuple[np.ndarray, Tally]: ...
    def average(
        self, data: Operands, shares: Sequence[float], keep: bool, dtype: np.dtype
    ) -> tuple[np.ndarray, int]: ...
    def arithmetic(
        self, data: Operands, factors: Sequence[float], dtype: np.dtype
    ) -> tuple[np.ndarray, int]: ...
    def step(
        self, data: Operands, formula: Formula, dtype: np.dtype, row: int = 1
    ) -> tuple[np.ndarray, int]: ...
    def look(self, data: Operands, look: Callable[[list[Any], int], T]) -> list[T]: ...
    def deltas_at(self, data: Operands, parent: int, where: np.ndarray) -> np.ndarray: ...
    def gram(self, data: Operands, of: str) -> np.ndarray: ...
    def mass(self, data: Operands, thresholds: Sequence[np.float32]) -> np.ndarray: ...
    def products(self, data: Operands, width: int, by_row: bool) -> np.ndarray: ...
    def as_array(self, x: np.ndarray) -> Any: ...
    def as_numpy(self, x: Any) -> np.ndarray: ...


class Cpu:
    """A worker on one CPU thread; about (2 + parents) * 2 MB of scratch."""

    span = 1 << 19

    def __init__(self, parents: int) -> None:
        from lrnb.merging import kernels

        self.loops, self.parents = kernels, parents
        self.room = np.empty((parents, 0), np.float32)
        self.out = np.empty(0)

    def scan(self, data: Operands, bounds: Bounds) -> tuple[list[Scan], int]:
        """A Scan of |delta| for each parent, and the number of deltas that are not finite."""
        counts, room = np.zeros((self.parents, 4), np.int64), self._room(len(data.base))
        bad = self.loops.scan(data.base, data.parents, *bounds, counts, room)
        found = [Scan(c[0], c[1], c[2], x[: c[3]].copy()) for c, x in zip(counts.tolist(), room, strict=True)]
        return found, int(bad)

    def position(self, data: Operands, parent: int, value: np.float32, rank: int) -> int:
        """The index of the `rank`-th entry, from 1, at which a parent's |delta| is `value`."""
        return int(self.loops.position(data.base, data.parents[parent], value, rank))

    def vote(self, data: Operands, ballot: Ballot) -> View:
        """The lead alone."""
        return View(int(self.loops.vote(*data[:2], ballot.thresholds, ballot.weights)))

    def observe(self, data: Operands, ballot: Ballot, low: np.float32, high: np.float32) -> View:
        """The lead, and a Scan of the margins at which `ballot.own` loses."""
        counts, level, room = np.zeros(5, np.int64), np.zeros(2, np.int64), self._room(len(data.base))[0]
        lead = self.loops.observe(
            *data[:2], ballot.thresholds, ballot.weights, ballot.own, low, high, counts, room, level
        )
        over, at_high, at_low, within, lost = counts.tolist()
        margins = Scan(over, at_high, at_low, room[:within].copy())
        return View(int(lead), lost, (int(level[0]), int(level[1])), margins)

    def losses(self, data: Operands, ballot: Ballot) -> np.ndarray:
        """The indices in the span at which `ballot.own` loses a conflict, ascending."""
        found = np.empty(len(data.base) + 1, np.int64)
        return found[
            : self.loops.lost_at(*data[:2], ballot.thresholds, ballot.weights, ballot.zero, ballot.own, found)
        ].copy()

    def ties(
        self, data: Operands, ballot: Ballot, dtype: np.dtype, won: np.ndarray | None = None
    ) -> tuple[np.ndarray, Tally]:
        """The merged span, valid until the next call, and its counts.

        won: some of `losses`, which `ballot.own` wins back, whatever their margins.
        """
        out, b = self._out(data.base, dtype), ballot
        won = np.empty(0, np.int64) if won is None else won
        counts = np.zeros(self.loops.PARENTS + 2 * self.parents, np.int64)
        self.loops.merge_ties(
            *data[:2], b.thresholds, b.weights, b.zero, b.own, b.xi, b.by_sum, b.lam, b.normalize, won,
            out, counts,
        )  # fmt: skip
        kept, lost = counts[self.loops.PARENTS :].reshape(2, -1)
        conflicts, overlap, reserved, bad = counts[: self.loops.PARENTS].tolist()
        return _as(out), Tally(conflicts, overlap, reserved, bad, kept, lost)

    def average(
        self, data: Operands, shares: Sequence[float], keep: bool, dtype: np.dtype
    ) -> tuple[np.ndarray, int]:
        """The merged span, valid until the next call; how many entries of it or of base are not finite.

        keep: an entry that is equal in all parents is kept as it is.
        """
        first = data.parents[0]
        real = np.float64 if first.dtype == np.float64 else np.float32
        out = self._out(first, dtype)
        bad = self.loops.merge_average(*data[:2], tuple(map(real, shares)), keep, out)
        return _as(out), int(bad)

    def arithmetic(self, data: Operands, factors: Sequence[float], dtype: np.dtype) -> tuple[np.ndarray, int]:
        """The merged span, valid until the next call; how many of its entries are not finite."""
        out = self._out(data.base, dtype)
        bad = self.loops.arithmetic(*data[:2], tuple(map(np.float32, factors)), out)
        return _as(out), int(bad)

    def step(self, data: Operands, formula: Formula, dtype: np.dtype, row: int = 1) -> tuple[np.ndarray, int]:
        """base + formula(task vectors), valid until the next call; how many entries are not finite, of the
        task vectors or of the result. The formula is called for a few entries at a time, for whole rows of
        `row` where the span holds such."""
        out, bad = self._out(data.base, dtype), 0
        for part, taus, odd in self._blocks(data, row):
            step = np.ascontiguousarray(formula(list(taus), data.key[1] + part.start), np.float32)
            bad += odd + int(self.loops.add(data.base[part], step, out[part]))
        return _as(out), bad

    def look(self, data: Operands, look: Callable[[list[Any], int], T]) -> list[T]:
        """What `look` says of the task vectors, some entries at a time: portions that follow from the
        span."""
        return [look(list(taus), data.key[1] + part.start) for part, taus, _ in self._blocks(data)]

    def _blocks(self, data: Operands, row: int = 1) -> Iterator[tuple[slice, tuple[np.ndarray, ...], int]]:
        """(where, task vectors, how many of these are not finite); the arrays are used again."""
        size = max(BLOCK // row, 1) * row
        room = self._room(size)
        for start in range(0, len(data.base), size):
            part = slice(start, min(start + size, len(data.base)))
            taus = tuple(line[: part.stop - start] for line in room)
            odd = self.loops.deltas(data.base[part], tuple(x[part] for x in data.parents), taus)
            yield part, taus, int(odd)

    def deltas_at(self, data: Operands, parent: int, where: np.ndarray) -> np.ndarray:
        """A parent's task vector at some indices of the span, float32."""
        return np.asarray(self.loops.deltas_at(data.base, data.parents[parent], where))

    def gram(self, data: Operands, of: str) -> np.ndarray:
        """(parents, parents) float64: the dot products of a span's "parents" or of their "deltas"."""
        lanes = np.zeros((self.parents, self.parents, self.loops.LANES))
        self.loops.gram(*data[:2], of == "deltas", lanes)
        lower = lanes.sum(axis=2)
        return lower + np.tril(lower, -1).T

    def mass(self, data: Operands, thresholds: Sequence[np.float32]) -> np.ndarray:
        """(parents,) float64: the sums of |task vector| over the entries that reach the thresholds."""
        lanes = np.zeros((self.parents, self.loops.LANES))
        self.loops.mass(*data[:2], tuple(thresholds), lanes)
        return np.asarray(lanes.sum(axis=1))

    def products(self, data: Operands, width: int, by_row: bool) -> np.ndarray:
        """(2 * parents + 1, columns) float64 of whole rows of a matrix, see `columns.products`."""
        sums = np.zeros((2 * self.parents + 1, len(data.base) // width if by_row else width))
        (self.loops.row_products if by_row else self.loops.column_products)(*data[:2], width, sums)
        return sums

    def as_array(self, x: np.ndarray) -> np.ndarray:
        """An array where this worker computes."""
        return x

    def as_numpy(self, x: np.ndarray) -> np.ndarray:
        """Its result in main memory."""
        return x

    def _room(self, n: int) -> np.ndarray:
        if self.room.shape[1] < n:
            self.room = np.empty((self.parents, n), np.float32)
        return self.room

    def _out(self, like: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The buffer for a result: float64 as `like`, the bits of bfloat16 as `dtype`, or float32.

        Fresh memory for every span would cost more than filling it.
        """
        if len(self.out) < len(like):
            self.out = np.empty(len(like))
        narrow = np.uint16 if dtype == BFLOAT16 else np.float32
        return self.out.view(like.dtype if like.dtype == np.float64 else narrow)[: len(like)]


def _as(out: np.ndarray) -> np.ndarray:
    """uint16 bits as bfloat16; other results are rounded by the caller."""
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
