"""A mixture of experts written with its experts packed is the one that is written expert by expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from lrnb import merging
from lrnb.errors import UserError

SIZES = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 2, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 3, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 12}
KINDS = {
    "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8),
    "qwen2_moe": lambda: Qwen2MoeConfig(**SIZES, **EXPERTS),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=3),  # whose names differ, too
}
NAMES = ("base", "ct", "sft")


def written(folder: Path, kind: str) -> Path:
    """Three models, each as transformers writes it (`whole`) and as it lies in memory (`packed`)."""
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(KINDS[kind]())
        model.save_pretrained(folder / "whole" / name)
        model.save_pretrained(folder / "packed" / name, save_original_format=False)
    return folder


def merged(folder: Path, out: str, **layouts: str) -> dict[str, np.ndarray]:
    places = {name: folder / layouts.get(name, "whole") / name for name in NAMES}
    weights = {"ct": 1.0, "sft": 0.5}
    merging.merge_checkpoints("ties", places.pop("base"), places, folder / out, density=0.4, weights=weights)
    return load_file(folder / out / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_every_mixture_of_layouts_gives_the_same_merge(tmp_path: Path, kind: str) -> None:
    folder = written(tmp_path, kind)
    assert set(load_file(folder / "packed/ct/model.safetensors")) != set(
        load_file(folder / "whole/ct/model.safetensors")
    )
    plain = merged(folder, "plain")
    for odd in (["base"], ["sft"], ["base", "ct"]):
        found = merged(folder, "-".join(odd), **dict.fromkeys(odd, "packed"))
        assert found.keys() == plain.keys()
        assert all(np.array_equal(found[name], plain[name]) for name in plain)


def test_experts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A row too few of gate and up: not certain, so advice."""
    folder = written(tmp_path, "qwen3_moe")
    file = folder / "packed/sft/model.safetensors"
    tensors = load_file(file)
    short = {k: x[:, :-2] if "gate_up" in k else x for k, x in tensors.items()}
    save_file({k: np.ascontiguousarray(x) for k, x in short.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="sft is laid out otherwise than the base in its files"):
        merged(folder, "out", sft="packed")
