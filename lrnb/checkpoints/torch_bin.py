"""Opening .bin folders: torch maps the pickles' data into memory and lets nothing run but its tensors.

The tensors are views of the mapped file, as those of safetensors are. What weights_only leaves out:
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.reading import BFLOAT16, DTYPES, Layout
from lrnb.errors import UserError
from lrnb.study.odd_files import AGAIN

OLDEST_TORCH = (2, 10)  # older unpicklers have known holes, weights_only or not
KNOWN = {dtype.name for dtype in DTYPES.values()}  # torch names them alike
MAX_PICKLE = 100_000_000  # bytes; it holds names and shapes only
ALONE = "Get the model as safetensors, or have its maker save the state dict alone with save_pretrained"


def check_torch(version: str) -> None:
    """UserError where this torch is too old to be trusted with a pickle."""
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TORCH:
        raise UserError(
            f"torch {version} cannot open .bin files safely: {'.'.join(map(str, OLDEST_TORCH))} or newer is "
            "needed. Upgrade torch, or give the model as safetensors"
        )


def read_bin(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one .bin file, mapped; those that do not lie in order are copied."""
    import torch

    check_torch(torch.__version__)
    sizes = _data_sizes(file)
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
        if str(x.dtype).removeprefix("torch.") not in KNOWN:
            raise UserError(
                f"{file}: {name!r} has dtype {x.dtype}, which is not merged. Save it in bfloat16."
            )
    stores = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in table.values()}
    if [size for _, size in sorted(stores.items()) if size] != sizes:  # torch does not look at them
        raise UserError(f"{file}: its tensors do not fit its data: damaged, or made by hand. {AGAIN}")
    return {name: _array(x) for name, x in table.items()}


def _data_sizes(file: Path) -> list[int]:
    """Bytes of each record of tensor data in torch's zip format, in the order of the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, ValueError) as error:
        raise _not_zip(file, error) from None
    for info in infos:
        large = info.filename.endswith("data.pkl") and info.file_size > MAX_PICKLE
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or large:
            raise UserError(f"{file}: {info.filename!r} is compressed, encrypted or too large. {ALONE}")
    return [i.file_size for i in infos if i.file_size and i.filename.split("/")[-2:-1] == ["data"]]


def _not_zip(file: Path, error: Exception) -> UserError:
    with open(file, "rb") as stream:
        head = stream.read(1)
    if head == b"\x80":
        return UserError(
            f"{file}: a pickle in the format before torch 1.6; it was not opened. Convert it once: python -c "
            f"\"import torch; t = torch.load('{file}', 'cpu', weights_only=True); "
            f"torch.save({{k: v.contiguous() for k, v in t.items()}}, '{file}')\""
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


def _array(x: Any) -> np.ndarray:
    """A read-only array of a tensor's values, without a copy where they lie in order."""
    import torch

    x = x.detach().contiguous()
    array = x.view(torch.int16).numpy().view(BFLOAT16) if x.dtype == torch.bfloat16 else x.numpy()
    array.flags.writeable = False
    return array


BIN = Layout("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model*.bin", read_bin)
