"""A parent whose config.json contradicts its own tensors, which fit those of the base all the same."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from support.pico import pico_tokenizer

from lrnb.errors import UserError
from lrnb.merging.whole_models import merge_checkpoints, plan_merge

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FEED, HEADS = {"intermediate_size": 48}, {"num_key_value_heads": 2, "head_dim": 8}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 28, "patch_size": 14},
}
GEMMA3 = {"text_config": SIZES | FEED | HEADS, "vision_config": VISION, "mm_tokens_per_image": 4}
KINDS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, **FEED, **HEADS, max_position_embeddings=64),
    "gemma3": lambda: transformers.Gemma3Config(
        **GEMMA3, image_token_index=60, boi_token_index=61, eoi_token_index=62
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, **FEED, **HEADS, num_experts=3, moe_intermediate_size=16
    ),
}
WRONG = [
    ("llama", "hidden_size", 64, 32, r"'.*' is \(64, 32\), and its config.json describes \(64, 64\)"),
    ("llama", "vocab_size", 96, 64, r"'.*' is \(64, 32\), and its config.json describes \(96, 32\)"),
    ("llama", "intermediate_size", 32, 48, r"is \(32, 48\), and its config.json describes \(32, 32\)"),
    ("llama", "num_hidden_layers", 3, 2, "its weights lack 'model.layers.2."),
    ("llama", "num_hidden_layers", 1, 2, "leaves no place for 'model.layers.1."),
    ("gemma3", "hidden_size", 64, 32, "language_model.*describes"),
    ("gemma3", "vocab_size", 63, 64, r"language_model.*describes \(63, 32\)"),
    ("gpt2", "n_positions", 32, 64, r"wpe.weight' is \(64, 32\), and its config.json describes \(32, 32\)"),
    ("qwen3_moe", "num_local_experts", 4, 3, "experts.*describes"),
    ("qwen3_moe", "moe_intermediate_size", 8, 16, "experts.*describes"),
]
ALLOWED = [
    ("llama", {"max_position_embeddings": 32, "use_cache": False, "pad_token_id": 3, "mine": 5}),
    ("llama", {"head_dim": None, "num_key_value_heads": None, "hidden_size": None}),
    ("gemma3", {"sliding_window": 8, "mm_tokens_per_image": 1, "image_token_index": 59}),
    ("gpt2", {"n_embd": None, "hidden_size": 32, "n_ctx": 5}),
    ("qwen3_moe", {"num_experts_per_tok": 1, "intermediate_size": 96}),  # no layer of it is dense
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each kind."""
    place = tmp_path_factory.mktemp("kinds")
    for kind, config in KINDS.items():
        transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(place / kind)
        pico_tokenizer().save_pretrained(place / kind)
    return place


def with_settings(base: Path, folder: Path, **settings: Any) -> Path:
    """The model again, with other numbers in its config.json; None takes one away."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in settings.items():
        home = config["text_config"] if key in config.get("text_config", {}) else config
        home[key] = value
        if value is None:
            del home[key]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("kind", "key", "value", "real", "told"), WRONG)
def test_a_size_that_the_tensors_do_not_have_is_refused_by_name(
    saved: Path, tmp_path: Path, kind: str, key: str, value: int, real: int, told: str
) -> None:
    ct = with_settings(saved / kind, tmp_path / "ct", **{key: value})
    message = rf"ct/config\.json: {key} is {value}, by the tensors it must be {real}: .*{told}"
    with pytest.raises(UserError, match=message):
        merge_checkpoints("average", saved / kind, {"sft": saved / kind, "ct": ct}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "settings"), ALLOWED)
def test_numbers_that_decide_no_shape_and_those_left_out_are_let_be(
    saved: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    ct = with_settings(saved / kind, tmp_path / "ct", **settings)
    merge_checkpoints("average", saved / kind, {"ct": ct}, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_absurd_number_is_refused_before_anything_is_built(saved: Path, tmp_path: Path) -> None:
    ct = with_settings(saved / "llama", tmp_path / "ct", num_hidden_layers=10**9)
    with pytest.raises(UserError, match=r"ct/config\.json: num_hidden_layers is 1000000000, and the folder"):
        plan_merge("average", saved / "llama", {"ct": ct}, tmp_path / "out")


def test_rows_are_those_of_each_model_where_vocabularies_differ(saved: Path, tmp_path: Path) -> None:
    base, tokenizer = saved / "llama", pico_tokenizer()
    tokenizer.add_tokens(["new", "newer"])
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(72, mean_resizing=False)
    for whole in (model, tokenizer):
        whole.save_pretrained(tmp_path / "ct")
    stale = with_settings(tmp_path / "ct", tmp_path / "stale", vocab_size=64)
    message = r"stale/config\.json: vocab_size is 64, by the tensors it must be 72: .*describes \(64, "
    for policy in ("owner", "base", "body=ct"):
        how: dict[str, Any] = {"vocabulary": policy}
        report = plan_merge("average", base, {"ct": tmp_path / "ct"}, tmp_path / "out", **how)
        assert report["vocabulary"]["rows"] == (64 if policy == "base" else 72)
        with pytest.raises(UserError, match=message):
            plan_merge("average", base, {"ct": stale}, tmp_path / "out", **how)


def test_a_process_of_its_own_finds_it(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `lrnb merge`, which imports no transformers."""
    ct = with_settings(saved / "llama", tmp_path / "ct", hidden_size=128)
    monkeypatch.delitem(sys.modules, "transformers")
    with pytest.raises(UserError, match=r"ct/config\.json: hidden_size is 128, by the tensors it must be 32"):
        plan_merge("average", saved / "llama", {"ct": ct}, tmp_path / "out")


def test_what_is_merged_is_what_was_merged(saved: Path, tmp_path: Path) -> None:
    """Looking changes no value."""
    ct = with_settings(saved / "llama", tmp_path / "ct", max_position_embeddings=32)
    merge_checkpoints("average", saved / "llama", {"ct": ct}, tmp_path / "out")
    merge_checkpoints("average", saved / "llama", {"ct": saved / "llama"}, tmp_path / "same")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "same"))
    assert np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
