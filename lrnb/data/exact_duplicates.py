"""Texts that are the same as an earlier one, by 64 bits of their hash: 16 to 32 bytes a text, on disk.

Two different texts among n are taken for the same with a chance of n**2 / 2**65: 3e-5 in 100 GB of documents
of 3 kB.
"""

from __future__ import annotations

import numpy as np

from lrnb.data.disk_table import DiskTable

FIRST = 1 << 12  # places at the start


class ExactDuplicates:
    """Remembers texts by their hashes, and says of new ones whether they were there."""

    def __init__(self) -> None:
        self._known = 0
        self._places = DiskTable(FIRST, 1, np.uint64).values.ravel()

    def mark(self, fates: np.ndarray, hashes: np.ndarray) -> None:
        """Marks in `fates` (`text_loops`) what is the same as an earlier text, remembers the others."""
        from lrnb.data.text_loops import mark_exact

        while 2 * (self._known + len(hashes)) > len(self._places):
            self._grow()
        self._known += mark_exact(fates, hashes, self._places)

    def known(self, hashes: np.ndarray) -> np.ndarray:
        """Which hashes are surely remembered; any thread may ask, while another one remembers more."""
        from lrnb.data.text_loops import are_known

        return are_known(hashes, self._places)

    def _grow(self) -> None:
        """Twice the places, so that at least half of them stay empty and a search ends soon."""
        from lrnb.data.text_loops import put_in

        larger = DiskTable(2 * len(self._places), 1, np.uint64).values.ravel()
        for start in range(0, len(self._places), FIRST):
            part = self._places[start : start + FIRST]
            put_in(part[part > 0], larger)
        self._places = larger
