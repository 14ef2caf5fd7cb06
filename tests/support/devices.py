"""Training in two processes on CPUs, as `on_devices` starts them; small enough to be started in a test."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from lrnb.training import finetuning, pretraining
from lrnb.training.launching import on_devices
from lrnb.training.pretraining import TrainingRecipe

STEP = 8 * 16  # tokens
BUDGETS = (5 * STEP, 12 * STEP)
RECIPE = TrainingRecipe(lr=1e-2, batch=8, micro_batch=2, schedule="cosine", device="cpu")
EXAMPLES = [{"prompt": "the cat" + " dog" * (n % 7), "completion": f" {n % 10} {n % 10}"} for n in range(43)]


def pretrain(recipe: TrainingRecipe, base: Path, packed: Path, out: Path) -> list[dict[str, Any]]:
    """Twelve steps of CT, a resume point after every fourth."""
    return pretraining.continual_pretrain(
        base,
        packed,
        out,
        budgets=BUDGETS,
        recipe=recipe,
        save_tokens=4 * STEP,
        heldout={"x": ["the cat sees the dog"], "en": ["a red house"]},
        fingerprint={"a": 1},
    )


def fine_tune(recipe: TrainingRecipe, base: Path, out: Path) -> dict[str, Any]:
    """Two epochs of 43 examples, so that the last step of each is not full."""
    return finetuning.fine_tune(base, EXAMPLES, out, recipe=recipe, epochs=2, prompt_weight=0.3, max_len=32)


@on_devices
def both_ways(recipe: TrainingRecipe, base: Path, packed: Path, out: Path) -> dict[str, Any]:
    """CT and SFT with whole models, then SFT and CT with sharded ones, in the same processes."""
    told: dict[str, Any] = {}
    for sharding in ("none", "full"):
        own = replace(recipe, sharding=sharding)
        told[f"sft {sharding}"] = fine_tune(own, base, out / sharding / "sft")
        told[f"ct {sharding}"] = pretrain(own, base, packed, out / sharding / "ct")
    return told


@on_devices
def killed(recipe: TrainingRecipe, base: Path, packed: Path, out: Path) -> None:
    """CT of which the second process is killed after six steps."""
    step_end = pretraining.Watch.on_step_end

    def die(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 6 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    pretraining.Watch.on_step_end = die  # type: ignore[method-assign]
    pretrain(recipe, base, packed, out)


def furthest(one: Path, other: Path) -> float:
    """The largest difference between the weights of two folders."""
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)
