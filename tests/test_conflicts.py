"""The conflict table: equal to a merge's report and to the slow reference, tensor by tensor."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import save_folder
from strategies import densities, models, weights
from test_merge import children, pico

from lrnb import conflicts, merge
from lrnb.params import UserError
from lrnb.vectors import TaskVectors

COUNTS = ["ct_kept", "sft_kept", "overlap", "conflicts", "ct_discarded", "sft_discarded", "reserved"]


@pytest.fixture
def folders(tmp_path):
    base = pico()
    models = {"base": base, **children(base)}
    return {label: save_folder(tmp_path / label, tensors) for label, tensors in models.items()}


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("slack", [0.0, 0.4])
def test_the_models_row_equals_the_report_of_the_merge(folders, tmp_path, trim_scope, slack):
    table = conflicts.shares(**folders, density=0.3, slack=slack, trim_scope=trim_scope)
    parents = {"ct": folders["ct"], "sft": folders["sft"]}
    report = merge.merge_checkpoints(
        "ties_sv", folders["base"], parents, tmp_path / "out",
        density=0.3, slack=slack, trim_scope=trim_scope,
    )  # fmt: skip
    row = table[table["tensor"] == "(model)"].iloc[0]
    for parent in ("ct", "sft"):
        assert row[f"{parent}_kept"] == report["parents"][parent]["kept"]
        assert row[f"{parent}_discarded"] == report["parents"][parent]["discarded"]
    assert (row["conflicts"], row["reserved"]) == (report["conflicts"], report["reserved"])
    assert row["n"] == report["entries"]
    parts = table[table["tensor"] != "(model)"]
    assert (parts[COUNTS].sum() == table.iloc[-1][COUNTS]).all()


@given(models(), densities, weights, st.sampled_from(["slack", "slack_threshold"]))
def test_counts_equal_the_reference(model, density, weight, kind):
    base, parents = model
    options = {"density": density, "weights": {"sft": weight}, kind: 0.5}
    row = conflicts.shares(base, **parents, **options).iloc[-1]
    _, counts = reference.ties(base, parents, **options)
    wanted = [
        *counts["kept"],
        counts["overlap"],
        counts["conflicts"],
        *counts["discarded"],
        counts["reserved"],
    ]
    assert row[COUNTS].tolist() == wanted


def test_lengths_and_cosine_by_hand():
    base = {"a": np.zeros(2, np.float32), "b": np.ones(1, np.float32)}
    ct = {"a": np.float32([3, 4]), "b": np.float32([1])}
    sft = {"a": np.float32([4, 3]), "b": np.float32([1])}
    table = conflicts.shares(base, ct, sft, density=1.0).set_index("tensor")
    assert table.loc["a", ["ct_l2", "sft_l2", "cosine"]].tolist() == pytest.approx([5, 5, 0.96])
    assert np.isnan(table.loc["b", "cosine"])
    assert table.loc["(model)", "n"] == 3


def test_threshold_slack_counts_what_it_wins():
    zero = np.zeros(3, np.float32)
    given = zero, np.float32([5, 5, 5]), np.float32([-4, -3, 1])
    tensors = [{"w": x} for x in given]
    row = conflicts.shares(*tensors, density=1.0, slack_threshold=1.0).iloc[-1]
    assert row[["conflicts", "reserved", "sft_discarded"]].tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("name", "layer", "module"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11, "q"),
        ("model.layers.0.mlp.down_proj.weight", 0, "down"),
        ("model.layers.3.self_attn.q_norm.weight", 3, "norm"),
        ("model.layers.3.self_attn.v_proj.bias", 3, "v"),
        ("model.norm.weight", -1, "norm"),
        ("model.embed_tokens.weight", -1, "embed"),
        ("lm_head.weight", -1, "lm_head"),
        ("model.layers.2.router.weight", 2, "other"),
        ("(model)", -1, "(model)"),
    ],
)
def test_names_are_sorted_into_layers_and_modules(name, layer, module):
    assert (conflicts.layer_of(name), conflicts.module_of(name)) == (layer, module)


def test_wrong_parents_are_refused(folders):
    with pytest.raises(UserError, match="give ct and sft beside the base"):
        conflicts.shares(folders["base"], density=0.5)
    swapped = TaskVectors(folders["base"], {"sft": folders["sft"], "ct": folders["ct"]})
    with pytest.raises(UserError, match="the parents must be ct and sft"):
        conflicts.shares(swapped, density=0.5)


def test_only_conflicts_are_won_back():
    """With weight 0 the second SFT entry loses to nobody: discarded, but no conflict, not reserved."""
    zero, ct, sft = np.zeros(2, np.float32), np.float32([5, 0]), np.float32([-3, -2])
    options = {"density": 1.0, "slack": 1.0, "weights": {"sft": 0}}
    row = conflicts.shares({"w": zero}, {"w": ct}, {"w": sft}, **options).iloc[-1]
    assert row[["conflicts", "reserved", "sft_discarded"]].tolist() == [1, 1, 1]
