"""The k-th magnitude against a sort, whatever the sample says; trimming against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import values

from lrnb import select

lists = st.lists(values, min_size=1, max_size=60)


def pieces(x: np.ndarray, step: int):
    return lambda: (x[i : i + step] for i in range(0, len(x), step))


def check(x: np.ndarray, k: int, step: int) -> None:
    found = select.kth_magnitude(pieces(x, step), k)
    wanted = np.sort(np.abs(x))[::-1][k - 1]
    assert found.value == wanted
    assert found.above == np.count_nonzero(np.abs(x) > wanted)
    assert found.equal == np.count_nonzero(np.abs(x) == wanted)


@given(lists, st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 4, 1 << 16]))
def test_equals_a_sort(x, k, step, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "SAMPLE", sample)  # a tiny sample misses often and has to widen
        check(np.array(x, np.float32), min(k, len(x)), step)


@pytest.mark.parametrize("make", ["normal", "bfloat16", "one value", "mostly zero", "sorted"])
def test_equals_a_sort_where_sampling_happens(make):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(300_000).astype(np.float32)
    if make == "bfloat16":
        x = x.astype(reference.BF16).astype(np.float32)
    if make == "one value":
        x[:] = 0.25
    if make == "mostly zero":
        x[rng.random(x.size) < 0.97] = 0
    if make == "sorted":
        x.sort()
    for k in (1, 2, 3_000, 150_000, 299_999, 300_000):
        check(x, k, 70_001)


def test_sampled_values_that_mislead_are_caught(monkeypatch):
    """A sample of only the smallest values: the first brackets miss, the answer stays exact."""
    x = np.arange(1, 200_001, dtype=np.float32)
    monkeypatch.setattr(select, "_sample", lambda arrays, n: np.arange(1, 1001, dtype=np.float32))
    check(x, 10, 50_000)


def test_a_sample_of_one_repeated_value_is_no_proof(monkeypatch):
    x = np.repeat(np.float32([3, 2, 1]), 100)
    monkeypatch.setattr(select, "_sample", lambda arrays, n: np.full(1000, 2, np.float32))
    for k in (1, 100, 101, 200, 201, 250, 300):
        check(x, k, 50)


@pytest.mark.parametrize("k", [0, 4])
def test_rank_outside_is_an_error(k):
    with pytest.raises(ValueError, match=r"not in 1\.\.3"):
        select.kth_magnitude(lambda: [np.ones(3, np.float32)], k)


@given(
    lists, st.sampled_from([0.01, 0.3, 0.5, 1.0]), st.sampled_from(["keep-all", "exact"]), st.integers(1, 9)
)
def test_trimming_equals_its_definition(x, density, policy, step):
    x = np.array(x, np.float32)
    cut = select.find_cut(pieces(x, step), len(x), density, policy)
    trimmer = select.Trimmer(cut)
    got = np.concatenate([trimmer(piece) for piece in pieces(x, step)()])
    assert np.array_equal(got, np.array(reference.trim(list(x), density, policy), np.float32))


def test_ties_at_the_threshold_by_hand():
    x = np.float32([1, -2, 2, 3, 2, 0])
    keep_all = select.find_cut(lambda: [x], 6, 0.5)  # k = 3; three entries share the magnitude 2
    exact = select.find_cut(lambda: [x], 6, 0.5, "exact")
    assert select.Trimmer(keep_all)(x).tolist() == [0, -2, 2, 3, 2, 0]
    assert select.Trimmer(exact)(x).tolist() == [0, -2, 2, 3, 0, 0]


def test_zeros_are_never_kept():
    x = np.float32([0, 0, 5, 0])
    for policy in ("keep-all", "exact"):
        trimmed = select.Trimmer(select.find_cut(lambda: [x], 4, 1.0, policy))(x)
        assert np.count_nonzero(trimmed) == 1
