"""The formulas on arrays: by hand, the slow reference, torch, and the compiled loops an entry at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import reference
from support.strategies import GRID, weights

from lrnb.merging import formulas, kernels

F = np.float32
entries = st.one_of(st.sampled_from(GRID), st.floats(-100, 100, width=32))


@st.composite
def elections(draw) -> tuple[np.ndarray, list[np.ndarray], list[np.float32], list[np.float32]]:
    """(base, parents, thresholds, weights) of one to three parents, float32."""
    n, count = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    base, *parents = (draw(arrays(F, n, elements=entries)) for _ in range(count + 1))
    thresholds = [F(draw(st.sampled_from([0.0, 0.5, 1.0, 50.0]))) for _ in parents]
    return base, parents, thresholds, [F(draw(weights)) for _ in parents]


def test_six_numbers_by_hand():
    ct, sft = np.array([5, -3, 6, 2, -1, 0.0]), np.array([-3, 2, -1, 4, 3, -2.0])
    taus, ones = [ct, sft], (1.0, 1.0)
    assert formulas.trim(ct, 3).tolist() == [5, -3, 6, 0, 0, 0]
    gamma = formulas.elect(taus, ones, zero=1)
    assert gamma.tolist() == [1, -1, 1, 1, 1, -1]
    assert formulas.mean(taus, ones, gamma).tolist() == [5, -3, 6, 3, 3, -2]
    assert formulas.mean(taus, (2.0, 1.0), gamma, normalize=False).tolist() == [10, -6, 12, 8, 3, -2]
    assert formulas.conflict(taus).tolist() == [True, True, True, False, True, False]
    assert formulas.overlap(taus).tolist() == [True] * 5 + [False]
    assert formulas.discarded(sft, gamma).tolist() == [True, True, True, False, False, False]
    assert formulas.margin(taus, ones)[:3].tolist() == [2, 1, 5]
    for by_sum in (True, False):
        won = formulas.won_back(taus, ones, gamma, 1, 2.0, by_sum)
        assert won.tolist() == [True, True, False, False, False, False]
    assert formulas.elect([ct, -ct], ones, zero=-1).tolist() == [-1] * 6


@given(elections(), st.sampled_from([1, -1]), st.booleans())
def test_trim_elect_and_mean_equal_the_reference(election, zero, normalize):
    base, parents, thresholds, given_weights = election
    taus = formulas.trim_all([x - base for x in parents], thresholds)
    gamma = formulas.elect(taus, given_weights, zero)
    merged = formulas.mean(taus, given_weights, gamma, normalize)
    for i in range(len(base)):
        column = [x[i] - base[i] for x in parents]
        column = [x if abs(x) >= t else F(0) for x, t in zip(column, thresholds, strict=True)]
        total = F(0)
        for x, w in zip(column, given_weights, strict=True):
            total = total + x * w
        assert gamma[i] == (reference.sign(total) or zero)
        top, bottom = F(0), F(0)
        for x, w in zip(column, given_weights, strict=True):
            if reference.sign(x) == gamma[i]:
                top, bottom = top + x * w, bottom + w
        assert merged.dtype == F
        assert merged[i] == (top / bottom if normalize and bottom > 0 else top)


def on_arrays(taus, w, zero, own, xi, by_sum) -> dict:
    gamma = formulas.elect(taus, w, zero)
    return {
        "weighted sum": formulas.weighted_sum(taus, w),
        "gamma": gamma,
        "mean": formulas.mean(taus, w, gamma),
        "sum": formulas.mean(taus, w, gamma, normalize=False),
        "conflict": formulas.conflict(taus),
        "overlap": formulas.overlap(taus),
        "loses": formulas.discarded(taus[own], gamma),
        "won back": formulas.won_back(taus, w, gamma, own, xi, by_sum),
    }


@given(elections(), st.sampled_from([1, -1]), st.sampled_from([0.0, 0.5, 1.0, 60.0]), st.booleans())
def test_torch_gives_what_numpy_gives(election, zero, xi, by_sum):
    base, parents, thresholds, w = election
    deltas = [x - base for x in parents]
    taus = formulas.trim_all(deltas, thresholds)
    tensors = formulas.trim_all(map(torch.from_numpy, deltas), thresholds)
    wanted, found = (on_arrays(x, w, zero, len(w) - 1, F(xi), by_sum) for x in (taus, tensors))
    for name, tensor in found.items():
        assert np.array_equal(tensor.numpy(), wanted[name]), name
        assert tensor.dtype in (torch.float32, torch.bool)


@given(elections(), st.sampled_from([1, -1]), st.sampled_from([0.0, 0.5, 1.0, 60.0]), st.booleans())
def test_the_compiled_loops_compute_the_formulas(election, zero, xi, by_sum):
    base, parents, thresholds, w = election
    taus = formulas.trim_all([x - base for x in parents], thresholds)
    own = len(w) - 1
    wanted = on_arrays(taus, w, zero, own, F(xi), by_sum)
    zero = F(zero)
    for i in range(len(base)):
        here = (base, tuple(parents), i, tuple(thresholds))
        total = kernels.weighted_sum_at(*here, tuple(w))
        gamma = total if total != 0 else zero
        found = {
            "weighted sum": total,
            "gamma": np.sign(gamma),
            "mean": kernels.mean_at(*here, tuple(w), gamma, True),
            "sum": kernels.mean_at(*here, tuple(w), gamma, False),
            "conflict": kernels.conflict_at(*here),
            "overlap": kernels.overlap_at(*here),
            "loses": kernels.loses(taus[own][i], gamma),
            "won back": kernels.won_back_at(*here, tuple(w), gamma, own, F(xi), by_sum),
        }
        for name, value in found.items():
            assert value == wanted[name][i], name


def test_float64_stays_float64():
    taus = [np.array([1.0, -2.0]), np.array([3.0, 1.0])]
    gamma = formulas.elect(taus, (1.0, 0.1), zero=1)
    assert formulas.mean(taus, (1.0, 0.1), gamma).tolist() == pytest.approx([1.3 / 1.1, -2])
