"""The conflict atlas: sample and magnitudes against numpy, exact numbers, what-ifs against exact counts."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from support.atlases import inputs, made

from lrnb.conflicts import atlas, counts, sample, what_ifs
from lrnb.errors import UserError
from lrnb.merging.task_vectors import Span, TaskVectors

DENSITIES, SLACKS = (0.05, 0.2, 0.5, 0.8), (0.0, 0.05, 0.2, 0.5, 1.0)
LARGE, SOME = 100_000, 1000  # entries of a tensor; kept entries below which a share of them says nothing
COUNTS = counts.count_columns(["ct", "sft"])


@pytest.fixture(scope="module", params=["normal", "heavy", "correlated", "bf16", "coarse"])
def vectors(request) -> TaskVectors:
    return counts.open_parents(**inputs(request.param))


@pytest.fixture(scope="module")
def built(vectors) -> atlas.Atlas:
    return atlas.build(vectors, density=0.5, slack=0.2)


def shares_of(parents: list[str], protect: str = "sft") -> dict[str, str]:
    """Count or mass: what it is a share of."""
    found = {f"{parent}_kept": "n" for parent in parents} | {"overlap": "n"}
    found |= {"conflicts": f"{protect}_kept" if len(parents) == 2 else "n", "reserved": f"{protect}_kept"}
    found |= {f"{parent}_discarded": f"{parent}_kept" for parent in parents}
    kinds = ("discarded", "overlap", "conflict")
    found |= {f"{parent}_{kind}_mass": f"{parent}_kept_mass" for parent in parents for kind in kinds}
    largest = next(parent for parent in parents if parent != protect)
    return found | {"reserved_mass": f"{protect}_kept_mass", "ceded_mass": f"{largest}_kept_mass"}


def errors(estimated: pd.DataFrame, exact: pd.DataFrame) -> pd.DataFrame:
    """Percentage points by which each share is off; rows (model) and tensors above LARGE entries.

    Where trimming keeps fewer than SOME of a parent's entries, one entry is a large share: left out.
    """
    rows = (exact["tensor"] == "(model)") | (exact["n"] > LARGE)
    assert rows.sum() > 2
    found = {}
    for column, of in shares_of(counts.parents_of(exact)).items():
        off = 100 * (estimated[column] / estimated[of] - exact[column] / exact[of]).abs()
        found[column] = off.where(exact[of.removesuffix("_mass")] >= SOME, 0.0)
    return pd.DataFrame(found)[rows]


def require_near(estimated: pd.DataFrame, exact: pd.DataFrame) -> None:
    """Counts within 0.5 points for the model, of more than two parents 1, and 2 for a tensor; masses, sums
    over them, within 1 and 5."""
    off = errors(estimated, exact)
    mass, two = off.columns.str.endswith("_mass"), len(counts.parents_of(exact)) == 2
    for columns, model, tensor in ((~mass, 0.5 if two else 1, 2), (mass, 1, 5)):
        assert off.loc[:, columns].iloc[-1].max() < model, off.iloc[-1]
        assert off.loc[:, columns].iloc[:-1].max().max() < tensor, off.iloc[:-1].max()


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("density", DENSITIES)
def test_what_ifs_are_near_the_exact_counts(vectors, built, trim_scope, density):
    for slack in SLACKS:
        setting = {"density": density, "slack": slack, "trim_scope": trim_scope}
        require_near(what_ifs.what_if(built, **setting).table, counts.shares(vectors, **setting))


@pytest.mark.parametrize(
    "setting",
    [
        {"density": 0.3, "weights": {"ct": 0.7, "sft": 1.2}, "slack": 0.3},
        {"density": {"ct": 0.2, "sft": 0.6}, "weights": {"ct": 3.0, "sft": 1.0}},
        {"density": 0.5, "slack": 0.3, "weights": {"sft": 0}},
        {"density": 0.5, "slack_threshold": 5e-4},
        {"density": 0.5, "slack_threshold": 2**-13},  # just what narrow bfloat16 entries differ by
        {"density": 0.5, "slack": 0.2, "protect": "ct"},
        {"density": 1.0, "zero_sign": "positive"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_what_ifs_at_weights_and_thresholds(vectors, built, setting):
    require_near(what_ifs.what_if(built, **setting).table, counts.shares(vectors, **setting))


@pytest.mark.parametrize("kind", ["normal", "coarse"])
def test_tensors_far_larger_than_their_sample(kind):
    """Of these entries few are looked at twice; those that trimming keeps at 0.05 are rarest."""
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (1500, 1000) for i in range(3)}
    vectors = counts.open_parents(**inputs(kind, shapes=shapes))
    built = atlas.build(vectors, density=0.5)
    assert built.sample.entries.shape[1] <= 3 * (2 * sample.SIZE + 1)
    for setting in ({"density": 0.05, "slack": 0.2}, {"density": 0.3, "slack": 0.5, "trim_scope": "tensor"}):
        require_near(what_ifs.what_if(built, **setting).table, counts.shares(vectors, **setting))


def four(seed: int = 0, n: int = 200_000, size: int = 3) -> dict[str, object]:
    """A base and four parents, three of which pull one way more often than not."""
    rng = np.random.default_rng(seed)
    base = {f"layers.{i}.up_proj.weight": np.zeros(n, np.float32) for i in range(size)}
    way = {name: rng.standard_normal(n, np.float32) for name in base}
    parents = {
        parent: {name: x + np.float32(spread) * rng.standard_normal(n, np.float32) for name, x in way.items()}
        for parent, spread in (("ct", 1.0), ("sft", 4.0), ("code", 2.0), ("math", 1.0))
    }
    return {"base": base, "parents": parents}


@pytest.mark.parametrize(
    "setting",
    [
        {"density": 0.2},
        {"density": 0.5, "slack": 0.2, "trim_scope": "tensor"},
        {"density": 0.8, "slack": 0.5, "weights": {"ct": 0.5, "math": 2}},
        {"density": {"ct": 0.2, "sft": 0.5, "code": 0.8, "math": 0.3}, "slack_threshold": 0.7},
    ],
    ids=["plain", "share", "weights", "threshold"],
)
def test_what_ifs_of_four_parents(setting):
    vectors = counts.open_parents(**four())
    built = atlas.build(vectors, density=0.5)
    assert built.parents == ["ct", "sft", "code", "math"]
    require_near(what_ifs.what_if(built, **setting).table, counts.shares(vectors, **setting))


def test_small_tensors_are_kept_whole_and_their_what_ifs_are_exact():
    rng = np.random.default_rng(0)
    models = [{"a": x[:5_000], "b": x[5_000:]} for x in rng.standard_normal((3, 5_300), np.float32)]
    built = atlas.build(models[0], {"ct": models[1], "sft": models[2]}, density=0.5)
    assert built.sample.entries.shape[1] == 5_300
    assert (built.sample.stands == 1).all()
    for setting in ({"density": 1.0, "slack": 0.4}, {"density": 1.0, "slack": 1.0, "trim_scope": "tensor"}):
        exact = counts.shares(models[0], {"ct": models[1], "sft": models[2]}, **setting)
        guess = what_ifs.what_if(built, **setting).table
        assert (guess[COUNTS].round() == exact[COUNTS]).all().all()
        np.testing.assert_array_equal(guess["xi"], exact["xi"])


def test_xi_is_near_the_exact_one(vectors, built):
    setting = {"density": 0.5, "slack": 0.2}
    exact = counts.shares(vectors, **setting)["xi"].iloc[-1]
    assert what_ifs.what_if(built, **setting).table["xi"].iloc[-1] == pytest.approx(exact, rel=0.1)


def test_margins_add_up_to_the_losses(built):
    found = what_ifs.what_if(built, density=0.5, slack=0.2)
    lost, won, edges = found.margins()
    assert lost.sum() == pytest.approx(found.table["sft_discarded"].iloc[-1])
    assert won.sum() == pytest.approx(found.table["reserved"].iloc[-1])
    assert (won <= lost + 1e-9).all()
    assert 0.99 < lost[:-1].sum() / lost.sum() < 1
    xi = found.table["xi"].iloc[-1]
    assert not won[:-1][edges[:-1] > xi].any()


def whole(vectors: TaskVectors, name: str) -> Span:
    return Span(name, 0, vectors.base[name].size, 0)


def sizes_of(vectors: TaskVectors, name: str) -> np.ndarray:
    """|task vector| of both parents, (2, n)."""
    return np.abs([vectors.delta(parent, whole(vectors, name)) for parent in vectors.parents])


def test_magnitudes_count_every_entry(vectors, built):
    found = built.magnitudes
    for t, name in enumerate(vectors.names):
        for counted, x in zip(found.counts[t], sizes_of(vectors, name), strict=True):
            bins = np.searchsorted(found.edges[1:-1], x, side="right")
            at_edge = found.edges[bins].astype(np.float32) == x
            places = 2 * bins + (at_edge & (bins > 0))
            assert (np.bincount(places, minlength=len(counted)) == counted).all()


def test_the_sample_stands_for_every_entry_that_moved(vectors, built):
    s = built.sample
    for t, name in enumerate(vectors.names):
        ct, sft = (vectors.delta(parent, whole(vectors, name)) for parent in ("ct", "sft"))
        entries, weights = s.entries[:, s.of([t])], s.weights[s.of([t])]
        assert weights.sum() == pytest.approx(((ct != 0) | (sft != 0)).sum(), rel=1e-3)
        assert set(zip(*entries, strict=True)) <= set(zip(ct, sft, strict=True))
        opposite = weights[entries[0] * entries[1] < 0].sum()
        assert opposite == pytest.approx(np.sum(np.sign(ct) * np.sign(sft) < 0), rel=1e-3)


@pytest.mark.parametrize("whole_model", [False, True])
def test_brackets_and_thresholds_hold_the_kth_largest(vectors, built, whole_model):
    found = built.magnitudes.whole if whole_model else built.magnitudes
    for t, names in enumerate(vectors.scopes("model" if whole_model else "tensor")):
        both = np.sort(np.concatenate([sizes_of(vectors, name) for name in names], axis=1), axis=1)[:, ::-1]
        n = both.shape[1]
        for k in (1, 2, n // 3, n // 2, n - 1, n):
            near = zip(both, found.brackets(t, [k, k]), found.thresholds(t, [k, k]), strict=True)
            for x, (low, high), threshold in near:
                assert low == x[k - 1] if low == high else low < x[k - 1] < high
                assert low <= threshold <= high
                assert np.count_nonzero((low < x) & (x < high)) < max(0.02 * n, 10)


def test_values_beyond_the_bins_are_bracketed_and_counted():
    """Thresholds in the first and last bin, which also hold all smaller and larger magnitudes."""
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(2_000, np.float32)}
    ct, sft = ({"w": x} for x in (rng.standard_normal((2, 2_000)) * [[1e-14], [1e4]]).astype(np.float32))
    setting = {"density": 0.3, "slack": 0.5}
    with pytest.warns(UserWarning, match="values of 64 and more"):
        stored = atlas.build(base, {"ct": ct, "sft": sft}, **setting).exact("tensor").iloc[0]
    wanted = counts.shares(base, {"ct": ct, "sft": sft}, **setting).iloc[0]
    assert stored[COUNTS].tolist() == wanted[COUNTS].tolist()
    assert stored["ct_kept"] == stored["sft_kept"] == 600


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    base, ct, sft = ({"a": np.ones(9, np.float32), "b": np.full(9, x, np.float32)} for x in (1, 2, bad))
    with pytest.raises(UserError, match="'b'"):
        atlas.build(base, {"ct": ct, "sft": sft}, density=0.5)


def test_sizes_are_numpys(vectors, built):
    for row in atlas.sizes(built).iloc[:-1].to_dict("records"):
        ct, sft = (vectors.delta(p, whole(vectors, row["tensor"])).astype(np.float64) for p in ("ct", "sft"))
        wanted = [np.abs(ct).sum(), np.linalg.norm(sft), np.abs(ct).max(), (sft != 0).mean()]
        assert [row[c] for c in ("ct_l1", "sft_l2", "ct_max", "sft_nonzero")] == pytest.approx(wanted)
        assert row["cosine"] == pytest.approx(ct @ sft / np.linalg.norm(ct) / np.linalg.norm(sft))
    model = atlas.sizes(built).iloc[-1]
    assert model["ct_l2"] == pytest.approx(np.sqrt((built.tensors["ct_l2"] ** 2).sum()))


def test_the_largest_of_a_tensor_of_several_spans():
    """One that is read in portions, each of which has a largest entry."""
    x = np.linspace(-1, 1, 1_100_000, dtype=np.float32)
    built = atlas.build({"w": np.zeros_like(x)}, {"ct": {"w": x}, "sft": {"w": -x / 2}}, density=0.5)
    assert built.tensors[["ct_max", "sft_max"]].to_numpy().tolist() == [[1.0, 0.5]]


def test_cosines_of_more_parents_are_named_after_both():
    built = atlas.build(**four(n=1_000), density=0.5)
    pairs = ["ct_sft", "ct_code", "ct_math", "sft_code", "sft_math", "code_math"]
    assert [c for c in atlas.sizes(built) if c.startswith("cosine")] == [f"cosine_{pair}" for pair in pairs]
    a, b = (four(n=1_000)["parents"][p]["layers.0.up_proj.weight"].astype(float) for p in ("ct", "math"))
    wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert built.tensors["cosine_ct_math"][0] == pytest.approx(wanted)


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
def test_the_stored_numbers_are_the_exact_ones(vectors, built, trim_scope):
    vectors.cuts.clear()  # the thresholds once more, without magnitudes
    wanted = counts.shares(vectors, density=0.5, slack=0.2, trim_scope=trim_scope)
    stored = counts.with_shares(counts.with_model(built.exact(trim_scope)))
    pd.testing.assert_frame_equal(stored[wanted.columns], wanted)


def test_the_same_for_any_number_of_threads():
    models = made("bf16")
    base, parents = models["base"], {p: models[p] for p in ("ct", "sft")}
    one, two = (atlas.build(TaskVectors(base, parents, threads=n), density=0.3) for n in (1, 2))
    pd.testing.assert_frame_equal(one.tensors, two.tensors, check_exact=True)
    for name in ("entries", "runs", "stands"):
        assert (getattr(one.sample, name) == getattr(two.sample, name)).all()
    assert (one.magnitudes.counts == two.magnitudes.counts).all()


def test_an_atlas_comes_back_from_its_folder(tmp_path, built):
    atlas.save(built, tmp_path / "a")
    read = atlas.load(tmp_path / "a")
    pd.testing.assert_frame_equal(read.tensors, built.tensors)
    setting = {"density": 0.3, "slack": 0.4, "trim_scope": "tensor"}
    pd.testing.assert_frame_equal(
        what_ifs.what_if(read, **setting).table, what_ifs.what_if(built, **setting).table
    )
    assert read.facts["density"] == {"ct": 0.5, "sft": 0.5}
    assert (read.parents, read.protect) == (["ct", "sft"], "sft")


def test_folders_that_hold_no_atlas_are_refused(tmp_path):
    built = atlas.build(**four(n=50), density=0.5)
    with pytest.raises(UserError, match=r"no conflict atlas here \(atlas.json is missing\). Make it with"):
        atlas.load(tmp_path)
    folder = atlas.save(built, tmp_path / "a")
    facts = json.loads((folder / "atlas.json").read_text())
    (folder / "atlas.json").write_text(json.dumps(facts | {"format": 2}))
    (folder / "sample.npz").rename(folder / "joint.npz")  # one of the version before
    with pytest.raises(
        UserError, match=f"format 2, this is 3. Make it with lrnb conflicts ... --out {folder}"
    ):
        atlas.load(folder)
    (folder / "joint.npz").rename(folder / "sample.npz")
    (folder / "atlas.json").write_text("[1]")
    with pytest.raises(UserError, match="the atlas is damaged"):
        atlas.load(folder)
    (folder / "atlas.json").write_text(json.dumps(facts))
    table = pd.read_parquet(folder / "tensors.parquet")
    table.iloc[1:].to_parquet(folder / "tensors.parquet")
    with pytest.raises(UserError, match="counts does not fit 2 tensors of 4 parents"):
        atlas.load(folder)
    (folder / "sample.npz").write_bytes((folder / "sample.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="the atlas is damaged"):
        atlas.load(folder)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"density": 0}, r"density must lie in \(0, 1\]"),
        ({"density": 0.5, "slack": 1.1}, "slack must lie in"),
        ({"density": 0.5, "trim_scope": "layer"}, "trim_scope must be one of model, tensor"),
        ({"density": 0.5, "weights": {"base": 1}}, "no parent 'base'"),
        ({"density": 0.5, "protect": "math"}, "protect: no parent is called 'math'; give one of ct, sft"),
        ({"density": 0.5, "slack": 0.1, "slack_threshold": 0.1}, "needs one of slack"),
    ],
    ids=lambda x: next(reversed(x)) if isinstance(x, dict) else "",
)
def test_settings_out_of_range_are_refused(option, message):
    base = {"w": np.ones(3, np.float32)}
    built = atlas.build(base, {"ct": base, "sft": base}, density=1)
    with pytest.raises(UserError, match=message):
        what_ifs.what_if(built, **option)


def test_parents_that_equal_the_base_and_an_empty_tensor():
    base = {"a.weight": np.ones((2, 3), np.float32), "b.weight": np.empty((0, 4), np.float32)}
    built = atlas.build(base, {"ct": dict(base), "sft": dict(base)}, density=0.5, slack=0.2)
    for scope in ("model", "tensor"):
        found = what_ifs.what_if(built, density=0.5, slack=0.5, trim_scope=scope)
        assert (found.table[COUNTS] == 0).all().all()
        assert found.table["n"].tolist() == [6, 0, 6]
        assert found.margins()[0].sum() == 0
        assert not len(found.by_magnitude([0, 1]))
    assert np.isnan(atlas.sizes(built)["cosine"]).all()


def test_all_ties_fall_to_one_side():
    """Every CT entry is the mirror of SFT's: the zero sign alone decides, and slack wins ties back first."""
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(200_000, np.float32)}
    ct = {"w": np.abs(rng.standard_normal(200_000, np.float32))}
    vectors = counts.open_parents(base, {"ct": ct, "sft": {"w": -ct["w"]}})
    built = atlas.build(vectors, density=0.5)
    for setting in (
        {"density": 0.3, "zero_sign": "positive"},
        {"density": 0.3},
        {"density": 0.7, "slack": 0.4},
    ):
        off = errors_of_one(what_ifs.what_if(built, **setting).table, counts.shares(vectors, **setting))
        assert off < 0.5, setting


def errors_of_one(estimated, exact) -> float:
    rows = [
        100 * abs(estimated[c] / estimated[of] - exact[c] / exact[of]).iloc[-1]
        for c, of in shares_of(["ct", "sft"]).items()
        if exact[of].iloc[-1]
    ]
    return max(rows)


def test_slack_1_ends_at_the_widest_margin(vectors, built):
    setting = {"density": 0.5, "slack": 1.0}
    exact = counts.shares(vectors, **setting)["xi"].iloc[-1]
    assert what_ifs.what_if(built, **setting).table["xi"].iloc[-1] == pytest.approx(exact, rel=0.35)


def test_many_small_tensors_fit_into_little_memory():
    """A histogram of all bins would take 80 kB for each: 32 MB beside what is kept."""
    rng = np.random.default_rng(0)
    models = [{f"t{i:04}": rng.standard_normal(8).astype(np.float32) for i in range(400)} for _ in range(3)]
    given = {"base": models[0], "parents": {"ct": models[1], "sft": models[2]}, "density": 0.5}
    atlas.build(**given)  # compiles
    tracemalloc.start()
    built = atlas.build(**given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * built.magnitudes.counts.nbytes < 50e6


def test_magnitudes_beyond_the_last_bin_are_said():
    base = {"w": np.zeros(100, np.float32)}
    with pytest.warns(UserWarning, match="'w': a task vector holds values of 64 and more"):
        atlas.build(base, {"ct": {"w": base["w"] + 100}, "sft": {"w": base["w"] + 1}}, density=0.5)


def test_models_without_float_tensors_are_refused():
    ids = {"ids": np.arange(3)}
    with pytest.raises(UserError, match="hold no float tensors"):
        atlas.build(ids, {"ct": ids, "sft": ids}, density=0.5)
