"""Rows of an embedding table picked by number: read a span at a time, put in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Rows of a table to be written, and where they come from.

    slots: (n,) ascending numbers in the table that is written; ids: {model: (n,) numbers in its own table}.
    """

    slots: np.ndarray
    ids: Mapping[str, np.ndarray]


class GatheredRows:
    """Rows `ids` of `table` as one table that is never made: a slice is read when it is asked for.

    Of an array it has what merging reads: shape, size, dtype, `reshape(-1)` and slices of that. Memory: one
    slice.
    """

    def __init__(self, table: np.ndarray, ids: np.ndarray, flat: bool = False) -> None:
        self.table, self.ids = table, ids
        self.width = int(np.prod(table.shape[1:], dtype=np.int64))
        self.dtype, self.size = table.dtype, len(ids) * self.width
        self.shape = (self.size,) if flat else (len(ids), *table.shape[1:])
        self.ndim, self.nbytes = len(self.shape), self.size * table.dtype.itemsize

    def reshape(self, _: int) -> GatheredRows:
        """The same entries in one dimension."""
        return GatheredRows(self.table, self.ids, flat=True)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, entries: slice) -> np.ndarray:
        """Entries start to stop of the flat table, as a 1-D array."""
        start, stop, _ = entries.indices(self.size)
        if start >= stop:
            return np.empty(0, self.dtype)
        first, last = start // self.width, -(-stop // self.width)
        rows = self.table[self.ids[first:last]].reshape(-1)
        return rows[start - first * self.width : stop - first * self.width]

    def at(self, entries: np.ndarray) -> np.ndarray:
        """Single entries of the flat table."""
        return self.table.reshape(len(self.table), -1)[self.ids[entries // self.width], entries % self.width]


def picked(table: np.ndarray, ids: np.ndarray) -> Any:
    """Rows `ids` of a table: a view where they follow each other, else `GatheredRows`."""
    if len(ids) and np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
        return table[ids[0] : ids[0] + len(ids)]
    return GatheredRows(table, ids) if len(ids) else table[:0]


def placed(slots: np.ndarray, width: int, start: int, values: Any) -> Iterator[tuple[int, Any]]:
    """Where entries from `start` on of a gathered table are written: (first entry, values) a run of slots."""
    stop = start + len(values)
    first, last = start // width, -(-stop // width)
    some = slots[first:last]
    edges = [0, *(np.flatnonzero(np.diff(some) != 1) + 1).tolist(), len(some)]
    for i, j in pairwise(edges):
        begin, end = max(start, (first + i) * width), min(stop, (first + j) * width)
        if begin < end:
            yield begin + (int(some[i]) - first - i) * width, values[begin - start : end - start]
