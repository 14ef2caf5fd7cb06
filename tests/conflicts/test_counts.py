"""The conflict table: equal to a merge's report and to the slow reference, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.checkpoints import children, pico
from support.reference import BF16, save_folder
from support.strategies import densities, models, weights

from lrnb.conflicts import counts as conflicts
from lrnb.errors import UserError
from lrnb.merging import whole_models
from lrnb.merging.task_vectors import TaskVectors

pytestmark = pytest.mark.usefixtures("bare_tensors")

COUNTS = ["ct_kept", "sft_kept", "overlap", "conflicts", "ct_discarded", "sft_discarded", "reserved"]


def two(base, ct, sft) -> dict:
    """Models as `shares` takes them; single tensors as models of one."""
    models = [x if isinstance(x, dict | Path) else {"w": x} for x in (base, ct, sft)]
    return {"base": models[0], "parents": {"ct": models[1], "sft": models[2]}}


@pytest.fixture
def folders(tmp_path):
    base = pico()
    models = {"base": base, **children(base)}
    return {label: save_folder(tmp_path / label, tensors) for label, tensors in models.items()}


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("slack", [0.0, 0.4])
def test_the_models_row_equals_the_report_of_the_merge(folders, tmp_path, trim_scope, slack):
    parents = {"ct": folders["ct"], "sft": folders["sft"]}
    table = conflicts.shares(folders["base"], parents, density=0.3, slack=slack, trim_scope=trim_scope)
    report = whole_models.merge_checkpoints(
        "ties_sv", folders["base"], parents, tmp_path / "out",
        density=0.3, slack=slack, trim_scope=trim_scope,
    )  # fmt: skip
    row = table[table["tensor"] == "(model)"].iloc[0]
    for parent, won in (("ct", -1), ("sft", 1)):  # the table counts before slack, the report after it
        found = report["parents"][parent]
        assert row[f"{parent}_kept"] == found["kept"]
        assert row[f"{parent}_discarded"] == found["discarded"] + won * report["reserved"]
    assert (row["conflicts"], row["reserved"]) == (report["conflicts"], report["reserved"])
    assert row["n"] == report["entries"]
    parts = table[table["tensor"] != "(model)"]
    assert (parts[COUNTS].sum() == table.iloc[-1][COUNTS]).all()


@given(models(), densities, weights, st.sampled_from(["slack", "slack_threshold"]))
def test_counts_equal_the_reference(model, density, weight, kind):
    base, parents = model
    options = {"density": density, "weights": {"sft": weight}, kind: 0.5}
    row = conflicts.shares(base, parents, **options).iloc[-1]
    _, counts = reference.ties(base, parents, **options)
    wanted = [
        *counts["kept"],
        counts["overlap"],
        counts["conflicts"],
        counts["discarded"][0] - counts["reserved"],
        counts["discarded"][1] + counts["reserved"],
        counts["reserved"],
    ]
    assert row[COUNTS].tolist() == wanted


@given(models(parents=3), densities, weights, st.sampled_from(["slack", "slack_threshold"]))
def test_counts_of_three_parents_equal_the_reference(model, density, weight, kind):
    base, parents = model
    plain = {"density": density, "weights": {"third": weight}}
    row = conflicts.shares(base, parents, **plain, protect="third", **{kind: 0.5}).iloc[-1]
    _, after = reference.ties(base, parents, **plain, **{kind: 0.5})
    _, before = reference.ties(base, parents, **plain)
    assert [row[f"{parent}_kept"] for parent in parents] == list(after["kept"])
    assert [row[f"{parent}_discarded"] for parent in parents] == list(before["discarded"])
    shared = ("overlap", "conflicts", "reserved")
    assert [row[name] for name in shared] == [after[name] for name in shared]


def test_masses_and_shares_by_hand():
    zero = np.zeros(5, np.float32)
    given = zero, np.float32([5, 5, 5, -1, 0.5]), np.float32([-4, -3, 1, 2, 0.25])
    row = conflicts.shares(**two(*given), density=0.8, slack_threshold=1.0).iloc[-1]
    assert row[["conflicts", "reserved", "sft_discarded", "ct_discarded"]].tolist() == [3, 1, 2, 1]
    assert row[["ct_kept_mass", "sft_kept_mass"]].tolist() == [16, 10]
    assert row[["ct_discarded_mass", "sft_discarded_mass"]].tolist() == [1, 7]
    assert row[["reserved_mass", "ceded_mass", "xi"]].tolist() == [4, 5, 1]
    assert row[["ct_overlap_mass", "sft_overlap_mass"]].tolist() == [16, 10]
    assert row[["ct_conflict_mass", "sft_conflict_mass"]].tolist() == [11, 9]
    assert row[["sft_discarded_share", "conflict_share"]].tolist() == [0.5, 0.75]


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize("density", [0.3, {"ct": 0.9, "sft": 0.5}, 1.0])
def test_masses_equal_numpys(dtype, density):
    n, xi, rng = 9_001, np.float32(0.25), np.random.default_rng(0)
    drawn = [(rng.standard_normal(n) * (rng.random(n) < 0.8)).astype(dtype) for _ in range(2)]
    row = conflicts.shares(**two(np.zeros(n, dtype), *drawn), density=density, slack_threshold=xi).iloc[0]
    ratios = density.values() if isinstance(density, dict) else (density, density)
    c, s = (trimmed(x.astype(np.float32), ratio) for x, ratio in zip(drawn, ratios, strict=True))
    conflict, to_ct = c * s < 0, np.abs(c) > np.abs(s)
    ties = conflict & (c == -s) & (s * elected_sign(c + s) < 0)
    lost = conflict & to_ct | ties
    won = lost & (np.abs(s) + xi >= np.abs(c))
    where = {
        "ct_kept": c != 0, "sft_kept": s != 0, "ct_discarded": conflict & ~lost, "sft_discarded": lost,
        "ct_overlap": c * s != 0, "sft_overlap": c * s != 0, "ct_conflict": conflict,
        "sft_conflict": conflict, "ceded": won, "reserved": won,
    }  # fmt: skip
    for name, mask in where.items():
        x = c if name.startswith("ct") or name == "ceded" else s
        assert 0 < row[f"{name}_mass"] == pytest.approx(np.abs(x[mask].astype(np.float64)).sum(), rel=1e-12)


def trimmed(x: np.ndarray, density: float) -> np.ndarray:
    """What the largest magnitudes leave of a task vector."""
    return np.where(np.abs(x) >= np.sort(np.abs(x))[-round(density * len(x))], x, np.float32(0))


def elected_sign(total: np.ndarray) -> int:
    """The sign that exact ties take: the one elected more often."""
    return 1 if np.sign(total).sum() > 0 else -1


def test_xi_is_the_widest_margin_won_back():
    zero = np.zeros(4, np.float32)
    given = zero, np.float32([5, 5, 5, 5]), np.float32([-4, -3, -2, -1])
    row = conflicts.shares(**two(*given), density=1.0, slack=0.5).iloc[-1]
    assert row[["reserved", "xi"]].tolist() == [2, 2]
    assert np.isnan(conflicts.shares(**two(*given), density=1.0).iloc[-1]["xi"])


def test_masses_of_three_parents_by_hand():
    """What the others give up at the entry won back is of those that had won there."""
    zero = {"w": np.zeros(3, np.float32)}
    given = {"ct": [3, 2, 4], "sft": [-4, -1, 1], "code": [2, -2, -1]}
    parents = {name: {"w": np.float32(x)} for name, x in given.items()}
    row = conflicts.shares(zero, parents, density=1.0, slack_threshold=1.0).iloc[-1]
    assert row[["overlap", "conflicts", "reserved"]].tolist() == [3, 3, 1]  # sft loses the first by 5 to 4
    assert row[["reserved_mass", "ceded_mass"]].tolist() == [4, 5]
    assert row[["ct_discarded", "sft_discarded", "code_discarded"]].tolist() == [1, 1, 1]
    assert row[["ct_conflict_mass", "code_overlap_mass"]].tolist() == [9, 5]


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
        ("layers.3.self_attn.q_proj.weight", 3, "q"),
        ("h.0.ln_1.weight", 0, "norm"),
        ("transformer.h.0.ln_1.weight", 0, "norm"),
        ("encoder.layer.3.attention.query.weight", 3, "other"),
        ("(model)", -1, "(model)"),
    ],
)
def test_names_are_sorted_into_layers_and_modules(name, layer, module):
    assert (conflicts.layer_of(name), conflicts.module_of(name)) == (layer, module)


def test_wrong_parents_are_refused(folders):
    with pytest.raises(UserError, match="no parents given"):
        conflicts.shares(folders["base"], density=0.5)
    with pytest.raises(UserError, match="between parents, so give two or more"):
        conflicts.shares(TaskVectors(folders["base"], {"sft": folders["sft"]}), density=0.5)
    with pytest.raises(UserError, match="protect: no parent is called 'sft'; give one of a, b"):
        conflicts.shares(folders["base"], {"a": folders["ct"], "b": folders["sft"]}, density=0.5)


def test_only_conflicts_are_won_back():
    """With weight 0 the second SFT entry loses to nobody: discarded, but no conflict, not reserved."""
    zero, ct, sft = np.zeros(2, np.float32), np.float32([5, 0]), np.float32([-3, -2])
    options = {"density": 1.0, "slack": 1.0, "weights": {"sft": 0}}
    row = conflicts.shares(**two(zero, ct, sft), **options).iloc[-1]
    assert row[["conflicts", "reserved", "sft_discarded"]].tolist() == [1, 1, 2]
