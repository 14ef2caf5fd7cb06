"""What a result was computed with: versions and the device. Kept in manifests and reports."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lrnb import __version__
from lrnb.errors import UserError

LIBRARIES = (
    "lrnb torch transformers trl peft lm-eval numpy ml-dtypes numba llvmlite safetensors plotly mongol-norm"
).split()


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of the libraries that shape results, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = __version__ if name == "lrnb" else version(name)
    return found


#: What is told of a device that nobody has tried.
UNTESTED = {
    "mps": "device mps is accepted and not tested: no machine of Apple was at hand. Training and scoring are "
    "in float32 on its GPU, merging is on the CPU, one notebook runs at a time"
}


def resolved_device(asked: str) -> str:
    """cpu, cuda or mps: where `asked`, one of them or auto, computes on this machine.

    auto is a GPU of NVIDIA where there is one, else the CPU; what is untested is taken where it is asked for
    alone. UserError where torch does not see the device.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[asked]:
        whose = "GPU of Apple" if asked == "mps" else "GPU"
        then = "" if asked == "mps" else ", or install the driver"
        raise UserError(f"device {asked}: torch sees no {whose} here. Use device auto or cpu{then}")
    return asked


def device_name(asked: str = "auto") -> str:
    """The GPU's name if torch is in use and has one, else the processor and its threads; of mps that it was
    asked for."""
    if asked == "mps":
        return f"{platform.machine()} GPU by mps"
    if gpu := _gpu():
        return gpu
    threads = threads_used()
    return f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"


def threads_used() -> int:
    """CPU threads that libraries compute with: a study sets as many as its `threads`, else all cores are."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1


def _gpu() -> str:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else ""


def processor_name() -> str:
    """The model of the processor as Linux tells it, else its architecture; or the GPU's name."""
    return _gpu() or _cpu("model name") or platform.machine()


def instruction_set() -> str:
    """The widest vector instructions that training uses: avx512, avx2; elsewhere the architecture, or cuda.

    What the processor has, or less where ISA_LIMITS say so; with / between where they say different things.
    Sums are rounded in another order under another set, so that results differ.
    """
    if _gpu():
        return "cuda"
    flags = set(_cpu("flags").split())
    own = next((name for name, needs in ISA_FLAGS.items() if needs <= flags), platform.machine())
    limits = {_level(os.environ[name], own) for name in ISA_LIMITS if os.environ.get(name)}
    limits |= {own} if any(not os.environ.get(name) for name in ISA_LIMITS) else set()
    return "/".join(sorted(limits))


ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")  # of torch and below
ISA_FLAGS = {"avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "avx2": {"avx2", "fma"}}


def _level(limit: str, own: str) -> str:
    """What is used under a limit of one of the three libraries, where the processor has `own`."""
    order = [*ISA_FLAGS]
    name = next((name for name in order if limit.lower().startswith(name)), limit.lower())
    return own if own in order and name in order and order.index(own) > order.index(name) else name


def _cpu(key: str) -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")
    return ""


def cpu_quota(tree: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """CPU cores whose time this process may use by its control groups (a container's limit); inf without one.

    `own`: the file with the groups of the process; `tree`: where groups are mounted, of version 1 or 2.
    """
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    found = [float("inf")]
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds and "cpu" not in kinds.split(","):
            continue
        group = (tree / "cpu" if kinds else tree) / path.lstrip("/")
        found += [_quota(folder) for folder in (group, *group.parents) if folder.is_relative_to(tree)]
    return min(found)


def _quota(group: Path) -> float:
    """Cores that one control group allows, by version 2 (`cpu.max`) or 1; inf where it sets no limit."""
    with contextlib.suppress(OSError, ValueError):
        if (both := group / "cpu.max").is_file():
            allowed, period = map(int, both.read_text(encoding="utf-8").split())  # "max 100000": no limit
        else:
            allowed, period = (int((group / f"cpu.cfs_{x}_us").read_text()) for x in ("quota", "period"))
        return allowed / period if allowed > 0 else float("inf")
    return float("inf")


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of giving them back and faulting them in again.

    Training Gemma 3 270M on one CPU core is about a fifth faster with it. Without glibc: nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def usable_home() -> None:
    """Where HOME is not there or cannot be written, give libraries a private one until this process ends.

    Snakemake, Jupyter and IPython write there whatever they are told; a Hub token in the old one counts. So
    with the cache of `datasets`, which it writes to whatever it reads; models are only read from theirs.
    """
    with contextlib.suppress(RuntimeError):
        if _is_writable(Path.home()):
            _usable_cache()
            return
    own = _private_folder("lrnb-home-")
    token = Path(os.environ.get("HOME", "/")) / ".cache" / "huggingface" / "token"
    if token.is_file():
        os.environ.setdefault("HF_TOKEN_PATH", str(token))
    print(f"lrnb: HOME {os.environ.get('HOME', '')!r} cannot be written; caches go to {own}", file=sys.stderr)
    os.environ["HOME"] = own
    _usable_cache()


def _usable_cache() -> None:
    """As `usable_home`, for HF_DATASETS_CACHE or HF_HOME, which may be another user's."""
    given = os.environ.get("HF_DATASETS_CACHE") or os.environ.get("HF_HOME")
    place = Path(given) if given else Path.home() / ".cache" / "huggingface" / "datasets"
    nearest = next((folder for folder in (place, *place.parents) if folder.is_dir()), Path("/"))
    if not _is_writable(nearest):
        own = _private_folder("lrnb-datasets-")
        print(f"lrnb: {nearest} cannot be written; the cache of data sets goes to {own}", file=sys.stderr)
        os.environ["HF_DATASETS_CACHE"] = own


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder(prefix: str) -> str:
    own = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own
