"""CT's own training steps on one device: tokens/s, the share of its peak, memory, against `pipeline.memory`.

    python -m benchmarks.train --shape 7b            # bf16, activations computed again, batch of 2 x 2,048

Random weights and random rows, through the study's trainer: nothing is read but from memory. The first steps
are not timed. The share of the peak counts 6 N operations a token (not those that are computed again), of
the dense bf16 peak that NVIDIA says for an H100 or H200; other devices have none. With --device cpu the same
code runs on a CPU; it is how the tests reach it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.checkpoints import SHAPES, Shape
from benchmarks.gpu import device_name, require_gpu
from benchmarks.merge import RESULTS, ROOT, now

TRAINED = SHAPES | {"270m": Shape(640, 2048, 18, 4, 1, 262_144)}  # Gemma 3's sizes, as a Llama
UNTIMED = 3  # steps


def model_of(shape: Shape, device: str) -> Any:
    """A Llama of that shape with random float32 weights, made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model


def step_seconds(model: Any, given: argparse.Namespace, vocabulary: int, folder: Path) -> list[float]:
    """The seconds of each timed step of CT."""
    import numpy as np
    import torch
    from transformers import TrainerCallback, TrainingArguments

    from lrnb.training.pretraining import TrainingRecipe, collate_packed
    from lrnb.training.sharding import Sharding

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if given.device.startswith("cuda"):
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    steps = UNTIMED + given.steps
    recipe = TrainingRecipe(
        3e-5,
        given.batch,
        precision=given.precision,
        device=given.device.partition(":")[0],
        activation_checkpointing=not given.keep_activations,
    )
    recipe.start()
    ids = np.random.default_rng(0).integers(vocabulary, size=(steps * given.batch, given.length))
    rows = [{"input_ids": row, "position_ids": np.arange(given.length)} for row in ids]
    options = {"max_steps": steps, "save_strategy": "no", "logging_strategy": "no"}
    arguments = recipe.arguments(TrainingArguments, folder, **options)
    Sharding(model, arguments, collate_packed, rows, callbacks=[Clock()]).train()
    return [after - before for before, after in zip(ends[UNTIMED - 1 :], ends[UNTIMED:], strict=False)]


def trained(given: argparse.Namespace) -> dict[str, Any]:
    """Single seconds a step, tokens/s at their median, share of the peak, peak and estimated memory."""
    from statistics import median

    import torch

    from lrnb.pipeline import memory
    from lrnb.study.parameters import Study

    shape, on_gpu = TRAINED[given.shape], given.device.startswith("cuda")
    model = model_of(shape, given.device)
    size = sum(p.numel() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        seconds = step_seconds(model, given, shape.vocab, Path(folder))
    rate = given.batch * given.length / median(seconds)
    name = device_name(given.device)
    peak = memory.PEAK if "H100" in name or "H200" in name else 0
    study = Study.model_construct(
        ct_batch=given.batch,
        micro_batch=0,
        seq_len=given.length,
        precision=given.precision,
        sharding="none",
        adapter="none",
        activation_checkpointing=not given.keep_activations,
    )
    expected = memory.training_bytes(study, memory.Shape(size, shape.hidden, shape.layers, shape.vocab), 1)
    return {
        "device": name,
        "parameters": size,
        "seconds": [round(value, 5) for value in seconds],
        "tokens_per_s": rate,
        "of_peak": 6 * size * rate / peak if peak else None,
        "peak_bytes": int(torch.cuda.max_memory_allocated(given.device)) if on_gpu else None,
        "estimated_bytes": expected,
    }


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--shape", choices=TRAINED, default="7b")
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    add("--batch", type=int, default=2, help="sequences a step, all at once")
    add("--length", type=int, default=2048, help="tokens a sequence")
    add("--steps", type=int, default=10, help="that are timed")
    add("--precision", choices=("bf16", "fp32"), default="bf16")
    add("--keep-activations", action="store_true", help="more memory, less computing")
    add("--results", type=Path, default=RESULTS, help="folder for the result file")
    return top.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command: measure, write <date>-train-<shape>-<device>.json, print it."""
    return measure.status(bench, options(arguments))


def bench(given: argparse.Namespace) -> None:
    """What `main` does, errors raised."""
    require_gpu(given.device)
    asked = {
        key: getattr(given, key) for key in ("shape", "batch", "length", "precision", "keep_activations")
    }
    result = {"schema": 1, "started": now(), **asked} | trained(given)
    result |= {"machine": measure.machine(), "versions": measure.versions(), "commit": measure.commit(ROOT)}
    given.results.mkdir(parents=True, exist_ok=True)
    kind = given.device.partition(":")[0] + ("-kept" if given.keep_activations else "")
    path = given.results / f"{result['started'][:10]}-train-{given.shape}-{kind}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    share = f", {result['of_peak']:.0%} of its peak" if result["of_peak"] else ""
    held = f", {result['peak_bytes'] / 1e9:.1f} GB" if result["peak_bytes"] else ""
    print(
        f"{given.shape} on {result['device']}: {result['tokens_per_s']:,.0f} tokens/s{share}{held} "
        f"({result['estimated_bytes'] / 1e9:.1f} GB estimated)"
    )


if __name__ == "__main__":
    sys.exit(main())
