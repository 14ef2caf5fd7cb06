"""Texts that are the same as an earlier one, by 64 bits of their hash: 16 to 32 bytes a text, on disk.

Two different texts among n are taken for the same with a chance of n**2 / 2**65: 3e-5 in 100 GB of documents
of 3 kB.
"""

from __future__ import annotations

import hashlib

from lrnb.data.disk_table import DiskTable

FIRST = 1 << 12  # places at the start


class ExactDuplicates:
    """Remembers texts, and says of a new one whether it was there."""

    def __init__(self) -> None:
        self._known = 0
        self._renew(FIRST)

    def twin(self, text: str) -> bool:
        """Whether the text is the same as one remembered; it is remembered where it is not."""
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "little") or 1  # 0 is an empty place
        if self._places[place := self._place(key)]:
            return True
        self._places[place] = key
        self._known += 1
        if 2 * self._known > len(self._places):
            self._grow()
        return False

    def _place(self, key: int) -> int:
        """Where a key lies, or the empty place that it goes to."""
        places, last = self._places, len(self._places) - 1
        place = key & last
        while places[place] not in (0, key):
            place = (place + 1) & last
        return place

    def _renew(self, size: int) -> None:
        self._places = DiskTable(size, 1, "uint64").values.ravel().data

    def _grow(self) -> None:
        before = self._places
        self._renew(2 * len(before))
        for key in before:
            if key:
                self._places[self._place(key)] = key
