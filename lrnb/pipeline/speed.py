"""How fast this machine trains: measured once in a second or two, kept in the cache."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from lrnb.study.environment import instruction_set, processor_name
from lrnb.study.files import remembered
from lrnb.training.base import scratch_model

SHAPES = {"cpu": (256, 4, 4, 128), "cuda": (1024, 8, 16, 512)}  # width, layers; sequences of so many tokens
VOCABULARY, STEPS = 512, 5
ENOUGH = 2.0  # seconds after which no further step is measured, two aside


def training_flops(kind: str = "cpu") -> float:
    """Operations a second of training on one CPU core (float32) or one GPU (bfloat16), 6 N a token.

    Measured at the first call on this processor with this torch, else as kept in the cache.
    """
    import torch  # which tells the GPU's name

    device = _processor() if kind == "cpu" else torch.cuda.get_device_name(0)
    return float(remembered("speed.json", f"{device}, torch {version('torch')}", lambda: measure(kind)))


def bf16_slowdown() -> float:
    """How many times slower a CPU core trains in bfloat16 than in float32: many without instructions for it.

    Kept as `training_flops`. Both are measured, one after the other, since other work slows them alike.
    """
    key = f"{_processor()}, torch {version('torch')}, times slower in bf16"
    return float(remembered("speed.json", key, lambda: measure("cpu") / measure("cpu", rounded=True)))


def _processor() -> str:
    return f"{processor_name()}, {instruction_set()}"


def measure(kind: str, rounded: bool = False) -> float:
    """The fastest of a few training steps of a small Llama, on one thread where it is the CPU."""
    import torch

    width, layers, batch, length = SHAPES[kind]
    batch = 1 if rounded and kind == "cpu" else batch  # seconds a step where it is slow
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model: Any = scratch_model(vocab_size=VOCABULARY, width=width, layers=layers)
        model.to(kind)
        ids = torch.randint(VOCABULARY, (batch, length), device=kind)
        seconds = _fastest(model, ids, kind, rounded)
    finally:
        torch.set_num_threads(threads)
    return 6 * sum(p.numel() for p in model.parameters()) * ids.numel() / seconds


def _fastest(model: Any, ids: Any, kind: str, rounded: bool) -> float:
    """Seconds of the fastest of STEPS steps, or of fewer where they are slow."""
    taken: list[float] = []
    while len(taken) < STEPS and (len(taken) < 2 or sum(taken) < ENOUGH):
        taken.append(_step_seconds(model, ids, kind, rounded))
    return min(taken)


def _step_seconds(model: Any, ids: Any, kind: str, rounded: bool) -> float:
    import torch

    start = time.perf_counter()
    with torch.autocast(kind, torch.bfloat16, enabled=rounded or kind != "cpu"):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()
    if kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
