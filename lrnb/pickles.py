"""Opening .bin folders: pickles are read by torch's restricted unpickler, which says where tensors lie.

The tensors are then views of the mapped file, as those of safetensors are. What weights_only leaves out:
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints import (
    AGAIN,
    MAX_HEADER,
    Checkpoint,
    Entry,
    Layout,
    check_finite,
    read_config,
    read_entries,
)
from lrnb.checkpoints import DTYPES as KNOWN
from lrnb.params import UserError

BIN = Layout("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model*.bin")
OLDEST_TORCH = (2, 10)  # older unpicklers have known holes, weights_only or not
DTYPES = {dtype.name: dtype for dtype in KNOWN.values()}  # torch names them alike
ALONE = "Get the model as safetensors, or have its maker save the state dict alone with save_pretrained"


class BinCheckpoint(Checkpoint):
    """Tensors at their places in mapped .bin files; those that do not lie in order are copied, once."""

    def __init__(self, folder: Path, entries: dict[str, Entry], config: dict[str, Any]) -> None:
        self._copies: dict[str, np.ndarray] = {}
        super().__init__(folder, entries, config)

    def __getitem__(self, name: str) -> np.ndarray:
        if self.entries[name].strides is None:
            return super().__getitem__(name)
        if name not in self._copies:
            self._copies[name] = np.ascontiguousarray(super().__getitem__(name))
            self._copies[name].flags.writeable = False
        return self._copies[name]


def open_bin(folder: Path, *, finite: bool = True) -> BinCheckpoint:
    """A whole model in pytorch_model*.bin, validated as by `open_checkpoint`."""
    config = read_config(folder)
    checkpoint = BinCheckpoint(folder, read_entries(folder, BIN, read_bin), config)
    if finite:
        check_finite(str(folder), checkpoint)
    return checkpoint


def check_torch(version: str) -> None:
    """UserError where this torch is too old to be trusted with a pickle."""
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TORCH:
        raise UserError(
            f"torch {version} cannot open .bin files safely: {'.'.join(map(str, OLDEST_TORCH))} or newer is "
            "needed. Upgrade torch, or give the model as safetensors"
        )


def read_bin(file: Path) -> dict[str, Entry]:
    """Where the tensors of one .bin file lie in it."""
    import torch

    check_torch(torch.__version__)
    records = _records(file)
    try:
        table = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise _not_opened(file, error) from None
    for name, x in table.items() if isinstance(table, dict) else [("", table)]:
        plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout is torch.strided
        named = isinstance(name, str) and name != "__metadata__"  # which safetensors keeps for itself
        if not named or not plain or x.device.type != "cpu" or x.is_neg():
            what = f"{name!r} is a {type(x).__name__}" if isinstance(table, dict) else type(x).__name__
            raise UserError(f"{file}: not a plain table of names and tensors ({what}). {ALONE}")
        if str(x.dtype).removeprefix("torch.") not in DTYPES:
            raise UserError(
                f"{file}: {name!r} has dtype {x.dtype}, which is not merged. Save it in bfloat16."
            )
    starts = _starts(file, table.values(), records)
    return {name: _entry(file, x, starts) for name, x in table.items()}


def _records(file: Path) -> list[tuple[int, int]]:
    """(first byte, bytes) of the tensor data in torch's zip format, in the order of the file."""
    try:
        with zipfile.ZipFile(file) as archive, open(file, "rb") as stream:
            infos = archive.infolist()
            for info in infos:
                packed = info.compress_type != zipfile.ZIP_STORED
                if packed or (info.filename.endswith("data.pkl") and info.file_size > MAX_HEADER):
                    raise UserError(f"{file}: {info.filename!r} is compressed or too large. {ALONE}")
                if info.filename.endswith("/byteorder") and archive.read(info) != sys.byteorder.encode():
                    raise UserError(f"{file}: written in another byte order. {_resave(file)}")
            data = [i for i in infos if i.file_size and i.filename.split("/")[-2:-1] == ["data"]]
            return sorted((_data_start(stream, info.header_offset), info.file_size) for info in data)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}). Mend its rights") from None
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError) as error:
        raise _not_zip(file, error) from None


def _data_start(stream: Any, header: int) -> int:
    stream.seek(header + 26)  # lengths of the name and of the padding, which the data follows
    return header + 30 + sum(int.from_bytes(stream.read(2), "little") for _ in range(2))


def _not_zip(file: Path, error: Exception) -> UserError:
    with open(file, "rb") as stream:
        head = stream.read(2)
    if head[:1] == b"\x80":
        return UserError(
            f"{file}: a pickle in the format before torch 1.6; it was not opened. {_resave(file)}"
        )
    size = file.stat().st_size
    return UserError(
        f"{file}: not a whole .bin file ({size:,} bytes; {error}): truncated, or damaged. {AGAIN}"
    )


def _not_opened(file: Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    found = re.search(r"Unsupported [^.]*?[\w.]+|GLOBAL \S+|TorchScript", text)
    if type(error).__name__ == "UnpicklingError" or found:
        return UserError(
            f"{file}: holds more than tensors ({found[0] if found else text[:120]}), so opening it could "
            f"run code; it was not opened. {ALONE}"
        )
    return UserError(f"{file}: cannot be read ({text[:200]}). {AGAIN}")


def _resave(file: Path) -> str:
    return (
        f"Convert it once: python -c \"import torch; t = torch.load('{file}', 'cpu', weights_only=True); "
        f"torch.save({{k: v.contiguous() for k, v in t.items()}}, '{file}')\""
    )


def _starts(file: Path, tensors: Iterable[Any], records: list[tuple[int, int]]) -> dict[int, int]:
    """{address where torch mapped a storage: its first byte in the file}; sizes and gaps must agree."""
    stores = {s.data_ptr(): s.nbytes() for s in (x.untyped_storage() for x in tensors) if s.nbytes()}
    mapped = sorted(stores.items())
    shape = [[(start - spans[0][0], size) for start, size in spans] for spans in (mapped, records)]
    if shape[0] != shape[1]:
        raise UserError(f"{file}: its tensors do not fit its data: damaged, or made by hand. {AGAIN}")
    return {address: start for (address, _), (start, _) in zip(mapped, records, strict=True)}


def _entry(file: Path, x: Any, starts: dict[int, int]) -> Entry:
    dtype, shape = DTYPES[str(x.dtype).removeprefix("torch.")], tuple(x.shape)
    start = starts.get(x.untyped_storage().data_ptr(), 0) + x.storage_offset() * dtype.itemsize
    if x.is_contiguous():
        return Entry(file, dtype, shape, start if x.numel() else 0, start + x.numel() * dtype.itemsize)
    reach = sum((n - 1) * step for n, step in zip(shape, x.stride(), strict=True)) + 1
    strides = tuple(step * dtype.itemsize for step in x.stride())
    return Entry(file, dtype, shape, start, start + reach * dtype.itemsize, strides)
