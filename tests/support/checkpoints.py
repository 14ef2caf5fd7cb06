"""Small folders of tensors, and ways to damage them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lrnb.checkpoints.reading import INDEX


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def edit_header(file: Path, change) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])


def pico(seed: int = 0, dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    layout = {"model.embed_tokens.weight": (16, 8), "model.norm.weight": (8,)}
    layout |= {f"model.layers.{i}.self_attn.q_proj.weight": (8, 8) for i in range(2)}
    return {
        name: rng.standard_normal(shape).astype(np.float32).astype(dtype) for name, shape in layout.items()
    }


def children(base: dict[str, np.ndarray], size: float = 0.05) -> dict[str, dict[str, np.ndarray]]:
    moves = {"ct": pico(1), "sft": pico(2)}
    return {
        label: {name: (x.astype(np.float32) + size * move[name]).astype(x.dtype) for name, x in base.items()}
        for label, move in moves.items()
    }
