"""A mergekit configuration: the arguments it becomes, what is refused, and mergekit's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from support.reference import save_folder

from lrnb.checkpoints.reading import open_checkpoint
from lrnb.errors import UserError
from lrnb.merging.mergekit import Recipe, read_recipe
from lrnb.merging.whole_models import merge_checkpoints

LIKE_MERGEKIT = {"trim_scope": "tensor", "at_threshold": "exact", "zero_sign": "positive"}
TIES = """
merge_method: ties
base_model: m/base
models:
  - model: m/base
  - model: m/ct
    parameters: {weight: 0.5, density: 0.3}
  - model: m/sft
parameters: {weight: 1.0, density: 0.7, normalize: true, int8_mask: true}
dtype: bfloat16
"""


def recipe(folder: Path, text: str | dict) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
    return read_recipe(path)


def config(method: str = "ties", **more: object) -> dict:
    models = [{"model": "m/ct"}, {"model": "m/sft"}]
    return {"merge_method": method, "base_model": "m/base", "models": models} | more


def options(folder: Path, *given: object, **more: object) -> dict:
    return recipe(folder, config(*given, **more)).options


# the exact arguments


def test_ties_with_own_values_before_shared_ones(tmp_path: Path) -> None:
    found = recipe(tmp_path, TIES)
    assert found.arguments() == {
        "method": "ties",
        "base": "m/base",
        "models": {"ct": "m/ct", "sft": "m/sft"},
        "weights": {"ct": 0.5, "sft": 1.0},
        "density": {"ct": 0.3, "sft": 0.7},
        "dtype": "bfloat16",
        **LIKE_MERGEKIT,
    }
    assert found.notes == ("int8_mask is ignored: it changes no result",)


def test_defaults_are_mergekits(tmp_path: Path) -> None:
    found = recipe(tmp_path, config())
    ones = {"ct": 1.0, "sft": 1.0}
    assert found.options == {"weights": ones, "density": ones, **LIKE_MERGEKIT}
    assert "ct has no weight: 1 is taken" in found.notes[0]
    assert len(found.notes) == 2
    assert (found.dtype, found.tokenizer) == ("auto", "base")


def test_lambda_and_normalize_are_passed_on(tmp_path: Path) -> None:
    given = {"weight": "1e-1", "lambda": 0.5, "normalize": False, "rescale": False, "int8_mask": False}
    found = options(tmp_path, parameters=given)
    assert found["lam"] == 0.5
    assert found["normalize"] is False
    assert found["weights"] == {"ct": 0.1, "sft": 0.1}


@pytest.mark.parametrize(
    ("normalize", "lams"),
    [(None, {"ct": 1.5, "sft": -0.5}), (False, {"ct": 1.5, "sft": -0.5}), (True, {"ct": 0.75, "sft": -0.25})],
)
def test_task_arithmetic_has_lambda_times_weight(tmp_path: Path, normalize: bool | None, lams: dict) -> None:
    models = [
        {"model": "m/ct", "parameters": {"weight": 3, "density": 0.5}},
        {"model": "m/sft", "parameters": {"weight": -1}},
    ]
    found = recipe(
        tmp_path,
        config("task_arithmetic", models=models, parameters={"lambda": 0.5, "normalize": normalize}),
    )
    assert found.arguments() == {
        "method": "task_arithmetic",
        "base": "m/base",
        "models": {"ct": "m/ct", "sft": "m/sft"},
        "lam": lams,
    }
    assert found.notes == ("density is ignored: task_arithmetic does not trim, in mergekit neither",)


def test_task_arithmetic_with_weights_that_cancel_is_not_divided(tmp_path: Path) -> None:
    models = [{"model": f"m/{i}", "parameters": {"weight": w}} for i, w in enumerate((2, -2))]
    found = options(tmp_path, "task_arithmetic", models=models, parameters={"normalize": True})
    assert found == {"lam": {"0": 2, "1": -2}}


def test_linear_without_a_base_takes_the_first_for_shapes(tmp_path: Path) -> None:
    models = [{"model": m, "parameters": {"weight": w}} for m, w in (("a/x", 0.3), ("b/x", 0.9))]
    found = recipe(tmp_path, {"merge_method": "linear", "models": models, "out_dtype": "torch.float16"})
    assert found.arguments() == {
        "method": "average",
        "base": "a/x",
        "models": {"x": "a/x", "x-2": "b/x"},
        "weights": {"x": 0.3, "x-2": 0.9},
        "dtype": "float16",
    }


def test_linear_counts_the_base_as_a_parent(tmp_path: Path) -> None:
    listed = [{"model": "m/base", "parameters": {"weight": 2}}, {"model": "m/ct"}]
    shared = {"weight": 1, "normalize": False}
    found = recipe(tmp_path, config("linear", models=listed, parameters=shared))
    assert found.models == {"base-2": "m/base", "ct": "m/ct"}
    assert found.options == {"weights": {"base-2": 2, "ct": 1}, "normalize": False}
    unlisted = recipe(tmp_path, config("linear", parameters={"weight": 1}))
    assert list(unlisted.models.values()) == ["m/ct", "m/sft", "m/base"]
    assert unlisted.options == {"weights": {"ct": 1, "sft": 1, "base-2": 1}}


def test_ties_sv_protects_the_model_called_like_sft(tmp_path: Path) -> None:
    models = [{"model": "m/ct"}, {"model": "m/my-SFT"}]
    found = recipe(tmp_path, config("ties_sv", models=models, parameters={"slack": 0.1}))
    assert found.method == "ties_sv"
    assert found.options["slack"] == 0.1
    assert found.options["protect"] == "my-SFT"
    named = [{"model": "m/a", "name": "one"}, {"model": "m/b", "name": "two"}]
    given = {"slack_threshold": 1e-3, "protect": "one"}
    found = recipe(tmp_path, config("ties_sv", models=named, parameters=given))
    assert found.models == {"one": "m/a", "two": "m/b"}
    assert found.options["protect"] == "one"
    assert found.options["slack_threshold"] == 1e-3


def test_names_are_unique_and_given_ones_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    models = [{"model": m} for m in ("a/x/", "owner/x", ".", "..", "x/base")]
    models.append({"model": "c", "name": "x"})
    found = recipe(tmp_path, config(models=models)).models
    assert list(found.values()) == ["a/x/", "owner/x", ".", "..", "x/base", "c"]
    assert list(found) == ["x-2", "x-3", "here", tmp_path.name, "base-2", "x"]


def test_an_adapter_on_the_base_is_given_as_a_parent(tmp_path: Path) -> None:
    found = recipe(tmp_path, config(models=[{"model": "m/base+a/lora"}, {"model": "m/sft"}]))
    assert found.models == {"lora": "a/lora", "sft": "m/sft"}
    linear = {"merge_method": "linear", "models": [{"model": "m/base+a/one"}, {"model": "m/base+a/two"}]}
    found = recipe(tmp_path, linear)
    assert (found.base, found.models) == ("m/base", {"one": "a/one", "two": "a/two"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokenizer_source": "base"}, {"vocabulary": "base"}),
        ({"tokenizer_source": "m/base"}, {"vocabulary": "base"}),
        ({"tokenizer_source": "m/sft"}, {"tokenizer": "sft"}),
        ({"tokenizer": {"source": "m/sft"}}, {"tokenizer": "sft"}),
        ({"tokenizer_source": "union"}, {"vocabulary": "owner"}),
        ({"tokenizer": {}}, {"vocabulary": "owner"}),
        ({"tokenizer_source": None}, {}),
    ],
)
def test_tokenizer_is_the_bases_or_one_models_and_union_is_owner(
    tmp_path: Path, given: dict, said: dict
) -> None:
    found = recipe(tmp_path, config(**given)).arguments()
    assert {key: found[key] for key in ("tokenizer", "vocabulary") if key in found} == said


def test_out_dtype_goes_before_dtype_and_says_so(tmp_path: Path) -> None:
    shared = {"weight": 1}
    found = recipe(tmp_path, config(dtype="float32", out_dtype="bfloat16", parameters=shared))
    assert found.dtype == "bfloat16"
    assert found.notes == ("dtype float32 is ignored: arithmetic is float32, out_dtype is written",)


# what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"merge_method": "arcee_fusion"},
            "merge_method 'arcee_fusion' is not supported; supported: linear, task_ari",
        ),
        ({"merge_method": "dare_tis"}, "did you mean 'dare_ties'"),
        ({"merge_method": "ties-sv"}, "did you mean 'ties_sv'"),
        ({"merge_method": None}, "merge_method 'None'"),
        ({"modules": {}}, "modules is not supported"),
        ({"chat_template": "chatml"}, "chat_template 'chatml': only auto is supported"),
        ({"merge_metod": "ties"}, "unknown key: 'merge_metod' is not supported; .* mean 'merge_method'"),
        ({"weight": 1}, "weight goes under `parameters:`"),
        ({"base_model": None}, "base_model, needed by ties: expected text"),
        ({"base_model": {"model": "m/base"}}, "base_model, needed by ties: expected text"),
        ({"base_model": "m/base+lora"}, "merge the adapter into its model first"),
        ({"models": None}, "models must list at least one"),
        ({"models": ["m/ct"]}, r"models\[0\]: expected `key: value` lines"),
        ({"models": [{"model": "m/base"}]}, "models lists only the base"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, r"models\[1\]: a is listed twice"),
        ({"models": [{"model": "a", "weight": 1}]}, r"models\[0\]: weight goes under `parameters:`"),
        ({"models": [{"model": "a", "parameters": {"wieght": 1}}]}, "'wieght' .* mean 'weight'"),
        ({"models": [{"model": "a", "parameters": {"lambda": 1}}]}, "lambda is for all models; move it"),
        ({"models": [{"model": "a", "parameters": [1]}]}, "expected `key: value` lines"),
        ({"models": [{"model": "a", "name": "x"}, {"model": "b", "name": "x"}]}, "'x' is taken"),
        ({"models": [{"model": "a", "name": "base"}]}, "'base' is taken"),
        ({"models": [{"model": "other+lora"}]}, r"models\[0\]: other\+lora: only m/base\+ADAPTER"),
        ({"parameters": {"weight": []}}, "parameters.weight: no value"),
        ({"parameters": {"weight": [0, "much"]}}, "weight: expected a number, got 'much'"),
        ({"parameters": {"density": [0.5, 1.5]}}, r"density must lie in \(0, 1\], got 1.5"),
        (
            {"parameters": {"density": [{"filter": "mlp", "value": [1, 0]}]}},
            r"density\[0\].value must lie",
        ),
        ({"parameters": {"density": [{"pattern": "mlp", "value": 1}]}}, r"density\[0\]: expected `value"),
        (
            {"parameters": {"density": [{"filter": 3, "value": 1}]}},
            "filter: expected a part of tensors",
        ),
        ({"parameters": {"normalize": [True, False]}}, "normalize: one value for the whole model"),
        ({"parameters": {"tt": 0.5}}, "unknown key: 'tt' is not supported; supported: density, int8_mask"),
        ({"parameters": {"slack": 0.5}}, "'slack' is not supported"),
        ({"parameters": {"rescale": True}}, "rescale: True is not supported. Remove it"),
        ({"parameters": {"normalize": "maybe"}}, "normalize: expected true or false, got 'maybe'"),
        ({"parameters": {"weight": "much"}}, "weight: expected a number, got 'much'"),
        ({"parameters": {"weight": True}}, "weight: expected a number"),
        ({"parameters": {"weight": -1}}, "weight must be at least 0, got -1"),
        ({"parameters": {"weight": float("nan")}}, "weight must be"),
        ({"parameters": {"density": 0}}, r"density must lie in \(0, 1\]"),
        ({"parameters": {"density": 1.5}}, r"density must lie in \(0, 1\]"),
        ({"dtype": "float64"}, "dtype 'float64' is not supported; supported: float32"),
        ({"out_dtype": "int8"}, "dtype 'int8' is not supported"),
        ({"tokenizer_source": "m/other"}, "tokenizer source 'm/other'"),
        ({"tokenizer": {"source": "base", "tokens": {}}}, "unknown key: 'tokens'"),
        ({"tokenizer": {"source": "base"}, "tokenizer_source": "base"}, "both given; keep one"),
    ],
)
def test_refused_by_name(tmp_path: Path, given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recipe(tmp_path, config() | given)
    assert str(caught.value).startswith(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protect": "it"}, "needs one of slack"),
        ({"slack": 0.1, "slack_threshold": 0.1, "protect": "it"}, "needs one of slack"),
        ({"slack": 2}, r"slack must lie in \[0, 1\], got 2"),
        ({"slack": 0.1, "protect": "left"}, "protect: no parent is called 'left'; give one of ct, it"),
        ({"slack": 0.1}, "protect: no parent is called 'sft'; give one of ct, it"),
    ],
)
def test_ties_sv_needs_one_slack_and_knows_whom_to_protect(tmp_path: Path, given: dict, message: str) -> None:
    models = [{"model": "m/ct"}, {"model": "m/it"}]
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, config("ties_sv", models=models, parameters=given))


def test_linear_does_not_merge_an_unweighted_base(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="linear merges base_model too: give it a weight, or remove it"):
        recipe(tmp_path, config("linear"))


def test_what_the_method_does_not_read_is_passed_over_as_in_mergekit(tmp_path: Path) -> None:
    found = recipe(tmp_path, config("linear", parameters={"weight": 1, "density": 0.5, "t": [0, 1]}))
    assert found.by_tensor is None
    assert found.notes == tuple(
        f"{key} is ignored: linear does not read it, in mergekit neither" for key in ("density", "t")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: ties\nmerge_method: linear\n", "given twice in the block at line 1"),
        (TIES.replace("density: 0.3}", "density: 0.3, weight: 2}"), "'weight'. given twice .* line 7"),
        ("- ties\n", "expected `merge_method: ...`"),
        ("merge_method: [ties\n", "cannot be read as YAML"),
        ("merge_method: !!python/name:os.system\n", "cannot be read as YAML"),
        ("when: 2024-13-45\n", "cannot be read as YAML"),
        ("[" * 5000, "cannot be read as YAML"),
        ("", "expected `merge_method: ...`"),
        ("merge_method: ties\nbase_model: b\nmodels: &a [*a]\n", "expected `key: value` lines"),
    ],
)
def test_text_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, text)


def test_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        read_recipe(tmp_path / "x.yaml")


# the merge itself, against mergekit's formulas in float64


def mergekit(method: str, base: np.ndarray, parents: list[dict], lam: float, normalize: bool) -> np.ndarray:
    """One tensor, as merge_methods/{linear,generalized_task_arithmetic}.py of mergekit 0.1.5 compute it."""
    weights = np.array([p["weight"] for p in parents])[:, None]
    arrays = np.array([p["array"].astype(float).reshape(-1) for p in parents])
    if method == "linear":
        total = (weights * arrays).sum(0)
        return (total / weights.sum() if normalize else total).reshape(base.shape)
    deltas = arrays - base.astype(float).reshape(-1)
    if method == "ties":
        for delta, parent in zip(deltas, parents, strict=True):
            k = max(1, int(parent["density"] * delta.size))
            delta[np.argsort(-np.abs(delta), kind="stable")[k:]] = 0
    deltas = deltas * weights
    up = np.where(deltas.sum(0) >= 0, 1, -1)
    mask = np.sign(deltas) == up if method == "ties" else np.ones_like(deltas, bool)
    divisor = (weights * mask).sum(0)
    step = (deltas * mask).sum(0) / (np.where(divisor == 0, 1, divisor) if normalize else 1)
    return base.astype(float) + lam * step.reshape(base.shape)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_the_merge_is_mergekits(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (6, 5), "b.weight": (20,)}
    states = {}
    for name in ("base", "ct", "sft"):
        states[name] = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        if name != "base":
            states[name] = {key: states["base"][key] + 0.1 * x for key, x in states[name].items()}
        save_folder(Path("m") / name, states[name])
    given = {"ct": {"weight": 0.5}, "sft": {"weight": 1.5}}
    if method == "ties":
        given = {name: x | {"density": d} for (name, x), d in zip(given.items(), (0.3, 0.7), strict=True)}
    lam = 1.0 if method == "linear" else 0.6
    models = [{"model": f"m/{name}", "parameters": x} for name, x in given.items()]
    text = config(method, models=models, parameters={} if method == "linear" else {"lambda": lam})
    if method == "linear":
        del text["base_model"]
    merge_checkpoints(**recipe(tmp_path, text).arguments(), out="out")
    merged = open_checkpoint("out")
    for key in shapes:
        parents = [x | {"array": states[name][key]} for name, x in given.items()]
        wanted = mergekit(method, states["base"][key], parents, lam, normalize=method != "task_arithmetic")
        np.testing.assert_allclose(merged[key], wanted, rtol=0, atol=3e-7)


@pytest.mark.parametrize("given", ["{}", "{t: [{filter: mlp, value: 0.3}]}"])
def test_slerp_without_t_says_what_is_taken(tmp_path, given):
    text = f"merge_method: slerp\nbase_model: a\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {given}\n"
    found = recipe(tmp_path, text)
    assert found.notes == ("t is not given everywhere: 0.5 is taken there (mergekit wants it written)",)
    assert recipe(tmp_path, text.replace(given, "{t: [{filter: mlp, value: 0.3}, {value: 0.5}]}")).notes == ()


def test_what_a_later_slice_lacks_is_said(tmp_path):
    found = recipe(tmp_path, """
        merge_method: slerp
        base_model: a
        slices:
        - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
          parameters: {t: 0.3}
        - sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]
    """)  # fmt: skip
    assert found.notes[0].startswith("t is not given everywhere: 0.5")
