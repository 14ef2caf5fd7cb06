"""Gathered rows read as the array that they stand for, and written rows land where they belong."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnb.checkpoints.rows import GatheredRows, picked, placed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.data())
def test_gathered_rows_read_as_their_array(rows: int, width: int, data: st.DataObject) -> None:
    table = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    ids = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=12)), np.int64)
    whole, some = table[ids].reshape(-1), picked(table, ids)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    assert some.shape == table[ids].shape and some.size == whole.size and some.nbytes == whole.nbytes
    assert np.array_equal(some.reshape(-1)[start:stop], whole[start:stop])
    at = np.array(
        data.draw(st.lists(st.integers(0, max(len(whole) - 1, 0)), max_size=5 if len(whole) else 0)), int
    )
    assert np.array_equal(GatheredRows(table, ids).at(at), whole[at])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.data())
def test_every_entry_is_placed_once_and_in_its_row(width: int, data: st.DataObject) -> None:
    slots = np.array(sorted(data.draw(st.sets(st.integers(0, 15), min_size=1))), np.int64)
    values, found = np.arange(len(slots) * width) + 1, np.zeros((16, width), int)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(values)))) | {0, len(values)})
    for start, stop in pairwise(cuts):
        for at, part in placed(slots, width, start, values[start:stop]):
            assert not found.reshape(-1)[at : at + len(part)].any()
            found.reshape(-1)[at : at + len(part)] = part
    assert np.array_equal(found[slots].reshape(-1), values) and found.sum() == values.sum()


def test_rows_that_follow_each_other_are_a_view() -> None:
    table = np.zeros((6, 2))
    assert np.shares_memory(picked(table, np.arange(1, 5)), table)
    assert isinstance(picked(table, np.array([1, 3])), GatheredRows)
