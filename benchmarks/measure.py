"""Timing whole processes, their memory, and the plain cost of reading three files and writing one."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

from lrnb.errors import UserError
from lrnb.study import environment

BLOCK = 1 << 20  # bytes read or written at once by the yardstick
INTERVAL = 0.05  # seconds between two looks at a process's memory
LIBRARIES = ("numpy", "numba", "llvmlite", "torch", "safetensors", "ml-dtypes")


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Finished:
    """One process that ran to its end: seconds, peaks in bytes, and what it said when."""

    seconds: float
    peak_anon_bytes: int
    peak_rss_bytes: int
    samples: int
    stdout: str
    lines: list[tuple[float, str]] = field(repr=False)  # standard error: (seconds since start, line)


def run_whole(command: Sequence[str], env: dict[str, str], cwd: Path) -> Finished:
    """Run `command` and measure it, its children included. RuntimeError with its last words if it fails.

    Anonymous memory is the largest sum of RssAnon seen at about 20 Hz; the peak of resident memory is
    the sum of the processes' VmHWM, which counts pages of mapped files too.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        list(command),
        env=env,
        cwd=cwd,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    watch = Watch(process.pid)
    out: list[tuple[float, str]] = []
    lines: list[tuple[float, str]] = []
    readers = [
        threading.Thread(target=_stamp, args=(process.stdout, started, out)),
        threading.Thread(target=_stamp, args=(process.stderr, started, lines)),
    ]
    for thread in [watch, *readers]:
        thread.start()
    try:
        status = process.wait()
        seconds = time.perf_counter() - started
    finally:
        _end(process)
        watch.finished.set()
        for thread in [watch, *readers]:
            thread.join()
    stdout = "\n".join(line for _, line in out)
    if status:
        said = "\n".join(line for _, line in lines[-20:])
        raise RuntimeError(f"{' '.join(command)}\nended with status {status}:\n{said}")
    return Finished(seconds, watch.anon, watch.rss, watch.samples, stdout, lines)


def variables(root: Path) -> dict[str, str]:
    """Variables of every measured process: lrnb from `root`, no network, all cores for the libraries."""
    kept = {key: value for key, value in os.environ.items() if key not in THREADS}
    path = os.pathsep.join(part for part in (str(root), kept.get("PYTHONPATH", "")) if part)
    return kept | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _end(process: subprocess.Popen) -> None:
    """Nothing of an interrupted measurement stays behind."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _stamp(stream: IO[str], started: float, lines: list[tuple[float, str]]) -> None:
    for line in stream:
        lines.append((time.perf_counter() - started, line.rstrip("\n")))


class Watch(threading.Thread):
    """Looks at the memory of a process and its descendants until `finished` is set."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.finished = pid, threading.Event()
        self.anon = self.rss = self.samples = 0

    def run(self) -> None:
        while not self.finished.is_set():
            found = [memory(pid) for pid in family(self.pid)]
            self.anon = max(self.anon, sum(anon for anon, _ in found))
            self.rss = max(self.rss, sum(peak for _, peak in found))
            self.samples += 1
            self.finished.wait(INTERVAL)


def family(pid: int) -> list[int]:
    """The process and its descendants, as far as they still run (Linux)."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{parent}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, path.read_text().split())
    return found


def memory(pid: int) -> tuple[int, int]:
    """(RssAnon, VmHWM) of one process in bytes; zeros where it has ended (Linux)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    values = {key: rest for key, _, rest in (line.partition(":") for line in text.splitlines())}
    anon, peak = (int(values.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "VmHWM"))
    return anon, peak


def status(bench: Callable[[argparse.Namespace], None], given: argparse.Namespace) -> int:
    """A benchmark's exit status: 0 done, 2 where the user can mend something, 1 where a command failed."""
    try:
        bench(given)
    except (UserError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def weights(folder: Path) -> list[Path]:
    """The weight files of a folder, sorted."""
    return sorted(folder.glob("*.safetensors"))


def warm(files: Sequence[Path]) -> bool:
    """Read all files once, so that they are in the page cache; False where memory cannot hold them."""
    if sum(path.stat().st_size for path in files) > 0.7 * available_memory():
        return False
    buffer = bytearray(8 * BLOCK)
    for path in files:
        with open(path, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return True


def available_memory() -> int:
    """Bytes that programs may still use, the page cache counted as free (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def remove(out: Path) -> None:
    """Delete an output and wait until the disk has nothing left to write."""
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)
    os.sync()


def read_three_write_one(folders: Sequence[Path], out: Path, threads: int) -> float:
    """Seconds to read all weight files of `folders` and write one folder's bytes to the new file `out`.

    The least that a merge can cost: preadv into one reused buffer of 1 MiB a thread, pwrite from the
    same buffer, no fsync, nothing computed. The folders must hold files of the same sizes.
    """
    groups = list(zip(*map(weights, folders), strict=True))
    if any(len({path.stat().st_size for path in group}) > 1 for group in groups):
        raise ValueError("read_three_write_one: the folders' files differ in size")
    with contextlib.ExitStack() as stack:
        inputs = [[stack.enter_context(open(p, "rb", buffering=0)).fileno() for p in g] for g in groups]
        target = stack.enter_context(open(out, "wb", buffering=0)).fileno()
        blocks = list(_blocks([group[0].stat().st_size for group in groups]))
        shares = [
            blocks[i * len(blocks) // threads : (i + 1) * len(blocks) // threads] for i in range(threads)
        ]
        errors: list[Exception] = []
        workers = [threading.Thread(target=_copy, args=(inputs, target, s, errors)) for s in shares]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - started
    if errors:
        raise errors[0]
    return seconds


def _blocks(sizes: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """(file number, offset in it, length, offset in the output)."""
    start = 0
    for number, size in enumerate(sizes):
        for offset in range(0, size, BLOCK):
            yield number, offset, min(BLOCK, size - offset), start + offset
        start += size


def _copy(
    inputs: list[list[int]], target: int, blocks: list[tuple[int, int, int, int]], errors: list[Exception]
) -> None:
    buffer = memoryview(bytearray(BLOCK))
    try:
        for number, offset, length, place in blocks:
            for source in inputs[number]:
                if os.preadv(source, [buffer[:length]], offset) != length:
                    raise OSError("short read")
            if os.pwrite(target, buffer[:length], place) != length:
                raise OSError("short write")
    except OSError as error:
        errors.append(error)


def paired(before: Sequence[float], after: Sequence[float]) -> str:
    """The median of after / before over rounds, with the smallest and the largest."""
    ratios = sorted(new / old for old, new in zip(before, after, strict=True))
    return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    total = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal"))
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(total.split()[1]) * 1024,
        "kernel": platform.release(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Python and the libraries that do the work, as installed beside us."""
    return environment.versions(LIBRARIES)


def commit(root: Path) -> str:
    """The checkout's commit, with + where files differ from it; empty outside git."""
    git = ["git", "-C", str(root)]
    done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, check=False)
    return done.stdout.strip() + ("+" if changed.stdout.strip() else "")
