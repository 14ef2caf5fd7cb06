"""The conflict atlas: histograms against numpy, exact numbers, and what-ifs against exact counts."""

from __future__ import annotations

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pandas as pd
import pytest

from lrnb import atlas, conflicts, whatif
from lrnb.params import UserError
from lrnb.vectors import TaskVectors

BF16 = np.dtype(ml_dtypes.bfloat16)
DENSITIES, SLACKS = (0.05, 0.2, 0.5, 0.8), (0.0, 0.05, 0.2, 0.5, 1.0)
LARGE, SOME = 100_000, 1000  # entries of a tensor; kept entries below which a share of them says nothing
OF = {  # count: what it is a share of
    "ct_kept": "n", "sft_kept": "n", "overlap": "n", "conflicts": "sft_kept", "sft_discarded": "sft_kept",
    "ct_discarded": "ct_kept", "reserved": "sft_kept", "sft_discarded_mass": "sft_kept_mass",
    "ct_discarded_mass": "ct_kept_mass", "reserved_mass": "sft_kept_mass", "ceded_mass": "ct_kept_mass",
    "ct_overlap_mass": "ct_kept_mass", "sft_overlap_mass": "sft_kept_mass",
    "ct_conflict_mass": "ct_kept_mass", "sft_conflict_mass": "sft_kept_mass",
}  # fmt: skip


def normal(rng, shape, scale):
    return rng.standard_normal(shape, np.float32) * np.float32(scale)


def heavy(rng, shape, scale):
    return rng.standard_t(2, shape).astype(np.float32) * np.float32(scale)


def made(kind: str) -> dict[str, dict[str, np.ndarray]]:
    """base, ct, sft with tensors of several scales and a small one; CT and SFT partly pull together."""
    rng = np.random.default_rng(0)
    draw = heavy if kind == "heavy" else normal
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (300, 400) for i in range(5)}
    shapes |= {"model.norm.weight": (512,), "model.embed_tokens.weight": (500, 300)}
    size = 1e-4 if kind == "coarse" else 1e-3  # in units of bfloat16 a few, or none
    base = {name: normal(rng, shape, 0.02) for name, shape in shapes.items()}
    models: dict[str, dict[str, np.ndarray]] = {"base": base, "ct": {}, "sft": {}}
    for i, (name, own) in enumerate(base.items()):
        ct, sft = draw(rng, own.shape, size * (1 + i)), draw(rng, own.shape, size)
        sft = sft + (0.3 * ct if kind == "correlated" else 0)
        sft[:3] = 0  # rows that SFT never saw
        models["ct"][name], models["sft"][name] = own + ct, own + sft
    dtype = BF16 if kind in ("bf16", "coarse") else np.dtype(np.float32)
    return {label: {name: x.astype(dtype) for name, x in model.items()} for label, model in models.items()}


@pytest.fixture(scope="module", params=["normal", "heavy", "correlated", "bf16", "coarse"])
def vectors(request) -> TaskVectors:
    return conflicts.open_vectors(**made(request.param))


@pytest.fixture(scope="module")
def built(vectors) -> atlas.Atlas:
    return atlas.build(vectors, density=0.5, slack=0.2)


def errors(estimated: pd.DataFrame, exact: pd.DataFrame) -> pd.DataFrame:
    """Percentage points by which each share is off; rows (model) and tensors above LARGE entries.

    Where trimming keeps fewer than SOME of a parent's entries, one entry is a large share: left out.
    """
    rows = (exact["tensor"] == "(model)") | (exact["n"] > LARGE)
    assert rows.sum() > 2
    found = {}
    for column, of in OF.items():
        off = 100 * (estimated[column] / estimated[of] - exact[column] / exact[of]).abs()
        found[column] = off.where(exact[of.removesuffix("_mass")] >= SOME, 0.0)
    return pd.DataFrame(found)[rows]


def require_near(estimated: pd.DataFrame, exact: pd.DataFrame) -> None:
    """Counts within 0.5 points for the model and 2 for a tensor; masses, sums over them, within 1 and 5.

    Masses of overlap within 3 and 5: where the parents' magnitudes go together and little is kept, more
    entries than told are kept by both.
    """
    off = errors(estimated, exact)
    mass, both = off.columns.str.endswith("_mass"), off.columns.str.contains("_overlap_mass")
    for columns, model, tensor in ((~mass, 0.5, 2), (mass & ~both, 1, 5), (both, 3, 5)):
        assert off.loc[:, columns].iloc[-1].max() < model, off.iloc[-1]
        assert off.loc[:, columns].iloc[:-1].max().max() < tensor, off.iloc[:-1].max()


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("density", DENSITIES)
def test_what_ifs_are_near_the_exact_counts(vectors, built, trim_scope, density):
    for slack in SLACKS:
        setting = {"density": density, "slack": slack, "trim_scope": trim_scope}
        require_near(whatif.what_if(built, **setting).table, conflicts.shares(vectors, **setting))


@pytest.mark.parametrize(
    "setting",
    [
        {"density": 0.3, "weights": {"ct": 0.7, "sft": 1.2}, "slack": 0.3},
        {"density": {"ct": 0.2, "sft": 0.6}, "weights": {"ct": 3.0, "sft": 1.0}},
        {"density": 0.5, "slack_threshold": 5e-4},
        {"density": 0.5, "slack_threshold": 2**-13},  # just what narrow bfloat16 entries differ by
        {"density": 1.0, "zero_sign": "positive"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_what_ifs_at_weights_and_thresholds(vectors, built, setting):
    require_near(whatif.what_if(built, **setting).table, conflicts.shares(vectors, **setting))


def test_xi_is_near_the_exact_one(vectors, built):
    setting = {"density": 0.5, "slack": 0.2}
    exact = conflicts.shares(vectors, **setting)["xi"].iloc[-1]
    assert whatif.what_if(built, **setting).table["xi"].iloc[-1] == pytest.approx(exact, rel=0.1)


def test_margins_add_up_to_the_losses(built):
    found = whatif.what_if(built, density=0.5, slack=0.2)
    lost, won, edges = found.margins()
    assert lost.sum() == pytest.approx(found.table["sft_discarded"].iloc[-1])
    assert won.sum() == pytest.approx(found.table["reserved"].iloc[-1], rel=1e-3)
    assert (won <= lost + 1e-9).all()
    assert 0.99 < lost[:-1].sum() / lost.sum() < 1
    xi = found.table["xi"].iloc[-1]
    assert (won[:-1][edges[:-1] > xi] < 1e-6).all()


def test_histograms_count_every_entry(vectors, built):
    h = built.histograms
    ones = np.stack([h.same, h.opposite]).sum(axis=(0, 2, 3))
    assert ones.tolist() == built.tensors["n"].tolist()
    for t, name in enumerate(vectors.names):
        ct, sft = (
            vectors.parent_span(p, s).astype(np.float32)
            for p in ("ct", "sft")
            for s in [whole(vectors, name)]
        )
        base = vectors.base_span(whole(vectors, name)).astype(np.float32)
        a, b = ct - base, sft - base
        edges = np.append(h.edges, np.inf)
        rows, columns = (np.maximum(np.searchsorted(edges, np.abs(x), "right") - 1, 0) for x in (a, b))
        unlike = np.signbit(a) != np.signbit(b)
        for table, part in ((h.same[t], ~unlike), (h.opposite[t], unlike)):
            wanted = np.zeros_like(table)
            np.add.at(wanted, (rows[part], columns[part]), 1)
            assert (wanted == table).all()
        assert (a == -b)[a > 0].sum() == h.ties[t, 1].sum()
        assert (a == -b)[a < 0].sum() == h.ties[t, 0].sum()


def whole(vectors, name):
    from lrnb.vectors import Span

    return Span(name, 0, vectors.base[name].size, 0)


@pytest.mark.parametrize("whole_model", [False, True])
def test_brackets_hold_the_kth_largest(vectors, built, whole_model):
    h = built.histograms.whole if whole_model else built.histograms
    for t, names in enumerate(vectors.scopes("model" if whole_model else "tensor")):
        sorted_ = [
            np.sort(np.concatenate([np.abs(vectors.delta(p, whole(vectors, name))) for name in names]))[::-1]
            for p in ("ct", "sft")
        ]
        n = len(sorted_[0])
        for k in (1, 2, n // 3, n // 2, n - 1, n):
            for x, (low, high) in zip(sorted_, h.brackets(t, [k, k]), strict=True):
                assert low == x[k - 1] if low == high else low < x[k - 1] < high
                assert np.count_nonzero((low < x) & (x < high)) < max(0.02 * n, 10)


def test_values_beyond_the_bins_are_bracketed_and_counted():
    """Thresholds in the first and last bin, which also hold all smaller and larger magnitudes."""
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(2_000, np.float32)}
    ct, sft = ({"w": x} for x in (rng.standard_normal((2, 2_000)) * [[1e-14], [1e4]]).astype(np.float32))
    setting = {"density": 0.3, "slack": 0.5}
    with pytest.warns(UserWarning, match="values of 64 and more"):
        stored = atlas.build(base, ct, sft, **setting).exact("tensor").iloc[0]
    wanted = conflicts.shares(base, ct, sft, **setting).iloc[0]
    assert stored[conflicts.COUNTS].tolist() == wanted[conflicts.COUNTS].tolist()
    assert stored["ct_kept"] == stored["sft_kept"] == 600


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    models = [{"a": np.ones(9, np.float32), "b": np.full(9, x, np.float32)} for x in (1, 2, bad)]
    with pytest.raises(UserError, match="'b'"):
        atlas.build(*models, density=0.5)


def test_sizes_are_numpys(vectors, built):
    for row in atlas.sizes(built).iloc[:-1].to_dict("records"):
        ct, sft = (vectors.delta(p, whole(vectors, row["tensor"])).astype(np.float64) for p in ("ct", "sft"))
        wanted = [np.abs(ct).sum(), np.linalg.norm(sft), np.abs(ct).max(), (sft != 0).mean()]
        assert [row[c] for c in ("ct_l1", "sft_l2", "ct_max", "sft_nonzero")] == pytest.approx(wanted)
        assert row["cosine"] == pytest.approx(ct @ sft / np.linalg.norm(ct) / np.linalg.norm(sft))
    model = atlas.sizes(built).iloc[-1]
    assert model["ct_l2"] == pytest.approx(np.sqrt((built.tensors["ct_l2"] ** 2).sum()))


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
def test_the_stored_numbers_are_the_exact_ones(vectors, built, trim_scope):
    vectors.cuts.clear()  # the thresholds once more, without histograms
    wanted = conflicts.shares(vectors, density=0.5, slack=0.2, trim_scope=trim_scope)
    stored = conflicts.with_shares(conflicts.with_model(built.exact(trim_scope)))
    pd.testing.assert_frame_equal(stored[wanted.columns], wanted)


def test_the_same_for_any_number_of_threads(tmp_path):
    models = made("bf16")
    one, two = (
        atlas.build(
            TaskVectors(models["base"], {p: models[p] for p in ("ct", "sft")}, threads=n), density=0.3
        )
        for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one.tensors, two.tensors, check_exact=True)
    for name in ("same", "opposite", "own", "ties"):
        assert (getattr(one.histograms, name) == getattr(two.histograms, name)).all()


def test_an_atlas_comes_back_from_its_folder(tmp_path, built):
    atlas.save(built, tmp_path / "a")
    read = atlas.load(tmp_path / "a")
    pd.testing.assert_frame_equal(read.tensors, built.tensors)
    setting = {"density": 0.3, "slack": 0.4, "trim_scope": "tensor"}
    pd.testing.assert_frame_equal(
        whatif.what_if(read, **setting).table, whatif.what_if(built, **setting).table
    )
    assert read.facts["density"] == {"ct": 0.5, "sft": 0.5}


def test_folders_that_hold_no_atlas_are_refused(tmp_path, built):
    with pytest.raises(
        UserError, match=r"no conflict atlas here \(tensors.parquet is missing\). Make it with"
    ):
        atlas.load(tmp_path)
    folder = atlas.save(built, tmp_path / "a")
    facts = json.loads((folder / "atlas.json").read_text()) | {"format": 99}
    (folder / "atlas.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="an atlas of format 99, this is 2"):
        atlas.load(folder)
    (folder / "atlas.json").write_text("[1]")
    with pytest.raises(UserError, match="the atlas is damaged"):
        atlas.load(folder)
    (folder / "atlas.json").write_text(json.dumps(facts | {"format": 2}))
    table = pd.read_parquet(folder / "tensors.parquet")
    table.iloc[1:].to_parquet(folder / "tensors.parquet")
    with pytest.raises(UserError, match="same does not fit"):
        atlas.load(folder)
    (folder / "joint.npz").write_bytes((folder / "joint.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="the atlas is damaged"):
        atlas.load(folder)


def test_settings_out_of_range_are_refused(built):
    for option, message in (
        ({"density": 0}, "density must be above 0"),
        ({"density": 0.5, "slack": 1.1}, "slack must lie in"),
        ({"density": 0.5, "trim_scope": "layer"}, "trim_scope must be"),
        ({"density": 0.5, "weights": {"base": 1}}, "no parent 'base'"),
        ({"density": 0.5, "weights": {"sft": 0}}, "a weight of 0 cannot be told from histograms"),
        ({"density": 0.5, "slack": 0.1, "slack_threshold": 0.1}, "give one of slack"),
    ):
        with pytest.raises(UserError, match=message):
            whatif.what_if(built, **option)


def test_parents_that_equal_the_base_and_an_empty_tensor():
    base = {"a.weight": np.ones((2, 3), np.float32), "b.weight": np.empty((0, 4), np.float32)}
    built = atlas.build(base, dict(base), dict(base), density=0.5, slack=0.2)
    table = whatif.what_if(built, density=0.5, slack=0.5).table
    assert (table[conflicts.COUNTS] == 0).all().all()
    assert table["n"].tolist() == [6, 0, 6]
    assert np.isnan(atlas.sizes(built)["cosine"]).all()


def test_all_ties_fall_to_one_side():
    """Every CT entry is the mirror of SFT's: the zero sign alone decides, and slack wins ties back first."""
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(200_000, np.float32)}
    ct = {"w": np.abs(rng.standard_normal(200_000, np.float32))}
    sft = {"w": -ct["w"]}
    vectors = conflicts.open_vectors(base, ct, sft)
    built = atlas.build(vectors, density=0.5)
    for setting in (
        {"density": 0.3, "zero_sign": "positive"},
        {"density": 0.3},
        {"density": 0.7, "slack": 0.4},
    ):
        off = errors_of_one(whatif.what_if(built, **setting).table, conflicts.shares(vectors, **setting))
        assert off < 0.5, setting


def errors_of_one(estimated, exact) -> float:
    rows = [
        100 * abs(estimated[c] / estimated[of] - exact[c] / exact[of]).iloc[-1]
        for c, of in OF.items()
        if exact[of].iloc[-1]
    ]
    return max(rows)


def test_slack_1_ends_at_the_widest_margin(vectors, built):
    setting = {"density": 0.5, "slack": 1.0}
    exact = conflicts.shares(vectors, **setting)["xi"].iloc[-1]
    assert whatif.what_if(built, **setting).table["xi"].iloc[-1] == pytest.approx(exact, rel=0.35)


def test_many_small_tensors_fit_into_little_memory():
    """One dense histogram a tensor would take 0.6 MB each."""
    rng = np.random.default_rng(0)
    models = [{f"t{i:04}": rng.standard_normal(8).astype(np.float32) for i in range(400)} for _ in range(3)]
    tracemalloc.start()
    built = atlas.build(*models, density=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = sum(x.nbytes for x in (built.histograms.same, built.histograms.opposite, built.histograms.own))
    assert peak < 2 * dense + 20e6 < 400 * 0.6e6


def test_magnitudes_beyond_the_last_bin_are_said():
    base = {"w": np.zeros(100, np.float32)}
    with pytest.warns(UserWarning, match="'w': a task vector holds values of 64 and more"):
        atlas.build(base, {"w": base["w"] + 100}, {"w": base["w"] + 1}, density=0.5)


def test_models_without_float_tensors_are_refused():
    ids = {"ids": np.arange(3)}
    with pytest.raises(UserError, match="hold no float tensors"):
        atlas.build(ids, ids, ids, density=0.5)
