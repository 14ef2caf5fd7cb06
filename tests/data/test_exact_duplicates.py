"""Exact duplicates: every text once, growth, tables on disk that leave no file behind."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import strategies  # noqa: F401  # its settings

from lrnb.data.character_kinds import CODE_POINTS, code_points_of
from lrnb.data.disk_table import DiskTable
from lrnb.data.exact_duplicates import FIRST, ExactDuplicates
from lrnb.data.text_loops import DUPLICATE, EMPTY, OTHER_LANGUAGE, OTHER_SCRIPT, summaries
from lrnb.errors import UserError


def hashes(texts: list[str]) -> np.ndarray:
    return summaries(*code_points_of(texts), np.zeros(CODE_POINTS, np.uint8))[0]


def marked(known: ExactDuplicates, own: np.ndarray) -> list[bool]:
    """Which hashes were remembered already; the others are from here on."""
    known.mark(fates := np.zeros(len(own), np.uint8), own)
    assert set(fates.tolist()) <= {0, DUPLICATE}
    return (fates == DUPLICATE).tolist()


def test_a_text_is_new_once_also_after_the_table_has_grown() -> None:
    known, texts = ExactDuplicates(), [f"text {n}" for n in range(2 * FIRST)]
    assert not known.known(hashes(texts)).any()
    assert not any(marked(known, hashes(texts[:FIRST])) + marked(known, hashes(texts[FIRST:])))
    assert known.known(hashes(texts)).all() and all(marked(known, hashes(texts)))
    assert marked(known, hashes(["text", "text 0", "text"])) == [False, True, True]
    assert len(known._places) >= 2 * len(texts)  # half of it stays empty, so that a search ends soon


def test_hashes_that_share_a_place_are_told_apart() -> None:
    known, own = ExactDuplicates(), np.array([5, 5 + FIRST, 5 + 2 * FIRST], np.uint64)
    assert marked(known, own) == [False] * 3 and marked(known, own) == [True] * 3
    assert marked(known, own + np.uint64(3 * FIRST)) == [False] * 3


def test_what_is_empty_or_in_another_script_is_not_remembered() -> None:
    known, own = ExactDuplicates(), np.array([7, 8, 9], np.uint64)
    known.mark(np.array([EMPTY, OTHER_SCRIPT, OTHER_LANGUAGE], np.uint8), own)
    assert known.known(own).tolist() == [False, False, True]


@given(st.lists(st.text(max_size=30), min_size=1))
def test_texts_have_one_hash_if_they_are_equal(texts: list[str]) -> None:
    own = dict(zip(texts, hashes(texts).tolist(), strict=True))
    assert len({*own.values()}) == len(own) and 0 not in own.values()
    assert [*own.values()] == hashes([*own]).tolist()


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
