"""Steps of a run from one warm process, the nursery: it has imported what notebooks import, and forks.

A step's command and its kernel each took seconds to start, eighteen times a study. The nursery imports once
and forks for every step a process that becomes `python -m lrnb exec`, and from that one a process that
becomes the kernel papermill asks for: the same programs, each still a process of its own. Without a nursery,
or when it dies, a command does its work itself; the results are the same bytes.

This is the side of those who ask, `nursery` the other. The address is an abstract one, so that nothing is
left behind on the disk; both sides refuse another user.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NURSERY, KERNEL = "LRNB_NURSERY", "LRNB_KERNEL"  # the nursery's address; pid and pipe of a waiting kernel
ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # of pyarrow, for an allocator not in use


def start_nursery(env: Mapping[str, str]) -> subprocess.Popen:
    """Start a nursery that ends with this process; commands started from here find it.

    `env`: the variables of all kernels; libraries read some of them when they are imported.
    """
    name = f"lrnb-{os.getpid()}-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen(64)
        command = [sys.executable, "-m", "lrnb.pipeline.nursery", str(listener.fileno()), str(os.getpid())]
        variables, kept = os.environ | env | ONE_THREAD, [listener.fileno()]
        started = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, pass_fds=kept)
    os.environ[NURSERY] = name
    return started


def hand_over() -> int | None:
    """Let the nursery run this command; its exit status. None: there is none, or it died; run it here."""
    name = os.environ.pop(NURSERY, "")
    if not name:
        return None
    order = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": str(Path.cwd())}
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nursery:
        nursery.connect(f"\0{name}")
        if same_user(nursery):
            socket.send_fds(nursery, [json.dumps(order).encode()], [1, 2])
            if status := nursery.recv(1):
                return status[0]
    return None


def same_user(peer: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user."""
    facts = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", facts)[1] == os.getuid()


class ForkedKernel:
    """The kernel that waits for its order, behind what jupyter_client uses of subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, waiting: str) -> None:
        pid, pipe = waiting.split()
        self.pid, self.pipe = int(pid), int(pipe)
        self.returncode: int | None = None

    def launch(self, command: list[str], env: Mapping[str, str], cwd: str) -> None:
        """Give the order: `command` is `python -m ipykernel_launcher ...`."""
        argv = [*command[3:], f"--IPKernelApp.parent_handle={os.getpid()}"]
        order = {"argv": argv, "env": {**env, "JPY_PARENT_PID": str(os.getpid())}, "cwd": cwd}
        with open(self.pipe, "w", encoding="utf-8") as pipe:
            json.dump(order, pipe)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def _ended(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
