"""What ends a run: the signals that count as Ctrl-C, time to cancel, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.mini_checkout import gone

from lrnb.pipeline import processes

POLITE = """import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
child = os.fork()
folder = pathlib.Path(sys.argv[1])
if child == 0:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(600)
try:
    (folder / 'child').write_text(str(child))
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(float(sys.argv[2]))
    (folder / 'cancelled').touch()
"""


def started(folder: Path, seconds: float) -> tuple[subprocess.Popen, int]:
    """A process that needs so many seconds to cancel, and the pid of its child, which takes no SIGINT."""
    command = [sys.executable, "-c", POLITE, str(folder), str(seconds)]
    process = subprocess.Popen(command, start_new_session=True)  # as Snakemake is started
    for _ in range(300):
        if (folder / "child").is_file() and (text := (folder / "child").read_text()):
            return process, int(text)
        time.sleep(0.05)
    raise AssertionError("it did not start")


@pytest.mark.parametrize(
    ("seconds", "patience", "cancelled"), [(0.2, 200, True), (400, 1, False), (0, 0, False)]
)
def test_a_process_gets_time_to_cancel_and_no_more(
    tmp_path: Path, seconds: float, patience: float, cancelled: bool
) -> None:
    process, child = started(tmp_path, seconds)
    before = time.monotonic()
    processes.stop(process.pid, patience)
    assert time.monotonic() - before < 100
    assert (tmp_path / "cancelled").exists() is cancelled
    assert gone(process.pid)
    assert gone(child)  # where its parent has ended by itself, as one of the session


def test_a_second_signal_takes_the_patience_away(tmp_path: Path) -> None:
    process, child = started(tmp_path, 40)
    with processes.ended_by_signals():
        subprocess.Popen(["sh", "-c", f"sleep 1; kill -TERM {os.getpid()}"])
        before = time.monotonic()
        processes.stop(process.pid, 60)
    assert time.monotonic() - before < 30
    assert gone(process.pid)
    assert gone(child)


@pytest.mark.parametrize("number", processes.ENDING)
def test_signals_count_as_ctrl_c_and_are_put_back(number: int) -> None:
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # under nohup it is ignored
    try:
        with pytest.raises(KeyboardInterrupt), processes.ended_by_signals():
            os.kill(os.getpid(), number)
            time.sleep(1)
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_so_but_a_child_takes_sigint() -> None:
    """As under nohup, and as a shell script starts what it puts behind a &."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        with processes.ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGINT)
            child = subprocess.Popen(["sleep", "60"])
            child.send_signal(signal.SIGINT)
            assert child.wait(timeout=20) == -signal.SIGINT
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_orphans_of_a_process_that_was_killed_are_ended(tmp_path: Path) -> None:
    process, child = started(tmp_path, 40)
    process.kill()
    process.wait()
    assert not gone(child)
    processes.end_tree(process.pid)
    assert gone(child)


def test_nothing_that_is_being_started_escapes(tmp_path: Path) -> None:
    """A shell that starts processes all the time: one begun while the family is ended must not stay."""
    mark = f"600.{os.getpid()}"
    shell = subprocess.Popen(["sh", "-c", f"while :; do sleep {mark} & sleep 0.01; done"])
    time.sleep(0.5)
    processes.end_tree(shell.pid)
    left = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["cmdline"] == ["sleep", mark]]
    for process in left:
        process.kill()
    assert left == []
