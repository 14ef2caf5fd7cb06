"""TIES-SV against hand-computed numbers, against TIES at slack 0, and against the slow reference."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.strategies import densities, models, weights

from lrnb.errors import UserError
from lrnb.merging import cpu
from lrnb.merging.methods import ties, ties_sv
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state

slacks = st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0])


def test_the_worked_example():
    assert doctest.testmod(ties_sv).attempted > 6
    assert doctest.testmod(ties_sv).failed == 0


def sv(ct, sft, **options):
    ct, sft = np.float32(ct), np.float32(sft)
    return ties_sv.ties_sv(np.zeros_like(ct), ct, sft, density=1.0, **options).tolist()


def test_equal_deltas_go_to_the_lowest_index():
    ct, sft = [3, 4, 5, 3], [-2, -3, -4, -2]  # every delta is 1
    assert sv(ct, sft, slack=0.5) == [-2, -3, 5, 3]
    assert sv(ct, sft, slack=0.25) == [-2, 4, 5, 3]


def test_rounding_of_the_count_is_pythons():
    ct, sft = [3, 4, 5, 6, 9], [-2, -2, -2, -2, -2]
    assert sv(ct, sft, slack=0.5) == [-2, -2, 5, 6, 9]  # round(2.5) = 2


def test_exact_ties_given_to_ct_are_won_back_first():
    ct, sft = [2, -2, 7, 1], [-2, 2, -6, 1]  # sums 0, 0, 1, 2: + has the majority, so CT, SFT, CT
    assert sv(ct, sft, slack=0) == [2, 2, 7, 1]
    assert sv(ct, sft, slack=0.5) == [-2, 2, 7, 1]
    assert sv(ct, sft, slack=1) == [-2, 2, -6, 1]
    ct, sft = [2, 2, 2, -2, 7, 1, 9], [-2, -2, -2, 2, -6, 1, -1]  # D: entries 0, 1, 2, 4 and 6
    assert sv(ct, sft, slack=0.4) == [-2, -2, 2, 2, 7, 1, 9]
    assert sv(ct, sft, slack=0.8) == [-2, -2, -2, 2, -6, 1, 9]


def test_slack_threshold_by_hand():
    ct, sft = [5, 5, 5, 5], [-5, -4, -3, -2]
    assert sv(ct, sft, slack_threshold=0, zero_sign="positive") == [-5, 5, 5, 5]
    assert sv(ct, sft, slack_threshold=2) == [-5, -4, -3, 5]
    assert sv(ct, sft, slack_threshold=100) == [-5, -4, -3, -2]


def test_weights_decide_who_wins():
    ct, sft = [3.0], [-2.0]
    assert sv(ct, sft, slack=0, weights={"ct": 1, "sft": 2}) == [-2.0]
    assert sv(ct, sft, slack=0, weights={"ct": 2, "sft": 1}) == [3.0]


@given(models(), densities, weights, slacks, st.sampled_from(["majority", "positive"]),
       st.sampled_from(["keep-all", "exact"]), st.sampled_from([1, 4, 1 << 17]), st.booleans())  # fmt: skip
def test_equals_the_reference(model, density, weight, slack, zero_sign, at_threshold, piece, normalize):
    base, parents = model
    options = {"density": density, "zero_sign": zero_sign, "at_threshold": at_threshold,
               "normalize": normalize, "weights": {"ct": 1.0, "sft": weight}, "lam": 0.7}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        for given_slack in ({"slack": slack}, {"slack_threshold": slack}):
            got = ties_sv.ties_sv(base, parents["ct"], parents["sft"], **options, **given_slack)
            wanted, _ = reference.ties(base, parents, **options, **given_slack)
            reference.assert_same_bits(got, wanted)


@given(models(), densities, weights)
def test_no_slack_is_ties_bit_for_bit(model, density, weight):
    base, parents = model
    options = {"density": density, "weights": {"ct": weight, "sft": 1.0}}
    got = ties_sv.ties_sv(base, parents["ct"], parents["sft"], slack=0.0, **options)
    reference.assert_same_bits(got, ties.ties(base, parents, **options))


@given(models(), densities)
def test_full_slack_lets_sft_win_every_conflict(model, density):
    base, parents = model
    _, counts = reference.ties(base, parents, density=density, slack=1.0)
    assert counts["discarded"] == [counts["conflicts"], 0]
    got = ties_sv.ties_sv(base, parents["ct"], parents["sft"], density=density, slack=1.0)
    wanted, _ = reference.ties(base, parents, density=density, slack=1.0)
    reference.assert_same_bits(got, wanted)


@given(models(parents=3), densities, slacks, weights, st.sampled_from(["slack", "slack_threshold"]),
       st.sampled_from(["model", "tensor"]))  # fmt: skip
def test_three_parents_protect_the_named_one(model, density, slack, weight, kind, trim_scope):
    base, parents = model
    options = {"density": density, kind: slack, "weights": {"third": weight}}
    state = merge_state(
        "ties_sv", TaskVectors(base, parents), trim_scope=trim_scope, protect="third", **options
    )
    if trim_scope == "model":
        wanted, _ = reference.ties(base, parents, **options)  # protects the last
    else:
        wanted = reference.each_tensor(reference.ties, base, parents, **options)
    wanted = {name: x.astype(np.float32) for name, x in wanted.items()}
    reference.assert_same_bits({name: state[name] for name in base}, wanted)


@given(models(), densities, slacks, st.sampled_from(["slack", "slack_threshold"]))
def test_protecting_ct_is_protecting_sft_with_the_names_swapped(model, density, slack, kind):
    base, parents = model
    options = {"density": density, kind: slack}
    wanted, _ = reference.ties(base, {"sft": parents["sft"], "ct": parents["ct"]}, **options)
    state = merge_state("ties_sv", base, parents, protect="ct", **options)
    wanted = {name: x.astype(np.float32) for name, x in wanted.items()}
    reference.assert_same_bits({name: state[name] for name in base}, wanted)


def test_three_parents_and_a_threshold_by_hand():
    """Protecting sft: +2 against -1 and -3 is short by 2, +1 against -4 and 2 by 1 (2 - 4 = -2)."""
    base = {"w": np.zeros(2, np.float32)}
    rows = {"ct": [-1, -4], "more": [-3, 2], "sft": [2, 1]}
    models = {label: {"w": np.float32(row)} for label, row in rows.items()}
    found = {
        xi: merge_state("ties_sv", base, models, density=1.0, slack_threshold=xi)["w"].tolist()
        for xi in (0, 1, 2)
    }
    assert found == {0: [-2, -4], 1: [-2, 1.5], 2: [2, 1.5]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of slack"),
        ({"slack": 0.1, "slack_threshold": 0.1}, "one of slack"),
        ({"slack": 1.1}, r"slack must lie in \[0, 1\], got 1.1"),
        ({"slack_threshold": -1}, "slack_threshold must be"),
        ({"slack": float("nan")}, "slack must lie in"),
    ],
)
def test_wrong_slack_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        sv([1.0], [2.0], **options)


def test_unknown_protected_parent_is_refused():
    x = {"a": np.ones(2, np.float32)}
    with pytest.raises(UserError, match="protect: no parent is called 'sft'; give one of one, two"):
        merge_state("ties_sv", x, {"one": x, "two": x}, density=1.0, slack=0.1)
