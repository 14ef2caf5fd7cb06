"""What training holds in the memory of one device, and whether that fits: plain arithmetic.

For N parameters in float32: weights, gradients and Adam's two moments, 16 N; in bf16 the rounded weights
too. Activations of a Llama layer take 55.6 bytes a token and hidden unit in bf16 and 83.1 in float32 (counted
by saved-tensor hooks, transformers 5.23, SDPA, MLP 2.69 times as wide; tests/pipeline/test_memory.py does so
again). With activation checkpointing a layer keeps its input, and one layer at a time the rest. Logits:
14 bytes a token and word (bf16 and float32, the loss's copy, its gradient).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from lrnb.errors import UserError
from lrnb.pipeline import supplies
from lrnb.pipeline.notebooks import usable_gpus
from lrnb.study.parameters import Study, batch_shares

STATES = {"adamw": 16, "adamw_8bit": 10}  # bytes a parameter: weights, gradients, two moments
ROUNDED = {"bf16": 2, "fp32": 0}
ACTIVATIONS = {"bf16": 55.6, "fp32": 83.1}  # bytes a token and hidden unit, a layer
LAYER_INPUT, LOGITS = 4, 14  # bytes a token and hidden unit, a token and word
OWN = 2 * 10**9  # of CUDA, NCCL and fragments
PEAK = 989e12  # operations a second of an H100, H200 in bf16, as NVIDIA says
SHARE = 0.4  # of it that training reaches: taken, not measured


class Shape(NamedTuple):
    """What memory depends on of a model."""

    parameters: int
    hidden: int
    layers: int
    vocabulary: int


class Box(NamedTuple):
    """GPUs of one machine."""

    devices: int
    memory: int  # bytes each

    def __str__(self) -> str:
        return f"{self.devices}x{self.memory // 10**9} GB"


BOXES = (Box(8, 80 * 10**9), Box(1, 141 * 10**9))
KNOWN = {
    "meta-llama/Llama-2-7b-hf": Shape(6_738_415_616, 4096, 32, 32_000),
    "Qwen/Qwen2.5-1.5B": Shape(1_543_714_304, 1536, 28, 151_936),
    "Qwen/Qwen2.5-3B": Shape(3_085_938_688, 2048, 36, 151_936),
    "gguf:gemma3-270m": Shape(268_098_176, 640, 18, 262_144),
    "gguf:smollm2": Shape(134_515_008, 576, 30, 49_152),
}


def shape_of(study: Study, parameters: int) -> Shape | None:
    """The base's shape, from the study, its folder or `KNOWN`; None where none of them tells it."""
    source = study.base_source
    if source == "scratch":
        words = 230 + 105 * study.world_languages
        return Shape(parameters, study.base_width, study.base_layers, words)
    if source in KNOWN or not (folder := supplies.base_folder(source)):
        return KNOWN.get(source)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    keys = ("hidden_size", "num_hidden_layers", "vocab_size")
    return Shape(parameters, *(config[key] for key in keys)) if set(keys) <= config.keys() else None


def devices_here(study: Study) -> int:
    """The devices of one machine that `devices` means here."""
    if study.devices != "auto":
        return study.devices
    return max(1, len(usable_gpus(study)))


def refuse_small_gpus(study: Study, shape: Shape) -> None:
    """UserError where GPUs are here and CT does not fit on each of those that it would use."""
    gpus = usable_gpus(study)
    if not gpus:
        return
    devices = devices_here(study)
    needed, there = training_bytes(study, shape, devices * study.nodes), gpu_memory(gpus)
    if there and needed > there:
        raise UserError(
            f"training needs {needed / 1e9:,.0f} GB on each of {devices} GPUs, which have "
            f"{there / 1e9:,.0f} GB: lower micro_batch, or give activation_checkpointing=true, and with "
            "several GPUs sharding=full"
        )


def gpu_memory(gpus: Sequence[str]) -> int:
    """Bytes of the smallest of some GPUs, as nvidia-smi tells; 0 where it does not."""
    query = ["--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={','.join(gpus)}"]
    try:
        told = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=True).stdout
        return min(int(line) * 2**20 for line in told.splitlines())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0


def training_bytes(study: Study, shape: Shape, devices: int) -> int:
    """The most that CT or SFT hold on each of `devices`."""
    micro, _ = batch_shares(study.ct_batch, study.micro_batch, devices, "ct_batch")
    return round(_states(study, shape, devices) + _passing(study, shape, micro * study.seq_len)) + OWN


def _states(study: Study, shape: Shape, devices: int) -> float:
    """Weights, gradients, moments. FSDP2 has two layers whole at once; DDP copies gradients into buckets."""
    rounded, states = ROUNDED[study.precision], STATES[study.optimizer]
    if study.adapter == "lora":
        entries = 24 * study.lora_rank * shape.hidden * shape.layers  # Llama's matrices have 19 h a rank
        return (4 + rounded) * shape.parameters + states * entries
    if study.sharding == "full" and devices > 1:
        tables = shape.vocabulary * shape.hidden
        layer = (shape.parameters - tables) / shape.layers
        return states * shape.parameters / devices + (rounded or 4) * (2 * layer + 2 * tables) + 4 * layer
    return (states + rounded + (4 if devices > 1 else 0)) * shape.parameters


def _passing(study: Study, shape: Shape, tokens: int) -> float:
    """Activations and logits of the tokens that go through at once."""
    layer = ACTIVATIONS[study.precision] * tokens * shape.hidden
    kept = layer * shape.layers
    if study.activation_checkpointing:
        kept = layer + LAYER_INPUT * tokens * shape.hidden * shape.layers
    return kept + LOGITS * tokens * shape.vocabulary


def on_boxes(study: Study, shape: Shape, operations: float) -> str:
    """For each of `BOXES`: memory a device, whether it fits, days at SHARE of PEAK."""
    return "; ".join(_on_box(study, shape, operations, box) for box in BOXES)


def _on_box(study: Study, shape: Shape, operations: float, box: Box) -> str:
    needed = training_bytes(study, shape, box.devices)
    fits = "fits" if needed <= box.memory else "does NOT fit"
    days = operations / (SHARE * PEAK * box.devices) / 86400
    return f"{box}: {needed / 1e9:,.0f} GB each, {fits}, {days:,.1f} days"
