"""Processes of a run: interrupted as Ctrl-C does, and ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

Handler = Callable[[int, Any], object]
ENDING: list[int] = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a polite kill and a closed terminal raise KeyboardInterrupt, as Ctrl-C does.

    A signal that is ignored stays so (nohup; SIGINT of what a script starts with &), but a process started
    meanwhile takes SIGINT: an ignored one would be ignored there too, and it could not be asked to end.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    given: dict[int, Handler] = {signal.SIGINT: _nothing}
    given |= {number: interrupt for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    with _handlers(given):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal that can be caught break off what ends a run."""
    with _handlers(dict.fromkeys(ENDING, _nothing)):
        yield


@contextlib.contextmanager
def _handlers(wanted: Mapping[int, Handler]) -> Iterator[None]:
    """Signal handlers for a while; in another than the main thread, which cannot have any, none."""
    before: dict[int, Any] = {}
    try:
        for number, handler in wanted.items():
            with contextlib.suppress(ValueError):
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(*_: object) -> None:
    pass


def stop(pid: int, patience: float) -> None:
    """Interrupt a process, give it `patience` seconds to end by itself, then end it with all it started.

    A further Ctrl-C takes the rest of that time away.
    """
    try:
        with contextlib.suppress(KeyboardInterrupt, psutil.Error):
            if patience:
                psutil.Process(pid).send_signal(signal.SIGINT)
                _wait(pid, patience)
    finally:
        with uninterrupted():
            end_tree(pid)


def _wait(pid: int, patience: float) -> None:
    """Until a process has ended, for at most so long; a child that nobody has waited for has ended too."""
    process, until = psutil.Process(pid), time.monotonic() + patience
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.1)


def end_tree(pid: int) -> None:
    """End a process and all it started (steps, kernels, orphans of its session); returns when they are gone.

    The process itself may have ended before.
    """
    family: list[psutil.Process] = []
    while found := [one for one in _family(pid) if one not in family]:
        for process in found:  # halted first, so that none starts another meanwhile
            with contextlib.suppress(psutil.Error):
                process.suspend()
        family += found
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def _family(pid: int) -> list[psutil.Process]:
    """A process with its descendants, and the members of the session that it leads or led."""
    family = [process for process in psutil.process_iter() if _session(process) == pid]
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        family += [parent, *parent.children(recursive=True)]
    return list(dict.fromkeys(family))


def _session(process: psutil.Process) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(process.pid)
    return None
