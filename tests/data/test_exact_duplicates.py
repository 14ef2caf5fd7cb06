"""Exact duplicates: every text once, growth, tables on disk that leave no file behind."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from lrnb.data.disk_table import DiskTable
from lrnb.data.exact_duplicates import FIRST, ExactDuplicates
from lrnb.errors import UserError


def test_a_text_is_new_once_also_after_the_table_has_grown() -> None:
    known, texts = ExactDuplicates(), [f"text {n}" for n in range(2 * FIRST)]
    assert not any(known.twin(text) for text in texts)
    assert all(known.twin(text) for text in texts)
    assert not known.twin("text") and known.twin("text")
    assert len(known._places) >= 2 * len(texts)  # half of it stays empty, so that a search ends soon


def test_hashes_that_share_a_place_are_told_apart() -> None:
    known, keys = ExactDuplicates(), [5, 5 + FIRST, 5 + 2 * FIRST]
    for key in keys:
        known._places[known._place(key)] = key
    assert [known._place(key) for key in [*keys, 5 + 3 * FIRST]] == [5, 6, 7, 8]


def test_rows_stay_when_a_table_grows_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = DiskTable(2, 3, np.int32)
    table.values[:] = [[1, 2, 3], [4, 5, 6]]
    table.grow(5)
    assert table.values.tolist() == [[1, 2, 3], [4, 5, 6], *[[0, 0, 0]] * 3]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room for a table of 8 MB.*No space left.*or set TMPDIR"):
        DiskTable(1_000_000, 1, "uint64")
