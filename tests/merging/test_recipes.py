"""Recipes of the shapes that mergekit 0.1.5 documents: what becomes of each, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.reference import save_folder

from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.merging.mergekit import read_recipe
from lrnb.merging.whole_models import merge_checkpoints, plan_merge

LAYERS = 5
EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"
NAMES = [
    EMBED,
    *(f"model.layers.{i}.{m}.weight" for i in range(LAYERS) for m in ("self_attn.q_proj", "mlp.up")),
]
NAMES.append(NORM)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, np.ndarray]]:
    """Three folders base, ct and sft, where the test runs; their tensors, with a -0.0 in each."""
    monkeypatch.chdir(tmp_path)
    rng, found = np.random.default_rng(1), {}
    base = {name: rng.normal(size=(4, 6)).astype(np.float32) for name in NAMES}
    for label in ("base", "ct", "sft"):
        step = 0.0 if label == "base" else 0.1
        tensors = {name: np.float32(x + step * rng.normal(size=x.shape)) for name, x in base.items()}
        for x in tensors.values():
            x[0, 0] = -0.0
        found[label] = tensors
        save_folder(Path(label), tensors)
    return found


def merged(text: str) -> dict[str, np.ndarray]:
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    merge_checkpoints(**read_recipe("recipe.yaml").arguments(), out="out")
    return dict(open_checkpoint("out"))


def layer(name: str) -> int:
    return int(name.split(".")[2]) if "layers" in name else (-1 if name == EMBED else LAYERS)


def line(points: list[float], name: str, start: int = 0, stop: int = LAYERS) -> float:
    """numpy's own interpolation along a slice; the first value outside the layers, as in mergekit."""
    at = layer(name) if "layers" in name else start
    return float(np.interp((at - start) / (stop - start - 1), np.linspace(0, 1, len(points)), points))


def linear(models: dict, weights: dict[str, float], name: str) -> np.ndarray:
    total = sum(w * models[m][name].astype(float) for m, w in weights.items())
    return total / sum(weights.values())


def arc(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    a, b = a.astype(float), b.astype(float)
    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


GRADIENT_SLERP = """
slices:
  - sources:
      - {model: ct, layer_range: [0, 5]}
      - {model: sft, layer_range: [0, 5]}
merge_method: slerp
base_model: ct
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.25]}
    - value: 0.5
  int8_mask: true
"""


def test_slerp_with_a_gradient_for_attention_and_one_for_mlp(models: dict) -> None:
    found = merged(GRADIENT_SLERP)
    for name in NAMES:
        t = line([0, 0.5, 0.3, 0.7, 1], name) if "self_attn" in name else line([1, 0.25], name)
        t = t if "layers" in name else 0.5
        np.testing.assert_allclose(found[name], arc(models["ct"][name], models["sft"][name], t), atol=2e-7)


def test_layers_swapped_by_passthrough_keep_every_bit(models: dict) -> None:
    found = merged("""
slices:
  - sources: [{model: ct, layer_range: [0, 2]}]
  - sources: [{model: sft, layer_range: [2, 4]}]
  - sources: [{model: ct, layer_range: [4, 5]}]
merge_method: passthrough
dtype: float32
""")
    for name in NAMES:
        owner = "sft" if layer(name) in (2, 3) else "ct"
        assert found[name].tobytes() == models[owner][name].tobytes()


def test_a_model_of_one_slice_has_no_part_in_the_others(models: dict) -> None:
    text = """
slices:
  - sources: [{model: ct, layer_range: [0, 2], parameters: {weight: 0.5}}, {model: base, layer_range: [0, 2]}]
  - sources: [{model: sft, layer_range: [2, 5], parameters: {weight: 0.5}}]
merge_method: task_arithmetic
base_model: base
"""
    found = merged(text)
    for name in NAMES:
        own, base = models["ct" if layer(name) < 2 else "sft"][name], models["base"][name]
        np.testing.assert_allclose(found[name], base + 0.5 * (own - base), atol=2e-7)
    assert read_recipe("recipe.yaml").notes == ()


def test_passthrough_with_a_scale_on_some_tensors(models: dict) -> None:
    found = merged("""
models:
  - model: ct
    parameters: {scale: [{filter: mlp, value: 0.5}, {value: 1.0}]}
merge_method: passthrough
""")
    for name in NAMES:
        assert (found[name] == models["ct"][name] * np.float32(0.5 if "mlp" in name else 1)).all()


def test_slices_of_other_weights_and_a_transition(models: dict) -> None:
    found = merged("""
merge_method: linear
slices:
  - sources:
      - {model: ct, layer_range: [0, 2], parameters: {weight: 3}}
      - {model: sft, layer_range: [0, 2], parameters: {weight: 1}}
  - sources:
      - {model: ct, layer_range: [2, 5]}
      - {model: sft, layer_range: [2, 5], parameters: {weight: [1, 0.5]}}
    parameters: {weight: 0.25}
parameters: {weight: 9}
""")
    for name in NAMES:
        weights = {"ct": 3, "sft": 1} if layer(name) < 2 else {"ct": 0.25, "sft": line([1, 0.5], name, 2, 5)}
        np.testing.assert_allclose(found[name], linear(models, weights, name), atol=2e-7)


def test_a_weight_below_0_leads_away_from_a_model(models: dict) -> None:
    found = merged("""
models: [{model: ct, parameters: {weight: 1.5}}, {model: sft, parameters: {weight: -0.5}}]
merge_method: linear
""")
    for name in NAMES:
        np.testing.assert_allclose(found[name], linear(models, {"ct": 1.5, "sft": -0.5}, name), atol=2e-7)


def test_ties_with_densities_and_weights_along_the_layers(models: dict) -> None:
    found = merged("""
models:
  - {model: ct, parameters: {density: [0.25, 0.75], weight: [{filter: mlp, value: [0.5, 1]}, {value: 1}]}}
  - {model: sft, parameters: {density: 0.5, weight: 0.7}}
merge_method: ties
base_model: base
parameters: {normalize: true, lambda: 0.5}
""")
    base = models["base"]
    for name in NAMES:
        ws = [line([0.5, 1], name) if "mlp" in name else 1, 0.7]
        taus = []
        for label, density, w in zip(("ct", "sft"), (line([0.25, 0.75], name), 0.5), ws, strict=True):
            tau = (models[label][name] - base[name]).reshape(-1).astype(float)
            tau[np.argsort(-np.abs(tau), kind="stable")[round(density * tau.size) :]] = 0
            taus.append(w * tau)
        up = np.where(sum(taus) >= 0, 1, -1)
        mask = [np.sign(tau) == up for tau in taus]
        bottom = sum(w * m for w, m in zip(ws, mask, strict=True))
        step = sum(tau * m for tau, m in zip(taus, mask, strict=True)) / np.where(bottom == 0, 1, bottom)
        wanted = base[name].reshape(-1) + 0.5 * step
        np.testing.assert_allclose(found[name].reshape(-1), wanted, atol=2e-7)


def test_task_arithmetic_and_nuslerp_by_weights(models: dict) -> None:
    listed = "models: [{model: ct, parameters: {weight: [1, 0]}}, {model: sft, parameters: {weight: 0.5}}]\n"
    found = merged(listed + "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 0.5}\n")
    for name in NAMES:
        taus = [models[label][name].astype(float) - models["base"][name] for label in ("ct", "sft")]
        wanted = models["base"][name] + 0.5 * (line([1, 0], name) * taus[0] + 0.5 * taus[1])
        np.testing.assert_allclose(found[name], wanted, atol=2e-7)
    found = merged(listed + "merge_method: nuslerp\n")
    for name in NAMES:
        t = 0.5 / (0.5 + line([1, 0], name))
        np.testing.assert_allclose(found[name], arc(models["ct"][name], models["sft"][name], t), atol=2e-7)


def test_the_plan_shows_groups_and_the_card_says_where_they_are(models: dict, capsys) -> None:
    Path("recipe.yaml").write_text(GRADIENT_SLERP, encoding="utf-8")
    plan = plan_merge(**read_recipe("recipe.yaml").arguments(), out="out")
    groups = plan["recipe"]["by_tensor"]
    assert sorted(name for group in groups for name in group["tensors"]) == sorted(NAMES)
    assert {group["t"] for group in groups if NORM in group["tensors"]} == {0.5}
    assert main(["merge", "recipe.yaml", "--out", "out", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(groups)} groups of tensors" in shown
    assert "model.layers.0.self_attn" in shown
    merge_checkpoints(**read_recipe("recipe.yaml").arguments(), out="out")
    assert f"{len(groups)} groups of tensors, all in manifest.json" in Path("out/README.md").read_text()


# every recipe of mergekit's examples and guides, in short: merged, or refused by the name of a key

ONE, TWO = "{model: ct, layer_range: [0, 5]}", "{model: sft, layer_range: [0, 5]}"
BOTH = (
    "models: [{model: ct, parameters: {weight: 0.5, density: 0.5}}, {model: sft, parameters: {weight: 0.5}}]"
)
MERGED = {
    "linear": "models: [{model: ct, parameters: {weight: 1.0}}, {model: sft, parameters: {weight: 0.3}}]\n"
    "merge_method: linear\ndtype: float16",
    "gradient slerp": GRADIENT_SLERP,
    "ties": f"{BOTH}\nmerge_method: ties\nbase_model: base\nparameters: {{normalize: true, int8_mask: true}}",
    "bio merge": f"{BOTH}\nmerge_method: ties\nbase_model: base\nparameters: {{normalize: false}}",
    "slerp of slices": f"slices: [{{sources: [{ONE}, {TWO}]}}]\nmerge_method: slerp\nbase_model: ct\n"
    "parameters: {t: 0.5}\ndtype: bfloat16",
    "chat template": f"{BOTH}\nmerge_method: ties\nbase_model: base\nchat_template: auto",
    "tokenizer of the base": f"{BOTH}\nmerge_method: ties\nbase_model: base\ntokenizer_source: base",
    "task arithmetic": f"{BOTH}\nmerge_method: task_arithmetic\nbase_model: base\nparameters: {{lambda: 1}}",
    "nuslerp": f"{BOTH}\nmerge_method: nuslerp\nbase_model: base",
    "out_dtype": f"{BOTH}\nmerge_method: linear\ndtype: float32\nout_dtype: bfloat16",
}
STACKED = f"slices: [{{sources: [{ONE}]}}, {{sources: [{{model: sft, layer_range: [3, 5]}}]}}]\n"
REFUSED = {
    "44 layers": (f"{STACKED}merge_method: passthrough", r"slices\[1\].sources\[0\].layer_range: \[3, 5\]"),
    "layers in other places": (
        "slices: [{sources: [{model: ct, layer_range: [0, 4]}, {model: sft, layer_range: [1, 5]}]}]\n"
        "merge_method: linear",
        r"sources\[1\].layer_range: \[1, 5\] where a slice from layer 0",
    ),
    "layers left out": (
        "slices: [{sources: [{model: ct, layer_range: [0, 4]}]}]\nmerge_method: passthrough",
        "the slices have 4 layers and the models 5",
    ),
    "two of passthrough": (
        f"slices: [{{sources: [{ONE}, {TWO}]}}]\nmerge_method: passthrough",
        r"slices\[0\].sources: 2 models to merge, and passthrough takes 1 in every slice",
    ),
    "a slice of one in a slerp": (
        f"slices: [{{sources: [{ONE}]}}]\nmerge_method: slerp", "1 models to merge, and slerp takes 2"
    ),
    "models and slices": (f"{BOTH}\n{STACKED}merge_method: linear", "models and slices are both given"),
    "no range": ("slices: [{sources: [{model: ct}]}]\nmerge_method: passthrough", "expected .first, one"),
    "no slice": ("slices: []\nmerge_method: passthrough", "slices must list at least one"),
    "modules": ("modules: {text: {}}\nmerge_method: linear", "modules is not supported"),
    "moe": ("base_model: base\ngate_mode: hidden\nexperts: []", "merge_method '.not given.' is not"),
    "model_stock": (f"{BOTH}\nmerge_method: model_stock\nbase_model: base", "merge_method 'model_stock'"),
    "chatml": (f"{BOTH}\nmerge_method: linear\nchat_template: chatml", "chat_template 'chatml': only auto"),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_a_documented_recipe_is_merged(name: str, models: dict) -> None:
    assert set(merged(MERGED[name])) == set(NAMES)


@pytest.mark.parametrize("name", REFUSED)
def test_another_is_refused_by_the_key(name: str, models: dict) -> None:
    text, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        merged(text)
    assert not Path("out").exists()


def test_options_by_tensor_from_python(models: dict) -> None:
    folders = {"ct": "ct", "sft": "sft"}
    merge_checkpoints(
        "average", "base", folders, "out", by_tensor=lambda name, place: {"alpha": 1 - place.depth}
    )
    found = open_checkpoint("out")
    for name in NAMES:
        alpha = 1 - np.clip(layer(name) / (LAYERS - 1), 0, 1)
        np.testing.assert_allclose(
            found[name], linear(models, {"ct": alpha, "sft": 1 - alpha}, name), atol=2e-7
        )
    with pytest.raises(UserError, match=r"ties: options that differ .* .trim_scope='tensor'."):
        merge_checkpoints("ties", "base", folders, "two", by_tensor=lambda name, place: {"density": 0.5})
    with pytest.raises(UserError, match=r"average, model.embed_tokens.weight: alpha must lie in"):
        merge_checkpoints("average", "base", folders, "two", by_tensor=lambda name, place: {"alpha": 2})
    assert not Path("two").exists()
