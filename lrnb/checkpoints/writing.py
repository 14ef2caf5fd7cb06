"""Writing a complete Hugging Face folder atomically, entry by entry where they are ready."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.reading import DTYPES, INDEX, SINGLE, is_float
from lrnb.checkpoints.small_files import SmallFiles, small_files
from lrnb.errors import UserError
from lrnb.study.files import atomic_folder, make_folder, need_space, unfinished

Spec = tuple[np.dtype, tuple[int, ...]]
CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 5_000_000_000
MARGIN = 50_000_000  # bytes left for tokenizer files and headers


class Writer:
    """Weight files of a fixed layout, filled in any order and by any thread."""

    def __init__(self, folder: Path, specs: Mapping[str, Spec], shard_bytes: int) -> None:
        self.folder, self.specs = folder, specs
        self.done: dict[str, list[tuple[int, int]]] = {name: [] for name in specs}
        self.places, files = _start_files(folder, specs, shard_bytes)
        self.open = {path: os.open(path, os.O_WRONLY) for path in files}

    def put(self, name: str, start: int, values: np.ndarray) -> None:
        """Write `values` (1-D, of the promised dtype) as entries `start` and following of tensor `name`.

        ValueError for what was not promised, or after `close`.
        """
        if name not in self.specs or not self.open:
            raise ValueError(f"{name!r} was not promised, or the writer is closed")
        (dtype, shape), (path, at) = self.specs[name], self.places[name]
        stop = start + values.size
        if values.dtype != dtype or values.ndim != 1 or start < 0 or stop > math.prod(shape):
            raise ValueError(
                f"{name!r}: {values.dtype} {start}:{stop} was not promised, but {self.specs[name]}"
            )
        data, at = np.ascontiguousarray(values).view(np.uint8).data, at + start * dtype.itemsize
        while data:
            written = os.pwrite(self.open[path], data, at)
            data, at = data[written:], at + written
        if stop > start:
            self.done[name].append((start, stop))  # atomic

    def close(self) -> None:
        """ValueError unless every promised entry was written once."""
        self.abandon()
        for name, (_, shape) in self.specs.items():
            at, n = 0, math.prod(shape)
            for start, stop in [*sorted(self.done[name]), (n, n)]:
                if start != at:
                    what = "was promised but not written" if at < start else "was written twice"
                    raise ValueError(f"{name!r} {what} (entries {min(at, start)}:{max(at, start)})")
                at = stop

    def abandon(self) -> None:
        """Close the files, whatever is in them."""
        while self.open:
            os.close(self.open.popitem()[1])


@contextlib.contextmanager
def new_checkpoint(
    out: Path,
    specs: Mapping[str, Spec],
    files: SmallFiles,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[Writer]:
    """A Writer for the folder `out`, which appears under its name when the block ends without an error.

    files: what lies beside the weights. An existing `out` is replaced. UserError where the disk is too
    small or fills up; nothing is left behind then. The caller closes the writer.
    """
    need_space(out, space_needed(specs), "choose another folder")
    try:
        with _new_parents(out), atomic_folder(out) as folder:
            files.write(folder)
            writer = Writer(folder, specs, shard_bytes)
            try:
                yield writer
            finally:
                writer.abandon()
    except OSError as error:
        where, why = Path(error.filename or out), error.strerror or error
        if where in (out, *out.parents) or unfinished(out) in str(where):
            raise UserError(
                f"{out}: could not be written ({why}); nothing was left there. "
                "Free space or choose another folder, then run again."
            ) from error
        raise UserError(f"{where}: cannot be read ({why}). Mend the path or its rights") from error


@contextlib.contextmanager
def _new_parents(out: Path) -> Iterator[None]:
    """The folders above `out`, made where they are missing; after an error they are gone again."""
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        make_folder(out.parent)
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def write_checkpoint(
    out: str | Path,
    tensors: Mapping[str, np.ndarray],
    like: str | Path | SmallFiles,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the folder `out`: `tensors`, and beside them what a folder `like` has, or `SmallFiles`.

    Else as `new_checkpoint`.
    """
    out = Path(out)
    specs = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    files = like if isinstance(like, SmallFiles) else small_files(Path(like), Path(like), one_float(specs))
    with new_checkpoint(out, specs, files, shard_bytes=shard_bytes) as writer:
        for name, value in tensors.items():
            writer.put(name, 0, value.reshape(-1))
        writer.close()
    return out


def space_needed(specs: Mapping[str, Spec]) -> int:
    """Bytes of the weights, and a margin for the small files."""
    return sum(map(_bytes, specs.values())) + MARGIN


def _bytes(spec: Spec) -> int:
    return spec[0].itemsize * math.prod(spec[1])


def one_float(specs: Mapping[str, Spec]) -> str:
    """The name of the type that all floats are written in; "" where there are several, or none."""
    floats = {dtype.name for dtype, _ in specs.values() if is_float(dtype)}
    return floats.pop() if len(floats) == 1 else ""


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


def _start_files(
    folder: Path, specs: Mapping[str, Spec], shard_bytes: int
) -> tuple[dict[str, tuple[Path, int]], list[Path]]:
    """Write all headers and the index; where each tensor goes, and the files."""
    shards = _shards(specs, shard_bytes)
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        files = [SINGLE]
    places: dict[str, tuple[Path, int]] = {}
    for file, names in zip(files, shards, strict=True):
        places |= _start_file(folder / file, names, specs)
    if len(shards) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        _write_index(folder / INDEX, weight_map, specs)
    return places, [folder / file for file in files]


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
