"""Writing a complete Hugging Face folder atomically, tensor by tensor."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints import DTYPES, INDEX, SINGLE, is_float
from lrnb.params import UserError
from lrnb.store import TERMS, atomic_folder, make_folder

Spec = tuple[np.dtype, tuple[int, ...]]
CODES = {dtype: code for code, dtype in DTYPES.items()}
COPIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template*",
    "sentencepiece*.model", *TERMS,
)  # fmt: skip
SHARD_BYTES = 5_000_000_000


def write_checkpoint(
    out: str | Path,
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    like: str | Path,
    *,
    specs: Mapping[str, Spec] | None = None,
    shard_bytes: int = SHARD_BYTES,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Write the folder `out`: weights, and config, generation config and tokenizer of `like`.

    `tensors` is a mapping, or an iterable of (name, array) in any order with `specs` (dtype and
    shape of every name) given: then one tensor at a time is in memory. `finish(folder)` may add
    files before the folder appears under its name, which is the last step. An existing `out` is
    replaced. UserError where the disk is too small or fills up; nothing is left behind then.
    """
    out = Path(out)
    if isinstance(tensors, Mapping):
        specs = {name: (value.dtype, value.shape) for name, value in tensors.items()}
        tensors = tensors.items()
    if specs is None:
        raise TypeError("write_checkpoint: specs are needed when tensors come as an iterable")
    make_folder(out.parent)
    _check_space(out, specs)
    try:
        with atomic_folder(out) as folder:
            _copy_like(Path(like), folder, specs)
            _write_tensors(folder, tensors, specs, shard_bytes)
            if finish:
                finish(folder)
    except OSError as error:
        raise UserError(
            f"{out}: could not be written ({error.strerror}); nothing was left there. "
            "Free space or choose another folder, then run again."
        ) from error
    return out


def _bytes(spec: Spec) -> int:
    return spec[0].itemsize * math.prod(spec[1])


def _check_space(out: Path, specs: Mapping[str, Spec]) -> None:
    need = sum(map(_bytes, specs.values())) + 50_000_000  # tokenizer files, headers
    free = shutil.disk_usage(out.parent).free
    if need > free:
        raise UserError(
            f"{out}: needs {need / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free. "
            "Free space or choose another folder."
        )


def _copy_like(like: Path, folder: Path, specs: Mapping[str, Spec]) -> None:
    config: dict[str, Any] = json.loads((like / "config.json").read_text(encoding="utf-8"))
    floats = {dtype.name for dtype, _ in specs.values() if is_float(dtype)}
    if len(floats) == 1:  # transformers loads in the dtype that the config names
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = floats.pop()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for pattern in COPIED:
        for path in sorted(like.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def _shards(specs: Mapping[str, Spec], shard_bytes: int) -> list[list[str]]:
    """Names in sorted order, cut where a shard would grow past `shard_bytes`."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(specs):
        if shards[-1] and filled + _bytes(specs[name]) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _bytes(specs[name])
    return shards


def _write_tensors(
    folder: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    specs: Mapping[str, Spec],
    shard_bytes: int,
) -> None:
    shards = _shards(specs, shard_bytes)
    files = {i: f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))}
    if len(shards) == 1:
        files[0] = SINGLE
    places: dict[str, tuple[Path, int]] = {}
    for i, names in enumerate(shards):
        places |= _start_file(folder / files[i], names, specs)
    for name, array in tensors:
        path, start = places.pop(name)
        if (array.dtype, array.shape) != specs[name]:
            raise ValueError(f"{name!r} is {array.dtype} {array.shape}, promised {specs[name]}")
        with open(path, "r+b") as stream:
            stream.seek(start)
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    if places:
        raise ValueError(f"{sorted(places)[0]!r} was promised but not written")
    if len(shards) > 1:
        weight_map = {name: files[i] for i, names in enumerate(shards) for name in names}
        _write_index(folder / INDEX, weight_map, specs)


def _start_file(path: Path, names: list[str], specs: Mapping[str, Spec]) -> dict[str, tuple[Path, int]]:
    """Write a file's header, give it its final length, and say where each tensor goes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(names, key=lambda n: (-specs[n][0].itemsize, n)):  # widest first: aligned
        dtype, shape = specs[name]
        header[name] = {
            "dtype": CODES[dtype],
            "shape": list(shape),
            "data_offsets": [end, end := end + _bytes(specs[name])],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + end)
    return {name: (path, 8 + len(raw) + header[name]["data_offsets"][0]) for name in names}


def _write_index(path: Path, weight_map: dict[str, str], specs: Mapping[str, Spec]) -> None:
    index = {"metadata": {"total_size": sum(map(_bytes, specs.values()))}, "weight_map": weight_map}
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
