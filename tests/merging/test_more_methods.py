"""The methods beyond TIES: worked examples, slow references, the same bytes however they are run, bad
input."""

from __future__ import annotations

import doctest
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference, slow_methods
from support.checkpoints import children, pico
from support.reference import BF16, assert_same_bits, each_tensor, save_folder
from support.strategies import densities, models

from lrnb.errors import UserError
from lrnb.merging import cpu, engine, random_bits, whole_models
from lrnb.merging.engine import merge_tensors
from lrnb.merging.gpu import Torch
from lrnb.merging.methods import METHODS, find
from lrnb.merging.task_vectors import TaskVectors

F = np.float32


def made_grams(seed: int) -> dict[str, np.ndarray]:
    """Of the layers of `wide` and of the tensors on a device, below."""
    rng, names = np.random.default_rng(seed), ("model.layers.0.q.weight", "model.layers.1.q.weight")
    inputs = [rng.normal(size=(300, 201)) @ rng.normal(size=(201, 201)) for _ in names]
    return {name: (x.T @ x / 300).astype(F) for name, x in zip(names, inputs, strict=True)}


PIECES = st.sampled_from([1, 4, 1 << 17])
DENSE = {"density": 0.4}
OPTIONS = {
    "widen": {},
    "layer_swap": {"bottom": 0.5, "top": 0.0},
    "lines": {"lam_first": 0.3},
    "localize_and_stitch": DENSE,
    "breadcrumbs": DENSE | {"gamma": 0.05},
    "breadcrumbs_ties": DENSE,
    "dare_linear": DENSE | {"seed": 3},
    "dare_ties": DENSE,
    "della_linear": DENSE | {"epsilon": 0.3},
    "della": DENSE,
    "sce": {"select_topk": 0.3},
    "consensus_ta": {},
    "pcb": DENSE,
    "iso_c": {},
    "tsv_m": {},
    "regmean": {"importance": {label: made_grams(seed) for seed, label in enumerate(("ct", "sft"))}},
}


def test_every_method_is_held_to_what_all_must_do():
    """Threads, spans, torch, passes and NaN, below; the paper's methods and slerp have tests of their own."""
    elsewhere = {"average", "task_arithmetic", "ties", "ties_sv", "slerp", "nuslerp"}
    assert OPTIONS.keys() == METHODS.keys() - elsewhere


@pytest.mark.parametrize("method", METHODS)
def test_the_worked_example_of_every_method(method):
    found = doctest.testmod(import_module(f"lrnb.merging.methods.{method}"))
    assert found.failed == 0
    assert found.attempted > 2 or method in ("average", "ties")


def merged(method: str, base: dict, parents: dict, piece: int = 1 << 19, **options) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        patch.setattr(cpu, "BLOCK", max(1, piece // 2))
        return merge_tensors(find(method), base, parents, options)


# against the slow references

SUMS = st.fixed_dictionaries({
    "lam": st.sampled_from([1.0, 0.7]), "normalize": st.booleans(),
    "weights": st.sampled_from([[1.0, 1.0], [0.3, 2.0], [0.0, 1.0]]),
})  # fmt: skip


@settings(max_examples=40)
@given(models(), SUMS, densities, st.sampled_from([0.0, 0.01, 0.2, 0.5]), st.booleans(),
       st.sampled_from(["keep-all", "exact"]), st.sampled_from(["model", "tensor"]), PIECES)  # fmt: skip
def test_breadcrumbs(model, sums, density, gamma, elect, rule, scope, piece):
    base, parents = model
    given_options = sums | {"density": density, "gamma": gamma, "at_threshold": rule}
    method = "breadcrumbs_ties" if elect else "breadcrumbs"
    slow = partial(slow_methods.breadcrumbs, elect=elect)
    if scope == "model":
        wanted = slow(base, parents, **given_options)
    else:
        wanted = each_tensor(slow, base, parents, **given_options)
    assert_same_bits(merged(method, base, parents, piece, trim_scope=scope, **given_options), wanted)


@settings(max_examples=40)
@given(models(), SUMS, densities, st.integers(0, 2**40), st.booleans(), st.booleans(), PIECES)
def test_dare(model, sums, density, seed, rescale, elect, piece):
    base, parents = model
    given_options = sums | {"density": density, "seed": seed, "rescale": rescale}
    method = "dare_ties" if elect else "dare_linear"
    wanted = slow_methods.dare(base, parents, elect=elect, **given_options)
    assert_same_bits(merged(method, base, parents, piece, **given_options), wanted)


@settings(max_examples=40)
@given(models(), SUMS, st.sampled_from([0.2, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.05, 0.09]),
       st.booleans(), st.booleans(), PIECES)  # fmt: skip
def test_della(model, sums, density, epsilon, rescale, elect, piece):
    base, parents = model
    given_options = sums | {"density": density, "epsilon": epsilon, "seed": 7, "rescale": rescale}
    slow = partial(slow_methods.della, elect=elect)
    wanted = each_tensor(slow, base, parents, **given_options)
    assert_same_bits(
        merged("della" if elect else "della_linear", base, parents, piece, **given_options), wanted
    )
    if not epsilon:
        dare = merged("dare_ties" if elect else "dare_linear", base, parents, piece,
                      **{name: x for name, x in given_options.items() if name != "epsilon"})  # fmt: skip
        if rescale:  # 0.2 and its nearest multiple of 2^-32 are one float32
            assert_same_bits(dare, wanted)


@settings(max_examples=40)
@given(models(parents=3), st.sampled_from([0.1, 0.3, 0.5, 1.0]), PIECES)
def test_sce(model, share, piece):
    base, parents = model
    wanted = each_tensor(slow_methods.sce, base, parents, share=share)
    assert_same_bits(merged("sce", base, parents, piece, select_topk=share), wanted)


@settings(max_examples=25)
@given(st.integers(0, 99), st.sampled_from([2, 3]), st.sampled_from([0.1, 0.4, 1.0]), PIECES)
def test_pcb(seed, n, density, piece):
    rng = np.random.default_rng(seed)
    base = {"a": rng.normal(size=(8, 9)).astype(F), "b": rng.normal(size=20).astype(F)}
    parents = {
        label: {name: x + rng.normal(size=x.shape).astype(F) * F(0.3) for name, x in base.items()}
        for label in ("ct", "sft", "third")[:n]
    }
    taus = [np.concatenate([(p[k] - x).reshape(-1) for k, x in base.items()]) for p in parents.values()]
    step = 0.7 * slow_methods.pcb([x.astype(float) for x in taus], density)
    found = merged("pcb", base, parents, piece, density=density, lam=0.7)
    for name, part in {"a": step[:72].reshape(8, 9), "b": step[72:]}.items():
        np.testing.assert_allclose(found[name], base[name] + part, rtol=0, atol=3e-6)


def test_random_numbers_are_philox_whatever_the_part_and_hold_their_share():
    whole = random_bits.random_words(5, "a.weight", 1, 0, 400)
    assert whole.tolist() == [slow_methods.word(5, "a.weight", 1, i) for i in range(400)]
    for start, count in ((1, 7), (8, 8), (13, 100), (399, 1), (4, 0)):
        part = random_bits.random_words(5, "a.weight", 1, start, count)
        assert part.tolist() == whole[start : start + count].tolist()
    many = random_bits.random_words(0, "a.weight", 0, 1 << 33, 100_000)
    assert abs(random_bits.random_marks(0.2, many).mean() - 0.2) < 4 * (0.16 / 100_000) ** 0.5
    assert random_bits.random_marks(1.0, many).all()
    others = [random_bits.random_words(*k, 0, 9) for k in ((1, "a", 0), (0, "b", 0), (0, "a", 1))]
    assert len({x.tobytes() for x in others}) == 3


@settings(max_examples=40)
@given(models(parents=3), densities, st.sampled_from(["keep-all", "exact"]), PIECES)
def test_localize_and_stitch(model, density, rule, piece):
    base, parents = model
    options = {"density": density, "at_threshold": rule}
    wanted = slow_methods.localize_and_stitch(base, parents, **options)
    assert_same_bits(merged("localize_and_stitch", base, parents, piece, **options), wanted)


@settings(max_examples=40)
@given(models(parents=3), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([1, 2, 3]), PIECES)
def test_consensus_ta(model, tall, agree, piece):
    base, parents = model
    options = {"tall": tall, "agree": agree, "lam": 0.7}
    wanted = slow_methods.consensus_ta(base, parents, **options)
    assert_same_bits(merged("consensus_ta", base, parents, piece, **options), wanted)


LAYERED = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.q.weight" for i in range(5)),
    "model.norm.weight",
]


@settings(max_examples=30)
@given(st.data(), PIECES)
def test_methods_by_layer(data, piece):
    some, parents = data.draw(models())
    name = next(iter(some))
    base, two = ({k: x[name].copy() for k in LAYERED} for x in (some, parents["ct"]))
    both = {"ct": two, "sft": {k: parents["sft"][name].copy() for k in LAYERED}}
    depth = dict(zip(LAYERED, [0, 0, 0.25, 0.5, 0.75, 1, 1], strict=True))
    wanted = slow_methods.lines(base, both, first=[0.2, 1.0], last=[0.6, 0.5], depth=depth)
    found = merged(
        "lines", base, both, piece, lam_first={"ct": 0.2, "sft": 1.0}, lam_last={"ct": 0.6, "sft": 0.5}
    )
    assert_same_bits(found, wanted)
    shares = dict(zip(LAYERED, [1, 1, 0.5, 0, 0.5, 1, 1], strict=True))  # 1 below, 1 above, 1 between
    wanted = slow_methods.layer_swap(base, both, shares=shares)
    found = merged("layer_swap", base, both, piece, bottom=0.2, top=0.2, transition=0.2)
    assert_same_bits(found, wanted)
    mirrored = slow_methods.layer_swap(base, both, shares={k: 1 - x for k, x in shares.items()})
    found = merged("layer_swap", base, both, piece, bottom=0.2, top=0.2, transition=0.2, outer="sft")
    assert_same_bits(found, mirrored)


@pytest.mark.parametrize("method", ["layer_swap", "lines"])
def test_a_model_without_layers_is_refused_before_anything_is_written(method, tmp_path):
    for name, tensors in {"base": pico(), **children(pico())}.items():
        save_folder(tmp_path / name, {f"x{i}": x for i, x in enumerate(tensors.values())})
    given_models = {name: tmp_path / name for name in ("ct", "sft")}
    for call in (whole_models.plan_merge, whole_models.merge_checkpoints):
        with pytest.raises(UserError, match=f"{method} goes by layers, and no tensor is called like"):
            call(method, tmp_path / "base", given_models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=40)
@given(st.integers(0, 99), st.sampled_from([1.0, 0.5, 2.0]), st.sampled_from([1.0, 0.6]),
       st.sampled_from([np.dtype(F), BF16]), PIECES)  # fmt: skip
def test_widen(seed, above, calibrated, dtype, piece):
    rng = np.random.default_rng(seed)
    shapes = {"embed.weight": (5, 3), "q.weight": (4, 6), "norm.weight": (7,), "b.weight": (2, 3, 4)}
    base = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    sizes = {"ct": 0.3, "sft": 0.1}
    parents = {
        label: {
            name: (x.astype(F) + size * rng.normal(size=x.shape)).astype(dtype) for name, x in base.items()
        }
        for label, size in sizes.items()
    }
    parents["sft"]["q.weight"][:, 2] = base["q.weight"][:, 2]
    wanted = slow_methods.widen(
        base, parents, above=above, calibrated=calibrated, embeddings=("embed.weight",)
    )
    found = merged("widen", base, parents, piece, above=above, calibrated=calibrated)
    near = 2.0**-7 if dtype == BF16 else 3e-6
    for name, x in found.items():
        assert x.dtype == dtype
        np.testing.assert_allclose(x.astype(float), wanted[name], rtol=near, atol=near / 4)
        if dtype == BF16:  # but for rounding that a last digit turns the other way: the nearest
            close = reference.rounded(np.asarray(wanted[name], F), BF16)
            assert np.mean(x != close) < 0.02


@settings(max_examples=25)
@given(st.integers(0, 99), st.sampled_from([2, 3]), st.sampled_from([np.dtype(F), BF16]), PIECES)
def test_methods_by_matrix_equal_plain_decompositions(seed, n, dtype, piece):
    """Against numpy's SVD of the matrix itself; some of low rank, one that nobody moved."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (9, 4), "layers.0.q.weight": (7, 5), "layers.0.up.weight": (6, 8)}
    shapes |= {"layers.0.norm.weight": (7,), "layers.1.o.weight": (5, 5), "still.weight": (3, 3)}
    base = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    parents = {}
    for label in ("ct", "sft", "third")[:n]:
        moves = {name: rng.normal(size=x.shape) * 0.3 for name, x in base.items()}
        moves["layers.1.o.weight"] = np.outer(rng.normal(size=5), rng.normal(size=5)).round(1)
        moves["still.weight"] = np.zeros((3, 3))
        parents[label] = {k: (x.astype(F) + moves[k].astype(F)).astype(dtype) for k, x in base.items()}
    near = 2.0**-7 if dtype == BF16 else 1e-5
    for method in ("iso_c", "tsv_m"):
        found = merged(method, base, parents, piece, lam=0.7)
        for name, x in base.items():
            taus = [p[name].astype(F).astype(float) - x.astype(float) for p in parents.values()]
            plain = x.ndim < 2 or "embed" in name
            step = sum(taus) / n if plain else getattr(slow_methods, method)(taus)
            wanted = x.astype(float) + 0.7 * step
            np.testing.assert_allclose(found[name].astype(float), wanted, rtol=near, atol=near)
        assert found["still.weight"].tobytes() == base["still.weight"].tobytes()


@settings(max_examples=25)
@given(st.integers(0, 99), st.sampled_from([2, 3]), st.sampled_from([np.dtype(F), BF16]),
       st.sampled_from([0.0, 0.5, 0.9]), PIECES)  # fmt: skip
def test_regmean(seed, n, dtype, alpha, piece):
    """Against normal equations of the weights; one input is 0 in all text, one matrix has no Gram matrix."""
    rng = np.random.default_rng(seed)
    shapes = {"layers.0.q.weight": (7, 5), "layers.0.down.weight": (4, 9), "layers.1.q.weight": (7, 5)}
    shapes |= {"layers.0.norm.weight": (7,)}
    base = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    parents, grams = {}, {}
    for label in ("ct", "sft", "third")[:n]:
        parents[label] = {k: (x.astype(F) + rng.normal(size=x.shape)).astype(dtype) for k, x in base.items()}
        inputs = {name: rng.normal(size=(12, shapes[name][1])) for name in list(shapes)[:2]}
        inputs["layers.0.down.weight"][:, 3] = 0
        grams[label] = {name: (x.T @ x / len(x)).astype(F) for name, x in inputs.items()}
    found = merged("regmean", base, parents, piece, importance=grams, off_diagonal=alpha)
    near = 2.0**-6 if dtype == BF16 else 1e-4
    for name in base:
        own = [p[name].astype(float) for p in parents.values()]
        wanted = sum(own) / n
        if name in grams["ct"]:
            wanted = slow_methods.regmean(own, [g[name].astype(float) for g in grams.values()], alpha)
        if name == "layers.0.down.weight":
            wanted[:, 3] = (sum(own) / n)[:, 3]
        np.testing.assert_allclose(found[name].astype(float), wanted, rtol=near, atol=near)


def test_regmean_refuses_gram_matrices_of_another_model():
    base = {"layers.0.q.weight": np.zeros((4, 5), F)}
    both = {label: {"layers.0.q.weight": np.ones((4, 5), F)} for label in ("ct", "sft")}
    for gram, message in (
        (np.eye(4), r"importance of sft: 'layers.0.q.weight' has the shape \(4, 4\), and the tensor is"),
        (np.full((5, 5), np.nan), "importance of sft: 'layers.0.q.weight' holds NaN or Inf"),
    ):
        grams = {"ct": {}, "sft": {"layers.0.q.weight": gram.astype(F)}}
        with pytest.raises(UserError, match=message):
            merged("regmean", base, both, importance=grams)
    with pytest.raises(UserError, match="importance: give a folder for sft too"):
        merged("regmean", base, both, importance={"ct": {}})


# the same however it is run


@pytest.fixture(scope="module")
def wide() -> tuple[dict, dict]:
    """(base, parents) of 90,000 entries in bfloat16 and float32, many magnitudes equal."""
    rng = np.random.default_rng(1)
    base = {"model.embed_tokens.weight": rng.normal(size=(90, 100)), "model.norm.weight": rng.normal(size=77)}
    base |= {f"model.layers.{i}.q.weight": rng.normal(size=(200, 201)) for i in range(2)}
    base = {name: x.astype(F if "layers.1" in name else BF16) for name, x in base.items()}
    parents: dict[str, dict] = {"ct": {}, "sft": {}}
    for parent in parents.values():
        for name, x in base.items():
            parent[name] = (x.astype(F) + np.round(rng.standard_t(3, size=x.shape) * 8) / 128).astype(x.dtype)
    return base, parents


@pytest.mark.parametrize("method", OPTIONS)
def test_folders_threads_spans_and_torch_give_the_same_bits(method, wide, tmp_path):
    base, parents = wide
    wanted = merged(method, base, parents, **OPTIONS[method])
    assert any((wanted[name] != base[name]).any() for name in base)
    folders = {
        name: save_folder(tmp_path / name, x, shards=2) for name, x in {"base": base, **parents}.items()
    }
    home, written = folders.pop("base"), []
    for threads, span in ((1, 1 << 19), (2, 3001), (3, 70_000)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu.Cpu, "span", span)
            out = tmp_path / "out"
            whole_models.merge_checkpoints(method, home, folders, out, threads=threads, **OPTIONS[method])
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1] == written[2]
    state = whole_models.merge_state(method, home, folders, **OPTIONS[method])
    torch = TaskVectors(base, parents, threads=1, worker=lambda n: Torch(n, "cpu"))
    on_torch = whole_models.merge_state(method, torch, **OPTIONS[method])
    for name, x in wanted.items():
        assert np.array_equal(state[name], x.astype(F))
        if method == "pcb":  # entries at the threshold may fall the other way
            assert np.mean(~np.isclose(on_torch[name], x.astype(F), rtol=2.0**-7, atol=1e-6)) < 1e-3
        elif method in (
            "widen",
            "iso_c",
            "tsv_m",
            "regmean",
        ):  # sums, exp and LAPACK differ in their last digits
            np.testing.assert_allclose(on_torch[name], x.astype(F), rtol=2.0**-7, atol=1e-6)
        else:
            assert np.array_equal(on_torch[name], x.astype(F))


@pytest.mark.parametrize(("method", "options"), [
    *OPTIONS.items(), ("ties", DENSE | {"equalise": "share"}),
    *(("ties_sv", DENSE | {"slack": 0.4, "reserve_by": rule}) for rule in ("magnitude", "random", "layer")),
])  # fmt: skip
def test_tensors_that_stay_on_a_device_give_the_same(method, options, monkeypatch):
    """On torch's CPU, in the place of a GPU."""
    import torch

    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (9, 4), "model.norm.weight": (7,)}
    shapes |= {"model.layers.0.q.weight": (30, 201), "model.layers.1.q.weight": (40, 201)}
    base = {name: rng.normal(size=shape).astype(F) for name, shape in shapes.items()}
    parents = {
        label: {name: x + rng.normal(size=x.shape).astype(F) * F(0.1) for name, x in base.items()}
        for label in ("ct", "sft")
    }
    wanted = merged(method, base, parents, **options)
    monkeypatch.setattr(engine, "on_gpu", lambda models: True)
    there, *others = (
        {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}
        for tensors in (base, *parents.values())
    )
    found = merged(method, there, dict(zip(parents, others, strict=True)), **options)
    for name, x in wanted.items():
        assert isinstance(found[name], torch.Tensor)
        near = 1e-6 if method in ("widen", "iso_c", "tsv_m", "pcb", "regmean") else 0
        np.testing.assert_allclose(found[name].numpy(), x, rtol=0, atol=near)


@pytest.mark.parametrize("method", OPTIONS)
def test_passes_memory_and_parents_that_moved_nothing(method, wide):
    base, parents = wide
    vectors, read = TaskVectors(base, parents, threads=1), []
    vectors.tick = read.append
    whole_models.merge_state(method, vectors, **OPTIONS[method])
    options = find(method).settle(["ct", "sft"], OPTIONS[method])
    once = 9077 if method in ("iso_c", "tsv_m", "regmean") else 0  # vectors and embeddings are not decomposed
    assert sum(read) == options.passes() * vectors.size(vectors.names) - once
    still = merged(method, base, {"ct": base, "sft": base}, **OPTIONS[method])
    assert_same_bits(still, base)


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("where", ["base", "sft"])
def test_nan_and_results_out_of_range_are_refused(method, where):
    names = ("layers.0.w", "layers.1.w")
    given_models = {x: {n: np.ones((40, 40), F) for n in names} for x in ("base", "ct", "sft")}
    for i, label in enumerate(("ct", "sft")):
        given_models[label]["layers.0.w"] += np.arange(1600, dtype=F).reshape(40, 40) * (i + 1)
    given_models[where]["layers.1.w"][3, 3] = np.nan
    with pytest.raises(UserError, match=rf"{where}: 'layers.1.w' holds NaN or Inf in 1 of 1,600"):
        merged(method, given_models.pop("base"), given_models, **OPTIONS[method])
    narrow = {"base": np.float16(6e4), "ct": np.float16(6.5e4), "sft": np.float16(6.5e4)}
    given_models = {x: {n: np.full((40, 40), v) for n in names} for x, v in narrow.items()}
    if method in ("lines", "consensus_ta", "widen"):
        with pytest.raises(UserError, match="merged entries are beyond float16's range"):
            more = {"lam_first": 9} if method == "lines" else {}
            merged(method, given_models.pop("base"), given_models, **OPTIONS[method] | more)


@pytest.mark.parametrize(("method", "options", "message"), [
    ("breadcrumbs", {}, "breadcrumbs needs density, the share of entries kept"),
    ("breadcrumbs", {"density": 0.5, "gamma": 2}, r"gamma must lie in \[0, 1\], got 2"),
    ("breadcrumbs_ties", {"density": 0.5, "weights": 0}, "needs weights other than 0 for one"),
    ("dare_ties", {"density": 0}, r"density must lie in \(0, 1\], got 0"),
    ("dare_linear", {"density": 0.5, "seed": 1.5}, "seed to be a whole number below 2\^53, got 1.5"),
    ("della", {"density": 0.5, "epsilon": 0.5}, "inside of 0 to 1; of ct these are 0.5 and 0.5"),
    ("sce", {"select_topk": 0}, r"select_topk must lie in \(0, 1\], got 0"),
    ("consensus_ta", {"agree": 3}, "agree to be a whole number up to 2, got 3"),
    ("consensus_ta", {"agree": 0.5}, "agree to be a whole number up to 2, got 0.5"),
    ("layer_swap", {"bottom": 0.7, "top": 0.4}, r"bottom \+ top \+ 2 \* transition to be at most 1"),
    ("layer_swap", {"outer": "it"}, "outer: no parent is called 'it'"),
    ("widen", {"above": -1}, "above must be at least 0"),
    ("localize_and_stitch", {"density": 0.5, "lam": 2}, "has no lam; its options are"),
    ("task_arithmetic", {"equalise": "all"}, "equalise must be one of none, norm, share, square"),
])  # fmt: skip
def test_wrong_options_are_refused(method, options, message):
    with pytest.raises(UserError, match=message):
        find(method).settle(["ct", "sft"], options)


@pytest.mark.parametrize("method", ["breadcrumbs", "localize_and_stitch"])
def test_a_density_that_keeps_nothing_is_doubted(method):
    assert find(method).settle(["ct"], {"density": 1e-9}).doubts(["ct"], 1000) == [
        "ct: this density keeps none of 1,000 entries"
    ]


# mergekit


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_of_a_recipe_are_mergekits(method, tmp_path: Path, monkeypatch):
    """Against sparsify.py of mergekit 0.1.5 in float64: a sorted tensor, the ends cut off, by counts."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    states = {"base": {"a.weight": rng.normal(size=(10, 20)).astype(F)}}
    for name in ("ct", "sft"):
        moves = rng.normal(size=(10, 20)).astype(F) * F(0.1)
        states[name] = {"a.weight": states["base"]["a.weight"] + moves}
    for name, tensors in states.items():
        save_folder(tmp_path / "m" / name, tensors)
    (tmp_path / "recipe.yaml").write_text(f"""
merge_method: {method}
base_model: m/base
models:
  - {{model: m/ct, parameters: {{weight: 0.5, density: 0.3, gamma: 0.05}}}}
  - {{model: m/sft, parameters: {{weight: 1.5, density: 0.7}}}}
parameters: {{lambda: 0.6}}
""")
    from lrnb.merging.mergekit import read_recipe

    recipe = read_recipe(tmp_path / "recipe.yaml").arguments()
    assert recipe["gamma"] == {"ct": 0.05, "sft": 0.01}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole_models.merge_checkpoints(**recipe, out="out")
    base, rows = states["base"]["a.weight"].astype(float), []
    for name, weight, density, gamma in (("ct", 0.5, 0.3, 0.05), ("sft", 1.5, 0.7, 0.01)):
        tau = (states[name]["a.weight"] - states["base"]["a.weight"]).astype(float).reshape(-1)
        order, top = np.argsort(abs(tau)), int(gamma * tau.size)
        kept = np.zeros(tau.size, bool)
        kept[order[tau.size - int(density * tau.size) - top : tau.size - top]] = True
        rows.append(weight * tau * kept)
    if method.endswith("ties"):
        up = np.where(sum(rows) >= 0, 1, -1)
        rows = [row * (np.sign(row) == up) for row in rows]
    wanted = base + 0.6 * sum(rows).reshape(base.shape)
    from lrnb.checkpoints.reading import open_checkpoint

    np.testing.assert_allclose(open_checkpoint("out")["a.weight"], wanted, rtol=0, atol=3e-7)
