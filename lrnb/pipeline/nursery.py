"""The process that imports once for all steps of a run and forks: see `warm`, which starts it and asks it.

Everything ends with its parent (Linux kills it): the nursery with Snakemake, a step with the nursery or with
the command that asked for it, a kernel with its step.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import lrnb
from lrnb.pipeline import freshness
from lrnb.pipeline.warm import KERNEL, same_user

LATE_LIBRARIES = ("papermill", "transformers.models.llama.modeling_llama")
LONGEST = 1 << 20  # bytes of one order
PR_SET_PDEATHSIG = 1


def nursery(listener: socket.socket, parent: int) -> None:
    """Import, then fork for every command that asks; returns at once where forking is not safe."""
    _die_with(parent)
    code = freshness.package_hash()
    with _as_in_a_kernel():
        _import_all()
    if not _may_fork():
        return
    gc.freeze()  # pages that the collector does not touch stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for steps: their commands hear from them
    while True:
        client, _ = listener.accept()
        if same_user(client) and os.fork() == 0:
            listener.close()
            _step(client, os.getppid(), code)
        client.close()


@contextlib.contextmanager
def _as_in_a_kernel() -> Iterator[None]:
    """Let libraries that ask when they are imported (pandas, tqdm, transformers) find a notebook's kernel."""
    import ipykernel.kernelapp  # noqa: F401
    import IPython

    real, kernel = IPython.get_ipython, SimpleNamespace(kernel=None, config={"IPKernelApp": {}})
    IPython.get_ipython = builtins.get_ipython = lambda: real() or kernel  # type: ignore[attr-defined]
    try:
        yield
    finally:
        IPython.get_ipython = real
        del builtins.get_ipython  # type: ignore[attr-defined]


def _import_all() -> None:
    """All of lrnb, and what it imports late."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # as notebooks.py does
    found = pkgutil.walk_packages(lrnb.__path__, "lrnb.")
    for name in [*LATE_LIBRARIES, *(m.name for m in found if not m.name.endswith("__main__"))]:
        importlib.import_module(name)


def _may_fork() -> bool:
    """No CUDA, and no thread that a child would miss."""
    import torch

    return not torch.cuda.is_available() and len(list(Path("/proc/self/task").iterdir())) == 1


def _step(client: socket.socket, parent: int, code: str) -> NoReturn:
    """In a forked process: be the client's command. Where lrnb was edited since the imports, leave it."""
    _die_with(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    freshness.package_hash.cache_clear()
    message, streams, *_ = socket.recv_fds(client, LONGEST, 2)
    if not message or freshness.package_hash() != code:
        os._exit(1)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    order = json.loads(message)
    order["env"][KERNEL] = _kernel_in_waiting(client)
    threading.Thread(target=_die_with_client, args=[client], daemon=True).start()
    status = _become("lrnb", **order)
    with contextlib.suppress(OSError):
        client.send(bytes([status]))
    os._exit(status)


def _leave(status: int) -> NoReturn:
    """End a kernel as Python would, but leave what was imported before the fork: freeing it takes seconds.

    Threads are joined, exit functions run (IPython's drops the notebook's names), files written to their end.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends what it forked
    atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _kernel_in_waiting(client: socket.socket) -> str:
    """Fork, while there is one thread, what will be the step's kernel: its pid and the pipe for the order."""
    reading, writing = os.pipe()
    parent = os.getpid()
    if pid := os.fork():
        os.close(reading)
        return f"{pid} {writing}"
    client.close()
    os.close(writing)
    _die_with(parent)
    os.setsid()
    with open(reading, encoding="utf-8") as pipe:
        order = pipe.read()
    _leave(_become("ipykernel_launcher", **json.loads(order)) if order else 0)


def _become(module: str, argv: list[str], env: dict[str, str], cwd: str) -> int:
    """Run `python -m module argv` in this process; the exit status."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = argv
    status: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else 1


def _die_with(parent: int) -> None:
    """Let Linux kill this process when the process that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _die_with_client(client: socket.socket) -> None:
    client.recv(1)  # says nothing more: returns when the command has ended
    os._exit(1)


if __name__ == "__main__":
    descriptor, parent_pid = map(int, sys.argv[1:])
    nursery(socket.socket(fileno=descriptor), parent_pid)
