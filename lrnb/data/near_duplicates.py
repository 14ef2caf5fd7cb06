"""Texts that are nearly the same as an earlier one: MinHash of shingles (Broder 1997), found by LSH.

Shingles are of characters, since not every script has spaces. What an earlier text leaves behind is a sketch
and its places in the bands: 200 bytes, whatever its length, in tables on disk.
"""

from __future__ import annotations

import numpy as np

from lrnb.data.disk_table import DiskTable
from lrnb.data.text_loops import enter_all, mark_near, sketches_of

SHINGLE, PERMUTATIONS = 5, 64  # characters a shingle; hash functions of MinHash
RECALL = 0.95  # least chance that two texts as like as the threshold are compared at all
FIRST = 1 << 10  # texts there is room for at the start


def rows_a_band(threshold: float) -> int:
    """The most rows a band may have for RECALL at `threshold`: the fewest needless comparisons."""
    fits = [r for r in range(1, PERMUTATIONS + 1) if _recall(threshold, r) >= RECALL]
    return max(fits, default=1)


def _recall(threshold: float, rows: int) -> float:
    return 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows)


class NearDuplicates:
    """Remembers texts, and says of a new one whether it is a near duplicate of one of them.

    threshold: least Jaccard similarity of the sets of shingles, in (0, 1], estimated from PERMUTATIONS hash
    functions (standard error at most 0.07).
    """

    def __init__(self, threshold: float) -> None:
        self.rows, self.least = rows_a_band(threshold), int(np.ceil(threshold * PERMUTATIONS))
        bands = PERMUTATIONS // self.rows
        draw = np.random.default_rng(0)
        self._factors = draw.integers(0, 1 << 31, PERMUTATIONS, np.uint32) * np.uint32(2) + np.uint32(1)
        self._shifts = draw.integers(0, 1 << 32, PERMUTATIONS, np.uint32)
        self._sketches = DiskTable(FIRST, PERMUTATIONS, np.uint16)
        self._before = DiskTable(FIRST, bands, np.int32)
        self._slots = DiskTable(bands, 2 * FIRST, np.int32)
        self._known = 0

    def sketches(self, points: np.ndarray, ends: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The sketches of wanted texts among those that end at `ends` of the code points; by any thread."""
        return sketches_of(points, ends, wanted, SHINGLE, self._factors, self._shifts)

    def mark(self, fates: np.ndarray, sketches: np.ndarray) -> None:
        """Marks in `fates` (`text_loops`) what is like an earlier text; remembers what is kept."""
        while self._known + len(fates) > len(self._sketches.values):
            self._grow()
        self._known = mark_near(fates, sketches, self._known, self.rows, self.least, *self._index)

    @property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._sketches.values, self._slots.values, self._before.values

    def _grow(self) -> None:
        """Room for twice as many; each is put into its bands' places anew."""
        bands, slots = self._slots.values.shape
        for table in (self._sketches, self._before):
            table.grow(2 * len(table.values))
        self._slots = DiskTable(bands, 2 * slots, np.int32)
        enter_all(self._known, self.rows, *self._index)
