"""File rights that count for root too, so that they can be tested as root."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSION = 0x20080522  # of Linux' capget and capset
PAST_RIGHTS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """For a while `path` may not be read by this thread and those it starts."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with _as_others():
            yield
    finally:
        path.chmod(mode)


@contextlib.contextmanager
def _as_others() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    libc, head = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(VERSION, 0)
    before, less = ((ctypes.c_uint32 * 6)() for _ in range(2))
    if libc.capget(head, before):
        pytest.skip("the capabilities of this process cannot be asked for")
    less[:] = before[:]
    less[0] &= ~PAST_RIGHTS
    if libc.capset(head, less):
        pytest.skip("this process may not give up rights")
    try:
        yield
    finally:
        libc.capset(head, before)
