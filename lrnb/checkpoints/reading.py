"""Opening Hugging Face checkpoint folders safely: every flaw is named before anything is computed.

A folder holds `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
Tensors are read-only views of the memory-mapped files. The file format is described at
https://huggingface.co/docs/safetensors. Writing is in `lrnb/checkpoints/writing.py`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from lrnb.checkpoints.buffers import without_buffers
from lrnb.checkpoints.quantised import quantised, refuse_quantised
from lrnb.data.lines import without_twins
from lrnb.errors import UserError
from lrnb.study.odd_files import AGAIN, refuse_odd_file

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16,
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("bool"),
}  # fmt: skip
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDINGS = "lm_head.weight", ("embed_tokens.weight", "wte.weight")
MIB = 1 << 20  # bytes
ELSEWHERE = "Open it with lrnb.checkpoints.opening.open_source, as `lrnb merge` does."


class Checkpoint(Mapping[str, np.ndarray]):
    """Names to read-only arrays, views of mapped files. Made by `open_checkpoint`.

    folder: has config.json; files: the weight files, sorted; aliases: {copy: what it is tied to}.
    """

    def __init__(
        self, folder: Path, tensors: Mapping[str, np.ndarray], config: dict[str, Any], files: Iterable[Path]
    ) -> None:
        self.folder, self.config, self.files = folder, config, sorted(files)
        self._tensors = dict(sorted(tensors.items()))
        self.aliases = self._find_aliases()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def with_tensors(self, tensors: Mapping[str, Any]) -> Checkpoint:
        """The same model with some of its tensors exchanged; what is tied stays tied."""
        other = copy.copy(self)
        other._tensors = self._tensors | dict(tensors)
        return other

    @property
    def tied(self) -> bool:
        """Whether input and output embeddings are one tensor, as transformers would load them."""
        return HEAD in self.aliases or (HEAD not in self and self._wants_tied())

    def _wants_tied(self) -> bool:
        nested = self.config.get("text_config") or {}
        default = nested.get("tie_word_embeddings", True)  # Gemma's config leaves its True out
        return bool(self.config.get("tie_word_embeddings", default))

    def _find_aliases(self) -> dict[str, str]:
        """{copy: what it is tied to}. Differing values are not tied, as in transformers 5."""
        embedding = next((name for name in self if name.endswith(EMBEDDINGS)), None)
        if embedding is None or HEAD not in self or not self._wants_tied():
            return {}
        return {HEAD: embedding} if same_bits(self[HEAD], self[embedding]) else {}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one file, mapped; UserError unless its header describes its data exactly."""
    try:
        with open(file, "rb") as stream, safe_open(file, framework="np"):  # checks offsets and sizes
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start], object_pairs_hook=without_twins)
        header.pop("__metadata__", None)
        return {name: _view(file, name, item, data, start) for name, item in header.items()}
    except (SafetensorError, ValueError) as error:  # also of numpy, for shapes that it cannot hold
        why = f"{file.stat().st_size:,} bytes; {error}"
        raise UserError(
            f"{file}: not a whole safetensors file ({why}): truncated, damaged, or another format. {AGAIN}"
        ) from None


def _view(file: Path, name: str, item: dict[str, Any], data: mmap.mmap, start: int) -> np.ndarray:
    if item["dtype"].startswith("F8_"):
        raise quantised(file, "FP8", name)
    if item["dtype"] not in DTYPES:
        raise UserError(
            f"{file}: {name!r} has dtype {item['dtype']}, which is not merged. Save "
            "the model in bfloat16, float16 or float32 first."
        )
    try:
        return np.ndarray(item["shape"], DTYPES[item["dtype"]], data, start + item["data_offsets"][0])
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None


@dataclass(frozen=True)
class Layout:
    """Names of weight files: one alone, the index of many, a pattern that all match; what reads one file."""

    single: str
    index: str
    pattern: str
    read: Callable[[Path], dict[str, np.ndarray]]


SAFETENSORS = Layout(SINGLE, INDEX, "model*.safetensors", read_safetensors)


def open_checkpoint(folder: str | Path, *, layout: Layout = SAFETENSORS, finite: bool = True) -> Checkpoint:
    """The tensors of a Hugging Face folder, validated.

    UserError names file, tensor and remedy where the folder, its index, a shard, a header or (with
    `finite`, which reads all weights once) a value is wrong. Without another `layout`, pickle files are
    never opened.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors, files = read_tensors(folder, layout)
    codes = [name for name, x in tensors.items() if x.ndim > 1 and not is_float(x.dtype)]
    refuse_quantised(folder, config, tensors, codes)
    checkpoint = Checkpoint(folder, without_buffers(tensors), config, files)
    if finite:
        check_finite(str(folder), checkpoint)
    return checkpoint


def read_tensors(folder: Path, layout: Layout) -> tuple[dict[str, np.ndarray], list[Path]]:
    """Tensors and names of the weight files of `layout`; UserError where their index says otherwise."""
    tensors: dict[str, np.ndarray] = {}
    files = _weight_files(folder, layout)
    for file, names in files.items():
        found = layout.read(file)
        if names is not None and set(found) != names:
            odd = sorted(set(found) ^ names)[0]
            where = "the index, but not the file" if odd in names else "the file, but not the index"
            raise UserError(f"{file}: {odd!r} is in {where} (index {layout.index}). {AGAIN}")
        tensors |= found
    if not tensors:
        raise UserError(f"{folder}: its weight files hold no tensors. {AGAIN}")
    return tensors, list(files)


@contextlib.contextmanager
def readable(given: str | Path) -> Iterator[None]:
    """Where the system refuses to read: UserError naming the file, or `given` where it does not name one."""
    try:
        yield
    except OSError as error:
        where, why = error.filename or given, error.strerror or error
        raise UserError(f"{where}: cannot be read ({why}). Mend the path or its rights") from None


def check_finite(
    where: str,
    tensors: Mapping[str, np.ndarray],
    told: Callable[[str, np.ndarray], str] = lambda name, tensor: ".",
) -> None:
    """UserError naming the first tensor that holds NaN or Inf, and how many; told: what comes after that."""
    for name, tensor in tensors.items():
        if is_float(tensor.dtype) and (bad := count_not_finite(tensor)):
            raise UserError(
                f"{where}: {name!r} holds NaN or Inf in {bad:,} of {tensor.size:,} entries"
                f"{told(name, tensor)} The training diverged or the file is damaged; use an earlier "
                "checkpoint."
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
    if not os.path.lexists(path):
        raise UserError(f"{folder}: no config.json. Give a Hugging Face model folder")
    config = read_json(path)
    if not isinstance(config.get("text_config") or {}, dict):
        raise UserError(f"{path}: text_config is no object. {AGAIN}")
    settings = {**config, **(config.get("text_config") or {})}
    if wrong := [name for name, value in settings.items() if value != value]:
        raise UserError(f"{path}: {wrong[0]} is NaN, and so would be all that the model computes. {AGAIN}")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where there is none."""
    try:
        with readable(path):
            refuse_odd_file(path)
            value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
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
    """`folder/name`, refused where the name or a link leads out."""
    path = folder / name
    if name in ("", ".", "..") or name != Path(name).name or not name.isprintable():
        raise UserError(
            f"{folder / index}: names the file {name!r} outside {folder}. Do not trust "
            "this checkpoint; get it from its source again."
        )
    return own_file(path)


def own_file(path: Path) -> Path:
    """`path`, refused unless it is a file of its folder. The Hub cache's own links are fine."""
    refuse_odd_file(path)  # a link to itself too, which resolve() would stumble over
    home = path.parent.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise UserError(f"{path}: a link to a file outside {path.parent}. Put the file itself there.")
    return path
