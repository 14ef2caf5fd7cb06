"""Models made up to be counted: several kinds of task vectors."""

from __future__ import annotations

import numpy as np
from support.reference import BF16


def normal(rng, shape, scale):
    return rng.standard_normal(shape, np.float32) * np.float32(scale)


def heavy(rng, shape, scale):
    return rng.standard_t(2, shape).astype(np.float32) * np.float32(scale)


SHAPES = {f"model.layers.{i}.mlp.up_proj.weight": (300, 400) for i in range(5)} | {
    "model.norm.weight": (512,),
    "model.embed_tokens.weight": (500, 300),
}


def inputs(kind: str, **options) -> dict[str, object]:
    """base and parents of `made`, as `atlas.build` takes them."""
    models = made(kind, **options)
    return {"base": models.pop("base"), "parents": models}


def made(kind: str, shapes=SHAPES) -> dict[str, dict[str, np.ndarray]]:
    """base, ct, sft with tensors of several scales and a small one; CT and SFT partly pull together."""
    rng = np.random.default_rng(0)
    draw = heavy if kind == "heavy" else normal
    size = 1e-4 if kind == "coarse" else 1e-3  # in units of bfloat16 a few, or none
    base = {name: normal(rng, shape, 0.02) for name, shape in shapes.items()}
    models: dict[str, dict[str, np.ndarray]] = {"base": base, "ct": {}, "sft": {}}
    for i, (name, own) in enumerate(base.items()):
        ct, sft = draw(rng, own.shape, size * (1 + i)), draw(rng, own.shape, size)
        sft = sft + (0.3 * ct if kind == "correlated" else 0)
        sft[:3] = 0  # rows that SFT never saw
        models["ct"][name], models["sft"][name] = own + ct, own + sft
    dtype = BF16 if kind in ("bf16", "coarse") else np.dtype(np.float32)
    return {label: {name: x.astype(dtype) for name, x in model.items()} for label, model in models.items()}
