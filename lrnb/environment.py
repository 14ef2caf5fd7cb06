"""What a result was computed with: versions and the device. Kept in manifests and reports."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = (
    "lrnb torch transformers trl peft lm-eval numpy ml-dtypes numba llvmlite safetensors plotly".split()
)


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of the libraries that shape results, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def device_name() -> str:
    """The GPU's name if torch is in use and has one, else the processor's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"
