"""Tables that grow with a corpus, in files without a name, so that memory does not grow with them.

The files lie in the folder for temporary files (TMPDIR) and go with the process. Pages that are in use stay
in the system's cache; where memory is short it takes them back, unlike a program's own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import numpy as np

from lrnb.errors import UserError


class DiskTable:
    """`values`: an array of that shape and type, of zeros at first. UserError where the disk has no room."""

    def __init__(self, rows: int, columns: int, kind: Any) -> None:
        self._file = tempfile.TemporaryFile(prefix="lrnb-")  # noqa: SIM115 (it goes with the table)
        self._columns, self._kind = columns, kind
        self.values = np.empty((0, columns), kind)
        self.grow(rows)

    def grow(self, rows: int) -> None:
        """Room for so many rows; those that are there stay."""
        size = rows * self._columns * np.dtype(self._kind).itemsize
        with _room(size):
            self._file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a page that finds no room later would end the process
                os.posix_fallocate(self._file.fileno(), 0, size)
        shape = (rows, self._columns)
        self.values = np.asarray(np.memmap(self._file, self._kind, "r+", shape=shape))


@contextlib.contextmanager
def _room(size: int) -> Any:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: no room for a table of {size / 1e6:,.0f} MB, by which duplicates are "
            f"found or tokens kept for several passes ({error.strerror}). Free space there, or set TMPDIR to "
            "another folder"
        ) from None
