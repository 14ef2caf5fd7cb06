"""Slerp and nuslerp against numbers worked out by hand, mergekit's formula, and a slow reference."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import reference
from support.checkpoints import children, pico
from support.reference import BF16, assert_same_bits, save_folder
from support.strategies import models
from support.vocabularies import tokenizer_text

from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli import main
from lrnb.errors import UserError
from lrnb.merging import cpu, mergekit
from lrnb.merging.gpu import Torch
from lrnb.merging.methods import nuslerp, slerp
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_checkpoints, merge_state, plan_merge

F = np.float32
shares = st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])


def f32(*x: float) -> np.ndarray:
    return np.array(x, F)


@pytest.mark.parametrize("module", [slerp, nuslerp])
def test_the_worked_examples(module):
    assert doctest.testmod(module).attempted
    assert not doctest.testmod(module).failed


# by hand


def test_slerp_keeps_the_length_of_equally_long_models():
    """60 degrees apart, both of length 2: the middle is at 30 degrees, and as long."""
    merged = slerp.slerp(f32(2, 0), f32(1, math.sqrt(3)), t=0.5)
    np.testing.assert_allclose(merged, [math.sqrt(3), 1], rtol=1e-6)


def test_slerp_of_lengths_that_differ_turns_and_stretches():
    """A right angle, lengths 3 and 4, t = 2/3: sin(30) * 3 east and sin(60) * 4 north."""
    merged = slerp.slerp(f32(3, 0), f32(0, 4), t=2 / 3)
    np.testing.assert_allclose(merged, [1.5, 2 * math.sqrt(3)], rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ([1, 2], [3, 6], [1.5, 3]),  # parallel
        ([4, 0], [-4, 0], [2, 0]),  # opposite
        ([0, 0], [4, 8], [1, 2]),  # zero
        ([4, 8], [0, 0], [3, 6]),
        ([100, 0], [100, 3], [100, 0.75]),  # 1.7 degrees apart, a cosine of 0.99955
    ],
)
def test_the_line_is_taken_where_an_angle_says_nothing(first, second, wanted):
    assert slerp.slerp(f32(*first), f32(*second), t=0.25).tolist() == wanted


def test_the_arc_begins_at_a_cosine_of_9995():
    merged = slerp.slerp(f32(100, 0), f32(100, 3.2), t=0.25)  # 1.83 degrees, 0.99949
    assert merged.tolist() != [100, F(0.8)]
    np.testing.assert_allclose(merged, [100, 0.8], rtol=3e-4)


def test_nuslerp_turns_task_vectors_on_the_base():
    base = f32(10, 20)
    merged = nuslerp.nuslerp(base, base + f32(3, 0), base + f32(0, 4), t=2 / 3)
    np.testing.assert_allclose(merged, [11.5, 20 + 2 * math.sqrt(3)], rtol=1e-6)
    weighted = nuslerp.nuslerp(base, base + f32(3, 0), base + f32(0, 4), weights=[1, 2])
    assert weighted.tolist() == merged.tolist()
    middle = nuslerp.nuslerp(base, base + f32(3, 0), base + f32(0, 4))
    np.testing.assert_allclose(middle, [10 + 3 / math.sqrt(2), 20 + 4 / math.sqrt(2)], rtol=1e-6)


def test_every_tensor_has_its_own_angle():
    first = {"a": f32(1, 0), "b": f32(1, 0), "n": np.arange(3)}
    second = {"a": f32(0, 1), "b": f32(2, 0), "n": np.arange(3)}
    merged = slerp.slerp(first, second, t=0.5)
    np.testing.assert_allclose(merged["a"], [math.sqrt(0.5)] * 2, rtol=1e-6)
    assert merged["b"].tolist() == [1.5, 0]
    assert merged["n"].tolist() == [0, 1, 2]


# mergekit's formula, in float64, on vectors at any angle


def by_mergekit(t: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """slerp of mergekit 0.1.5 (merge_methods/slerp.py), as its docstring and code describe it."""
    unit_a, unit_b = (x / (np.linalg.norm(x) if np.linalg.norm(x) > 1e-8 else 1) for x in (a, b))
    dot = np.clip((unit_a * unit_b).sum(), -1, 1)
    if abs(dot) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(dot)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.dtype(F), BF16])
def test_values_are_mergekits(seed, dtype):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=300).astype(dtype)
    second = (first.astype(F) * rng.normal() + rng.normal(size=300) * 10.0 ** -rng.integers(3)).astype(dtype)
    base, eps = rng.normal(size=300).astype(dtype), 2.0**-8 if dtype == BF16 else 1e-6
    t = rng.random()
    wide = [x.astype(np.float64) for x in (base, first, second)]
    wanted = by_mergekit(t, wide[1], wide[2])
    np.testing.assert_allclose(slerp.slerp(first, second, t=t).astype(float), wanted, rtol=eps, atol=1e-6)
    wanted = wide[0] + by_mergekit(t, wide[1] - wide[0], wide[2] - wide[0])
    np.testing.assert_allclose(
        nuslerp.nuslerp(base, first, second, t=t).astype(float), wanted, rtol=eps, atol=1e-5
    )


# the slow reference


def on_arc(a: list[float], b: list[float], t: float) -> tuple[float, float, bool]:
    """Factors of two vectors, and whether they lie on the arc; sums are exact."""
    aa, bb, ab = (math.fsum(x * y for x, y in zip(p, q, strict=True)) for p, q in ((a, a), (b, b), (a, b)))
    cosine = ab / (math.sqrt(aa) * math.sqrt(bb)) if aa and bb else 1.0
    assume(abs(abs(cosine) - 0.9995) > 1e-9)
    if abs(cosine) > 0.9995:
        return 1 - t, t, False
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle), True


def slow_slerp(base: dict, parents: dict, t: float) -> dict:
    a, b = ([float(x) for tensor in parent.values() for x in tensor.flat] for parent in parents.values())
    first, second, curved = on_arc(a, b, t)
    return reference.average(base, parents, [first, second], keep=not curved)


def slow_nuslerp(base: dict, parents: dict, t: float) -> dict:
    a, b = ([float(x) for x in tau] for tau in reference.task_vectors(base, parents).values())
    return reference.task_arithmetic(base, parents, on_arc(a, b, t)[:2])


@given(models(), shares, st.sampled_from([1, 2, 1 << 19]))
def test_equal_the_reference(model, t, piece):
    base, parents = model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        got = slerp.slerp(parents["ct"], parents["sft"], t=t)
        wanted = reference.each_tensor(slow_slerp, parents["ct"], parents, t)
        assert_same_bits(dict(sorted(got.items())), dict(sorted(wanted.items())))
        got = nuslerp.nuslerp(base, parents["ct"], parents["sft"], t=t)
        wanted = reference.each_tensor(slow_nuslerp, base, parents, t)
        assert_same_bits(dict(sorted(got.items())), dict(sorted(wanted.items())))


@given(models(), shares)
def test_a_tensor_that_nobody_changed_keeps_its_bits(model, t):
    base, parents = model
    for tensors in (base, *parents.values()):
        tensors["still"] = f32(-0.0, 1e-45, 0.1, 3e38)
    assert slerp.slerp(*parents.values(), t=t)["still"].tobytes() == base["still"].tobytes()
    assert nuslerp.nuslerp(base, *parents.values(), t=t)["still"].tobytes() == base["still"].tobytes()


@given(models(), shares, st.sampled_from(["slerp", "nuslerp"]))
def test_the_torch_worker_gives_the_same_bits(model, t, method):
    by_torch = TaskVectors(*model, threads=1, worker=lambda parents: Torch(parents, "cpu"))
    wanted = merge_state(method, TaskVectors(*model, threads=1), t=t)
    assert_same_bits(merge_state(method, by_torch, t=t), wanted)


def large(dtype: np.dtype) -> dict[str, dict[str, np.ndarray]]:
    """base, ct and sft with a tensor of more than one portion, and small ones."""
    rng, made = np.random.default_rng(0), {}
    own = {name: rng.normal(size=n).astype(F) for name, n in (("a", 700_001), ("b", 3000), ("c", 1))}
    for label in ("base", "ct", "sft"):
        step = 0 if label == "base" else 0.3
        made[label] = {name: (x + step * rng.normal(size=x.size)).astype(dtype) for name, x in own.items()}
    return made


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
@pytest.mark.parametrize("dtype", [np.dtype(F), BF16, np.dtype(np.float64)])
def test_same_bytes_for_any_threads_and_spans(method, dtype):
    made = large(dtype)
    parents = {name: made[name] for name in ("ct", "sft")}
    found = []
    for threads, span in [(1, 1 << 19), (3, 1 << 19), (1, 4096), (2, 1013), (2, 70_001)]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu.Cpu, "span", span)
            found.append(merge_state(method, TaskVectors(made["base"], parents, threads=threads), t=0.3))
    for other in found[1:]:
        assert_same_bits(other, found[0])


# what is refused


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("slerp", {"t": 1.5}, r"slerp: t must lie in \[0, 1\], got 1.5"),
        ("slerp", {"t": "half"}, "slerp: t: expected a number, got 'half'"),
        ("slerp", {"weights": 1}, "slerp has no weights; its options are t"),
        ("nuslerp", {"t": 0.5, "weights": 1}, "nuslerp takes t or weights, not both"),
        ("nuslerp", {"weights": 0}, "nuslerp needs weights other than 0 for one parent at least"),
    ],
)
def test_wrong_options_are_refused(method, options, message):
    x = {"w": f32(1, 2)}
    with pytest.raises(UserError, match=message):
        merge_state(method, x, {"ct": x, "sft": x}, **options)


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
@pytest.mark.parametrize("dtype", [np.dtype(F), BF16, np.dtype(np.float64)])
def test_two_finite_models_are_wanted(method, dtype):
    x = {"w": np.ones(3, dtype)}
    for parents in ({"ct": x}, {"ct": x, "sft": x, "it": x}):
        with pytest.raises(UserError, match=f"{method} takes 2 models"):
            merge_state(method, x, parents)
    bad = {"w": np.array([1, np.nan, np.inf], dtype)}
    with pytest.raises(UserError, match="sft: 'w' holds NaN or Inf in 2 of 3"):
        merge_state(method, x, {"ct": x, "sft": bad})


def test_differences_beyond_float32_are_refused():
    with pytest.raises(UserError, match="parent 2 - base is beyond float32"):
        nuslerp.nuslerp(f32(-3e38, 1), f32(1, 1), f32(3e38, 1))


# folders, without a base


TOKENIZER = tokenizer_text(["<unk>", *(f"t{i}" for i in range(1, len(pico()["model.embed_tokens.weight"])))])
ENDS = {"base": "", "a": " ", "b": "  "}  # the same tokens, in files that can be told apart


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with base (float32), a (bfloat16) and b (float32)."""
    made = {"base": pico(), **dict(zip("ab", children(pico()).values(), strict=True))}
    made["a"] = {name: x.astype(BF16) for name, x in made["a"].items()}
    for name, tensors in made.items():
        save_folder(tmp_path / name, tensors)
        (tmp_path / name / "tokenizer.json").write_text(TOKENIZER + ENDS[name])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*given: object) -> int:
    return main.main(["merge", *map(str, given)])


def test_slerp_of_folders_is_that_of_tensors_and_takes_after_the_first(place):
    assert run("slerp", "--model", "a=a", "--model", "b=b", "--t", "0.3", "--out", "m") == 0
    a, b, merged = (open_checkpoint(name) for name in ("a", "b", "m"))
    assert_same_bits(dict(merged), slerp.slerp(dict(a), dict(b), t=0.3))
    assert {x.dtype for x in merged.values()} == {BF16}
    assert (place / "m" / "tokenizer.json").read_text() == TOKENIZER + ENDS["a"]
    assert run("slerp", "--model", "a=a", "--model", "b=b", "--tokenizer", "b", "--out", "n") == 0
    assert (place / "n" / "tokenizer.json").read_text() == TOKENIZER + ENDS["b"]


def test_a_base_that_is_given_is_compared_and_not_used(place, capsys):
    models = ("--model", "a=a", "--model", "b=b")
    assert run("slerp", *models, "--t", "0.3", "--out", "m") == 0
    assert run("slerp", "--base", "base", *models, "--t", "0.3", "--out", "n") == 0
    assert "lrnb: warning: slerp needs no base: the one given was compared" in capsys.readouterr().err
    assert_same_bits(dict(open_checkpoint("n")), dict(open_checkpoint("m")))
    assert "Warning: slerp needs no base" in (place / "n" / "README.md").read_text()
    save_folder(place / "other", {"w": f32(1)})
    assert run("slerp", "--base", "other", *models, "--out", "o") == 2
    assert "is in base but not in a" in capsys.readouterr().err
    assert not (place / "o").exists()


def test_without_a_base_messages_compare_with_the_first_model(place, capsys):
    """By its name, in folders and in memory; the remedy needs no base either."""
    vocabulary, rows = "model.embed_tokens.weight", pico()
    rows = rows | {vocabulary: np.concatenate([rows[vocabulary], rows[vocabulary][:1]])}
    for name, tensors in (("rows", rows), ("other", {"w": f32(1)})):
        save_folder(place / name, tensors)
    for name, wanted in (
        ("rows", "in a but .* in x: their vocabularies differ. .*rows has no tokenizer"),
        ("other", "is in a but not in x .* Give models of one architecture: x is not like a, saved by"),
    ):
        assert run("slerp", "--model", "a=a", "--model", f"x={name}", "--out", "o") == 2
        said = capsys.readouterr().err
        assert re.search(wanted, said) and "base" not in said
        with pytest.raises(UserError, match=wanted):
            merge_state("slerp", None, {"a": "a", "x": name})
    with pytest.raises(UserError, match="parent 1 but .* in parent 2"):
        slerp.slerp(f32(1, 2), f32(1, 2, 3))
    with pytest.raises(UserError, match="parent 1: 'tensor' holds NaN"):
        slerp.slerp(f32(np.nan, 2), f32(1, 2))


def test_a_dict_and_a_tensor_are_not_merged():
    for first, second in (({"x": f32(1)}, f32(1)), (f32(1), {"x": f32(1)})):
        with pytest.raises(UserError, match="parent . is a dict of tensors and parent . is none; give dicts"):
            slerp.slerp(first, second)
    with pytest.raises(UserError, match="parent 1 is a dict of tensors and base is none"):
        nuslerp.nuslerp(f32(1), {"x": f32(1)}, {"x": f32(1)})


def test_slerp_in_memory_has_the_values_of_the_folder(place):
    """Over the opened models of a study, whose base has another dtype than the first parent."""
    merge_checkpoints("slerp", None, {"a": "a", "b": "b"}, "m", t=0.3)
    written = {name: x.astype(F) for name, x in open_checkpoint("m").items()}
    assert_same_bits(merge_state("slerp", TaskVectors("base", {"a": "a", "b": "b"}), t=0.3), written)
    assert_same_bits(merge_state("slerp", None, {"a": "a", "b": "b"}, t=0.3), written)


def test_nuslerp_needs_a_base_and_takes_weights(place, capsys):
    models = ("--model", "a=a", "--model", "b=b")
    assert run("nuslerp", *models, "--out", "m") == 2
    assert "nuslerp needs a base" in capsys.readouterr().err
    with pytest.raises(UserError, match="nuslerp needs a base"):
        merge_checkpoints("nuslerp", None, {"a": "a", "b": "b"}, "m")
    weights = ("--weight", "a=3", "--weight", "b=1")
    assert run("nuslerp", "--base", "base", *models, *weights, "--out", "m") == 0
    assert run("nuslerp", "--base", "base", *models, "--t", "0.25", "--out", "n") == 0
    assert_same_bits(dict(open_checkpoint("n")), dict(open_checkpoint("m")))
    assert "- t: 0.25" in (place / "m" / "README.md").read_text()
    assert run("nuslerp", "--base", "base", *models, *weights, "--t", "0.25", "--out", "o") == 2
    assert "merge nuslerp takes --t or --weight, not both" in capsys.readouterr().err


def test_models_that_are_not_related_are_doubted(place, capsys):
    save_folder(place / "far", {name: x * -5 for name, x in pico().items()})
    assert run("slerp", "--model", "b=b", "--model", "far=far", "--out", "m") == 0
    assert "far: differs from b by 6.00 times the length of b" in capsys.readouterr().err


def test_the_plan_counts_two_passes(place):
    for method in ("slerp", "nuslerp"):
        plan = plan_merge(method, "base", {"a": "a", "b": "b"}, Path("m"))
        read: list[int] = []
        vectors = TaskVectors("base", {"a": "a", "b": "b"})
        vectors.tick = read.append
        merge_state(method, vectors)
        assert sum(read) == 2 * plan["entries"] == plan["passes"] * plan["entries"]


# mergekit's recipes


def recipe(text: str) -> dict:
    Path("recipe.yaml").write_text(text)
    return mergekit.read_recipe("recipe.yaml").arguments()


@pytest.mark.parametrize("listed", ["[{model: b}]", "[{model: a}, {model: b}]", "[{model: b}, {model: a}]"])
def test_a_slerp_recipe_turns_from_its_base_to_the_other_model(place, listed):
    found = recipe(f"merge_method: slerp\nbase_model: a\nmodels: {listed}\nparameters: {{t: 0.3}}\n")
    assert found == {"method": "slerp", "base": None, "models": {"a": "a", "b": "b"}, "t": 0.3}
    assert run("recipe.yaml", "--out", "m") == 0
    assert_same_bits(
        dict(open_checkpoint("m")),
        slerp.slerp(dict(open_checkpoint("a")), dict(open_checkpoint("b")), t=0.3),
    )


def test_a_nuslerp_recipe_weighs_its_models(place):
    listed = "[{model: a, parameters: {weight: 3}}, {model: b, parameters: {weight: 1}}]"
    more = "parameters: {nuslerp_flatten: true, nuslerp_row_wise: false}"
    found = recipe(f"merge_method: nuslerp\nbase_model: base\nmodels: {listed}\n{more}\n")
    weights = {"a": 3.0, "b": 1.0}
    models = {"a": "a", "b": "b"}
    assert found == {"method": "nuslerp", "base": "base", "models": models, "weights": weights}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base_model: a\nmodels: [{model: b}]\nparameters: {t: [0, 2]}",
            r"parameters.t must lie in \[0, 1\]",
        ),
        ("base_model: a\nmodels: [{model: b}]\nparameters: {t: 2}", r"parameters.t must lie in \[0, 1\]"),
        ("base_model: a\nmodels: [{model: b}]\nparameters: {wieght: 2}", "unknown key: 'wieght'"),
        ("base_model: a\nmodels: [{model: b, parameters: {t: 1}}]", "t is for all models; move it"),
        (
            "base_model: a\nmodels: [{model: a}, {model: b}, {model: base}]",
            "takes 2 models, got 3: a, b, base-2",
        ),
        ("base_model: base\nmodels: [{model: a}, {model: b}]", "base_model is the first of the 2 models of"),
        ("base_model: a\nslices: []\nmodels: [{model: b}]", "models and slices are both given"),
    ],
)
def test_slerp_recipes_that_are_refused(place, text, message):
    with pytest.raises(UserError, match=message):
        recipe(f"merge_method: slerp\n{text}\n")


def test_nuslerp_by_rows_is_refused(place):
    for key, value in (("nuslerp_flatten", "false"), ("nuslerp_row_wise", "true")):
        text = "merge_method: nuslerp\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
        with pytest.raises(UserError, match=f"parameters.{key}: .* is not supported. Remove it"):
            recipe(text + f"parameters: {{{key}: {value}}}\n")
