"""Synthetic checkpoints of named shapes: a base and two parents, CT and SFT, always the same for one seed.

    python -m benchmarks.checkpoints --shape tinyllama

Weights of the base are N(0, 0.02), its norms N(1, 0.05). A parent is base + scale * Student's t with
3 degrees of freedom, the scale drawn for each tensor between 2e-4 and 5e-4. Everything is stored in
bfloat16: small differences round away, so that a share of the entries (about a tenth) is exactly
unchanged and equal magnitudes are common, as in checkpoints that were trained.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lrnb.errors import UserError

VERSION = 1  # of the recipe; another number makes everything anew
ROLES = ("base", "ct", "sft")
SHARD_BYTES = 5_000_000_000
CHUNK = 1 << 18  # entries drawn at once; part of the recipe
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int = 2048


SHAPES = {
    "pico": Shape(32, 64, 2, 2, 1, 64, 256),  # 21 thousand parameters: tests
    "small": Shape(512, 1408, 2, 8, 4, 8000),  # 14 million: the exactness count
    "tinyllama": Shape(2048, 5632, 22, 32, 4, 32000),  # 1.1 billion
    "7b": Shape(4096, 11008, 32, 32, 32, 32000, 4096),  # 6.7 billion, three shards: Llama-2-7B
}


def bench_dir(given: Path | None = None) -> Path:
    """Where checkpoints and outputs lie: `given`, else $LRNB_BENCH, else ~/.cache/lrnb/bench."""
    return given or Path(os.environ.get("LRNB_BENCH") or Path.home() / ".cache" / "lrnb" / "bench")


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor, in the order transformers stores them."""
    wide, kv = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, wide)}
    for layer in range(shape.layers):
        here = f"model.layers.{layer}."
        tensors |= {
            here + "input_layernorm.weight": (wide,),
            here + "mlp.down_proj.weight": (wide, shape.intermediate),
            here + "mlp.gate_proj.weight": (shape.intermediate, wide),
            here + "mlp.up_proj.weight": (shape.intermediate, wide),
            here + "post_attention_layernorm.weight": (wide,),
            here + "self_attn.k_proj.weight": (kv, wide),
            here + "self_attn.o_proj.weight": (wide, wide),
            here + "self_attn.q_proj.weight": (wide, wide),
            here + "self_attn.v_proj.weight": (kv, wide),
        }
    return tensors | {"model.norm.weight": (wide,), "lm_head.weight": (shape.vocab, wide)}


def config(shape: Shape) -> dict[str, Any]:
    """config.json of the shape, in the spelling that old and new transformers read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def generate(name: str, root: Path, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> dict[str, Path]:
    """{role: folder} for base, ct and sft below root/name; made only where they are not there yet.

    KeyError for a name that is not in SHAPES; UserError where the disk is too small. The folders get
    their names when all bytes are there.
    """
    shape, place = SHAPES[name], root / name
    wanted = {"version": VERSION, "seed": seed, "shape": name, "shard_bytes": shard_bytes}
    folders = {role: place / role for role in ROLES}
    if _is_there(place, wanted):
        return folders
    started = time.perf_counter()
    place.mkdir(parents=True, exist_ok=True)
    _check_space(shape, place)
    (place / MANIFEST).unlink(missing_ok=True)
    parts = {role: place / f"{role}.part" for role in ROLES}
    unchanged = _write_all(shape, parts, seed, shard_bytes)
    for role, part in parts.items():
        shutil.rmtree(folders[role], ignore_errors=True)
        part.rename(folders[role])
    files = {str(path.relative_to(place)): path.stat().st_size for path in _weights(folders)}
    seconds = round(time.perf_counter() - started, 1)
    measured = {"unchanged": unchanged, "files": files, "numpy": np.__version__, "seconds": seconds}
    (place / MANIFEST).write_text(json.dumps(wanted | measured, indent=1) + "\n", encoding="utf-8")
    return folders


def _check_space(shape: Shape, place: Path) -> None:
    need = 2 * 4 * sum(map(math.prod, tensor_shapes(shape).values()))  # three, and one merge's output
    if need > (free := shutil.disk_usage(place).free):
        raise UserError(
            f"{place}: three checkpoints and one output need {need / 1e9:.1f} GB, the disk has "
            f"{free / 1e9:.1f} GB free. Free space, or choose another folder with --dir"
        )


def _is_there(place: Path, wanted: dict[str, Any]) -> bool:
    try:
        found = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        whole = all((place / file).stat().st_size == size for file, size in found["files"].items())
    except (OSError, ValueError, KeyError):
        return False
    return whole and all(found.get(key) == value for key, value in wanted.items())


def _weights(folders: dict[str, Path]) -> list[Path]:
    return [path for folder in folders.values() for path in sorted(folder.glob("*.safetensors"))]


def _write_all(shape: Shape, parts: dict[str, Path], seed: int, shard_bytes: int) -> dict[str, float]:
    """Write the three folders side by side; returns each parent's share of unchanged entries."""
    tensors = tensor_shapes(shape)
    shards = _shards(tensors, shard_bytes)
    for folder in parts.values():
        _start_folder(folder, shape, tensors, shards)
    numbers = {name: number for number, name in enumerate(tensors)}
    same = dict.fromkeys(ROLES, 0)
    for file, names in shards.items():
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(open(folder / file, "ab")) for folder in parts.values()]
            for name in names:
                counts = _write_tensor(streams, name, tensors[name], seed, numbers[name])
                same = {role: same[role] + count for role, count in zip(ROLES, counts, strict=True)}
    total = sum(map(math.prod, tensors.values()))
    return {role: same[role] / total for role in ROLES[1:]}


def _shards(tensors: dict[str, tuple[int, ...]], shard_bytes: int) -> dict[str, list[str]]:
    """{file: names}, cut where a file would grow past `shard_bytes`."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05}-of-{len(groups):05}.safetensors": names for i, names in enumerate(groups)}


def _start_folder(
    folder: Path, shape: Shape, tensors: dict[str, tuple[int, ...]], shards: dict[str, list[str]]
) -> None:
    """A fresh folder with the config, the index where there are shards, and each file's header."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n", encoding="utf-8")
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        total = 2 * sum(map(math.prod, tensors.values()))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file, names in shards.items():
        (folder / file).write_bytes(_header(names, tensors))


def _header(names: list[str], tensors: dict[str, tuple[int, ...]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + 2 * math.prod(tensors[name])
        header[name] = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _write_tensor(
    streams: Sequence[BinaryIO], name: str, shape: tuple[int, ...], seed: int, number: int
) -> list[int]:
    """Append one tensor to the three files; returns how many entries equal the base's."""
    same = [0] * len(streams)
    for chunks in draw(name, shape, seed, number):
        for i, (stream, chunk) in enumerate(zip(streams, chunks, strict=True)):
            stream.write(chunk.view(np.uint8).data)
            same[i] += int(np.count_nonzero(chunk.view(np.uint16) == chunks[0].view(np.uint16)))
    return same


def draw(name: str, shape: tuple[int, ...], seed: int, number: int) -> Iterator[list[np.ndarray]]:
    """Base, CT and SFT of tensor `number`, CHUNK entries at a time, bfloat16."""
    streams = [np.random.Generator(np.random.SFC64([seed, number, role])) for role in range(len(ROLES))]
    scales = [random.uniform(2e-4, 5e-4) for random in streams]
    mean, spread = (1.0, 0.05) if name.endswith("norm.weight") else (0.0, 0.02)
    left = math.prod(shape)
    while left:
        size = min(CHUNK, left)
        base = streams[0].standard_normal(size, np.float32)
        base *= np.float32(spread)
        base += np.float32(mean)
        chunks = [base.astype(BFLOAT16)]
        base = chunks[0].astype(np.float32)
        for random, scale in zip(streams[1:], scales[1:], strict=True):
            chunks.append((base + student_t(random, size, scale)).astype(BFLOAT16))
        yield chunks
        left -= size


def student_t(random: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """`size` float32 draws of scale * t with 3 degrees of freedom.

    z / sqrt(chi2 / 3), where a chi-square of 3 is the square of a normal plus twice an exponential:
    four times as fast as numpy's own, which is float64 only.
    """
    spread = random.standard_normal(size, np.float32)
    spread *= spread
    tail = random.standard_exponential(size, np.float32)
    tail *= np.float32(2)
    spread += tail
    np.sqrt(spread, out=spread)
    value = random.standard_normal(size, np.float32)
    value *= np.float32(scale * math.sqrt(3))
    value /= spread
    return value


def main(arguments: list[str] | None = None) -> int:
    """The command: make one shape and say where it is."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoints", description=__doc__.splitlines()[0]
    )
    top.add_argument("--shape", choices=SHAPES, default="tinyllama")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    given = top.parse_args(arguments)
    try:
        folders = generate(given.shape, bench_dir(given.dir), given.seed)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(*folders.values(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
