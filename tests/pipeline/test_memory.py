"""Memory of training: the counted bytes are those of today's library, the paper fits where it says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lrnb.errors import UserError
from lrnb.pipeline import estimate, memory
from lrnb.study.parameters import ROOT, Study, load_study

HIDDEN, TOKENS = 64, 96


def paper(**values: object) -> Study:
    return load_study(ROOT / "params" / "bn.yaml", "paper", values)


def kept_bytes(layers: int, precision: str) -> int:
    """What autograd keeps of a small Llama for the backward pass, its weights aside."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"vocab_size": 80, "hidden_size": HIDDEN, "intermediate_size": 172, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=1))
    model.set_attn_implementation("sdpa")
    weights = {shape for p in model.parameters() for shape in (p.shape, p.shape[::-1])}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in weights:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    rounded = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), rounded:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_layer_keeps_what_is_counted(precision: str) -> None:
    layer = (kept_bytes(5, precision) - kept_bytes(2, precision)) / 3
    assert layer / TOKENS / HIDDEN == pytest.approx(memory.ACTIVATIONS[precision], rel=0.02)


def test_the_paper_fits_eight_gpus_of_80_gb_and_one_of_141() -> None:
    study = paper()
    shape = memory.shape_of(study, estimate.parameters(study))
    states = 16 * shape.parameters
    assert states / 8 < memory.training_bytes(study, shape, 8) < 80e9
    assert states + 2 * shape.parameters < memory.training_bytes(study, shape, 1) < 141e9
    kept = study.model_copy(update={"activation_checkpointing": False})
    assert memory.training_bytes(kept, shape, 8) < 80e9 < 141e9 < memory.training_bytes(kept, shape, 1)
    whole = study.model_copy(update={"sharding": "none"})
    assert memory.training_bytes(whole, shape, 8) > states + 4 * shape.parameters > 80e9


def test_a_dry_run_says_on_which_box_it_fits() -> None:
    told = estimate._boxes([paper()])
    assert told.startswith("8x80 GB: ") and "; 1x141 GB: " in told and told.count("fits") == 2
    assert "does NOT fit" in estimate._boxes([paper(micro_batch=16)])


def test_gpus_that_are_too_small_are_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\ncase "$1" in -L) echo "GPU 0: A";; *) echo 81559;; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    study = paper()
    shape = memory.shape_of(study, estimate.parameters(study))
    with pytest.raises(UserError, match=r"training needs 1\d\d GB on each of 1 GPUs, which have 86 GB"):
        memory.refuse_small_gpus(study, shape)
    memory.refuse_small_gpus(study.model_copy(update={"device": "cpu"}), shape)
