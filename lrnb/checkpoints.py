"""Opening Hugging Face checkpoint folders safely: every flaw is named before anything is computed.

A folder holds `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
Tensors are read-only views of the memory-mapped files. The file format is described at
https://huggingface.co/docs/safetensors. Writing is in `lrnb/checkpoint_writer.py`.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lrnb.params import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16,
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("bool"),
}  # fmt: skip
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDINGS = "lm_head.weight", ("embed_tokens.weight", "wte.weight")
MIB, MAX_HEADER = 1 << 20, 100_000_000  # bytes; the limit of the format's reference reader
MAX_DIMENSIONS, MAX_ENTRIES = 64, 1 << 59  # numpy's limits, which count for empty tensors too
AGAIN = "Copy or download the file again."
ELSEWHERE = "Open it with lrnb.sources.open_source, as `lrnb merge` does."


@dataclass(frozen=True)
class Layout:
    """Names of weight files: one alone, the index of many, and a pattern that all match."""

    single: str
    index: str
    pattern: str


SAFETENSORS = Layout(SINGLE, INDEX, "model*.safetensors")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: byte `start` to `stop` of `file`, row by row without `strides` (bytes)."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int
    strides: tuple[int, ...] | None = None


class Checkpoint(Mapping[str, np.ndarray]):
    """Names to read-only arrays, mapped from disk when asked for. Made by `open_checkpoint`."""

    def __init__(self, folder: Path, entries: dict[str, Entry], config: dict[str, Any]) -> None:
        self.folder, self.entries, self.config = folder, dict(sorted(entries.items())), config
        self.maps: dict[Path, mmap.mmap] = {}
        self.aliases = self._find_aliases()

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        if entry.file not in self.maps:
            with open(entry.file, "rb") as f:
                self.maps[entry.file] = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(entry.shape, entry.dtype, self.maps[entry.file], entry.start, entry.strides)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def files(self) -> list[Path]:
        """The weight files, sorted."""
        return sorted({entry.file for entry in self.entries.values()})

    @property
    def tied(self) -> bool:
        """Whether input and output embeddings are one tensor, as transformers would load them."""
        return HEAD in self.aliases or (HEAD not in self.entries and self._wants_tied())

    def _wants_tied(self) -> bool:
        nested = self.config.get("text_config") or {}
        default = nested.get("tie_word_embeddings", True)  # Gemma's config leaves its True out
        return bool(self.config.get("tie_word_embeddings", default))

    def _find_aliases(self) -> dict[str, str]:
        """{copy: what it is tied to}. Differing values are not tied, as in transformers 5."""
        embedding = next((name for name in self.entries if name.endswith(EMBEDDINGS)), None)
        if embedding is None or HEAD not in self.entries or not self._wants_tied():
            return {}
        return {HEAD: embedding} if same_bits(self[HEAD], self[embedding]) else {}


def open_checkpoint(folder: str | Path, *, finite: bool = True) -> Checkpoint:
    """The tensors of a Hugging Face folder, validated.

    UserError names file, tensor and remedy where the folder, its index, a shard, a header or (with
    `finite`, which reads all weights once) a value is wrong. Pickle files are never opened.
    """
    folder = Path(folder)
    config = read_config(folder)
    checkpoint = Checkpoint(folder, read_entries(folder, SAFETENSORS, read_header), config)
    if finite:
        check_finite(str(folder), checkpoint)
    return checkpoint


def read_entries(folder: Path, layout: Layout, read: Callable[[Path], dict[str, Entry]]) -> dict[str, Entry]:
    """What `read` finds in the weight files of `layout`; UserError where their index says otherwise."""
    entries: dict[str, Entry] = {}
    for file, names in _weight_files(folder, layout).items():
        found = read(file)
        if names is not None and set(found) != names:
            odd = sorted(set(found) ^ names)[0]
            where = "the index, but not the file" if odd in names else "the file, but not the index"
            raise UserError(f"{file}: {odd!r} is in {where} (index {layout.index}). {AGAIN}")
        entries |= found
    if not entries:
        raise UserError(f"{folder}: its weight files hold no tensors. {AGAIN}")
    return entries


def check_finite(where: str, tensors: Mapping[str, np.ndarray]) -> None:
    """UserError naming the first tensor that holds NaN or Inf, and how many."""
    for name, tensor in tensors.items():
        if is_float(tensor.dtype) and (bad := count_not_finite(tensor)):
            raise UserError(
                f"{where}: {name!r} holds NaN or Inf in {bad:,} of {tensor.size:,} entries. "
                "The training diverged or the file is damaged; use an earlier checkpoint."
            )


def count_not_finite(tensor: np.ndarray, step: int = MIB) -> int:
    """Number of NaN and Inf entries, in pieces so that no large copy is made."""
    flat = tensor.reshape(-1)
    pieces = (flat[start : start + step] for start in range(0, flat.size, step))
    return sum(len(piece) - int(np.count_nonzero(np.isfinite(piece))) for piece in pieces)


def is_float(dtype: np.dtype) -> bool:
    """True for float types; bfloat16 is one, though numpy does not count it."""
    return dtype == BFLOAT16 or bool(np.issubdtype(dtype, np.floating))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal dtype, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    one, two = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return all(np.array_equal(one[i : i + MIB], two[i : i + MIB]) for i in range(0, len(one), MIB))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a whole model; UserError where it is missing, wrong, or the folder an adapter's."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give a Hugging Face model folder")
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: a PEFT adapter, not a whole model. {ELSEWHERE}")
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json. Give a Hugging Face model folder")
    config = read_json(path)
    if not isinstance(config.get("text_config") or {}, dict):
        raise UserError(f"{path}: text_config is no object. {AGAIN}")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). {AGAIN}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}. {AGAIN}")
    return value


def _weight_files(folder: Path, layout: Layout) -> dict[Path, set[str] | None]:
    """Each weight file with the tensor names its index promises (None without an index)."""
    present = {path.name for path in folder.glob(layout.pattern)}
    if layout.index in {path.name for path in folder.iterdir()}:
        promised = _read_index(folder / layout.index)
        if extra := sorted(present - set(promised)):
            raise UserError(
                f"{folder / extra[0]}: a weight file that {layout.index} does not name. "
                "Remove it, or the index if it is the stale one."
            )
        return {_inside(folder, name, layout.index): names for name, names in promised.items()}
    if layout.single in present:
        if extra := sorted(present - {layout.single}):
            raise UserError(
                f"{folder / extra[0]}: a shard beside {layout.single} without {layout.index}. "
                "Remove what does not belong to the model."
            )
        return {_inside(folder, layout.single, layout.index): None}
    raise _no_weights(folder, layout, present)


def _no_weights(folder: Path, layout: Layout, present: set[str]) -> UserError:
    if present:
        return UserError(f"{folder}: shards without {layout.index}. Copy the index from the same source.")
    suffixes = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in suffixes):
        return UserError(f"{folder / pickles[0]}: a pickle file; only safetensors are read here. {ELSEWHERE}")
    return UserError(f"{folder}: no {SINGLE} and no {INDEX}. Give a Hugging Face model folder")


def _read_index(path: Path) -> dict[str, set[str]]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path}: no weight_map in it. {AGAIN}")
    promised: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise UserError(f"{path}: {name!r} points to {file!r}, not a file. {AGAIN}")
        promised.setdefault(file, set()).add(name)
    return promised


def _inside(folder: Path, name: str, index: str) -> Path:
    """`folder/name`, refused where it leads out. The Hub cache's own links are fine."""
    path = folder / name
    if name in ("", ".", "..") or name != Path(name).name or not name.isprintable():
        raise UserError(
            f"{folder / index}: names the file {name!r} outside {folder}. Do not trust "
            "this checkpoint; get it from its source again."
        )
    if not path.is_file():  # nor a link to itself, which resolve() would stumble over
        raise UserError(f"{path}: this shard is missing. {AGAIN}")
    home = folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise UserError(f"{path}: a link to a file outside {folder}. Put the file itself there.")
    return path


def _no_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def read_header(file: Path) -> dict[str, Entry]:
    """The entries of one safetensors file; UserError unless they cover its data exactly."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
            raise UserError(
                f"{file}: not a whole safetensors file ({size:,} bytes, header said to "
                f"be {length:,}): truncated, or another format. {AGAIN}"
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_twins)
        header.pop("__metadata__", None)
        entries = {n: _entry(file, n, item, 8 + length) for n, item in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: wrong safetensors header ({error}). {AGAIN}") from None
    _check_cover(file, entries, 8 + length, size)
    return entries


def _entry(file: Path, name: str, item: dict[str, Any], data: int) -> Entry:
    if item["dtype"] not in DTYPES:
        raise UserError(
            f"{file}: {name!r} has dtype {item['dtype']}, which is not merged. Save "
            "the model in bfloat16, float16 or float32 first."
        )
    shape, (start, stop) = tuple(item["shape"]), item["data_offsets"]
    numbers = all(type(x) is int and x >= 0 for x in (*shape, start, stop))
    if not numbers or len(shape) > MAX_DIMENSIONS or math.prod(x or 1 for x in shape) > MAX_ENTRIES:
        raise ValueError(f"{name!r} has shape {shape} at {start}:{stop}")
    if stop - start != math.prod(shape) * DTYPES[item["dtype"]].itemsize:
        raise ValueError(f"{name!r}: {shape} of {item['dtype']} does not fill bytes {start}:{stop}")
    return Entry(file, DTYPES[item["dtype"]], shape, data + start, data + stop)


def _check_cover(file: Path, entries: dict[str, Entry], position: int, size: int) -> None:
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            wrong = f"{name!r} begins at byte {entry.start:,}, not {position:,}"
            raise UserError(f"{file}: wrong safetensors header ({wrong}). {AGAIN}")
        position = entry.stop
    if position != size:
        state = "truncated" if size < position else "longer than its header says"
        raise UserError(f"{file}: {state}: {size:,} bytes, its header needs {position:,}. {AGAIN}")
