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


def one_layer(rows: int, width: int = 4) -> tuple[dict[str, tuple[int, ...]], dict[str, object]]:
    """Shapes and configuration of a Llama that transformers opens: one layer, one head, tied embeddings."""
    square = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes = {f"model.layers.0.{x}.weight": (width, width) for x in square}
    shapes |= {f"model.layers.0.{x}.weight": (width,) for x in norms}
    shapes |= {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "head_dim"), width)
    sizes |= dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1)
    return shapes, {"vocab_size": rows, "tie_word_embeddings": True, **sizes}
