"""One training on several devices: a process a device, started by PyTorch's elastic agent in a subprocess.

They exchange files in a folder beside the output: what to call in job.json; progress.json and result.json of
the first process; error-<rank>.json of one that failed; ended.json of the agent: how processes ended.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

import psutil
from pydantic import TypeAdapter, validate_call

from lrnb.errors import TryAgain, UserError
from lrnb.study.files import json_object, make_folder, remove, write_text
from lrnb.study.progress import EVERY, Progress

LAUNCHER = "LRNB_LAUNCHER"  # node and number of the process that started all of it
LAUNCH = "import sys; from lrnb.training.launching import launch; sys.exit(launch(sys.argv[1]))"
PORT = 29400  # of the first node, where there are several


def on_devices(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run in a process a device where its `recipe` has several; with one it is called as it is.

    Its arguments and its result are what JSON can hold, with paths and a TrainingRecipe; `out` is among them,
    on a disk that all nodes see. What the processes print is printed here, their progress is shown as the
    function's own. UserError as raised there, and where a process was killed; RuntimeError with the traceback
    for any other error. All processes end when this one does.
    """

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        arguments = inspect.signature(function).bind(*args, **options).arguments
        devices, nodes = arguments["recipe"].count(), arguments["recipe"].nodes
        if devices * nodes == 1 or "RANK" in os.environ:
            return function(*args, **options)
        arguments["recipe"].shares(devices * nodes)  # refused here, before processes are started
        call = {"module": function.__module__, "name": function.__name__, "arguments": arguments}
        job = arguments["out"].with_name(f"{arguments['out'].name}.job")
        return _launched(call | {"devices": devices, "nodes": nodes}, job)

    return called


def _launched(call: dict[str, Any], job: Path) -> Any:
    """The result of a call in a process a device."""
    remove(job)  # what a kill left
    try:
        command = _command(make_folder(job), call["nodes"])
        write_text(job / "job.json", _json(call))
        status = _follow(command, job)
        if status or not (job / "result.json").is_file():
            raise _failure(job, status)
        return json.loads((job / "result.json").read_text(encoding="utf-8"))
    finally:
        remove(job)


def _json(value: Any) -> str:
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json"))


def _command(job: Path, nodes: int) -> list[str]:
    """The launcher, on every node by srun where there are several."""
    launcher = [sys.executable, "-c", LAUNCH, str(job.resolve())]
    if nodes == 1:
        return launcher
    if "SLURM_JOB_ID" not in os.environ or not shutil.which("srun"):
        raise UserError(
            f"nodes {nodes}: several nodes are started by Slurm's srun, and this is no job of Slurm. Use "
            "--profile slurm, or nodes=1"
        )
    once = ["--ntasks-per-node=1", "--overlap", "--kill-on-bad-exit=1"]
    return ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", *once, *launcher]


def _follow(command: list[str], job: Path) -> int:
    """Run the launcher to its end, printing and counting what it tells; its exit status."""
    told = {"LRNB_PROGRESS": str((job / "progress.json").resolve()), "TQDM_DISABLE": "1"}
    told |= {LAUNCHER: f"{platform.node()} {os.getpid()}"}
    process = subprocess.Popen(
        command,
        env=os.environ | told,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    reader = threading.Thread(target=_print_lines, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        with contextlib.closing(_counted(job / "progress.json")) as count:
            while process.poll() is None:
                next(count)
                time.sleep(EVERY)
            next(count)
        reader.join()
        return process.returncode
    finally:
        if process.poll() is None:  # interrupted here
            process.terminate()
            process.wait()


def _print_lines(lines: IO[str]) -> None:
    for line in lines:
        print(line, end="", flush=True)


def _counted(path: Path) -> Generator[None]:
    """At every step the progress in `path` becomes this process's, one for each stage that it tells of."""
    while not (state := json_object(path)):
        yield
    while True:
        with Progress(state["stage"], state["total"], state["unit"]) as progress:
            while state["stage"] == progress.stage:
                progress.update(state["done"] - progress.done)
                yield
                state = json_object(path) or state


def _failure(job: Path, status: int) -> Exception:
    """What the first process to fail says; the others fail as they wait for one that was killed.

    Which of them the agent sees first is chance: one that only waited is never the cause.
    """
    written = sorted(job.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns)
    errors = [path for path in written if not json_object(path).get("waited")]
    ended = json_object(job / "ended.json")
    killed = next((rank for rank, code in ended.items() if code == -signal.SIGKILL), _silent(job))
    if -signal.SIGKILL in ended.values() or not errors:
        one = "a process" if killed is None else f"process {killed}"
        return TryAgain(
            f"training on several devices: {one} was killed (out of memory, or by hand; status {status}). "
            "Free memory, or use a smaller micro_batch or sharding=full, then run the same command again: it "
            "goes on from the last resume point"
        )
    error = json.loads(errors[0].read_text(encoding="utf-8"))
    rank = errors[0].stem.removeprefix("error-")
    return UserError(error["user"]) if error["user"] else RuntimeError(f"process {rank}:\n{error['trace']}")


def _silent(job: Path) -> str | None:
    """The process that ended without a word, where it is one and the others left some."""
    call = json_object(job / "job.json")
    ranks = map(str, range(call.get("devices", 0) * call.get("nodes", 1)))
    silent = [rank for rank in ranks if not (job / f"error-{rank}.json").exists()]
    return silent[0] if len(silent) == 1 else None


def _waited(error: BaseException) -> bool:
    """Whether it came of another process that had ended; in backward() only the message tells."""
    return bool(re.search("gloo|NCCL|Connection (closed|reset) by peer", str(error)))


def work(job: Path) -> None:
    """What each process does: the call in job.json."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    call = json.loads((job / "job.json").read_text(encoding="utf-8"))
    function = getattr(importlib.import_module(call["module"]), call["name"])
    rank = os.environ["RANK"]
    try:
        result = validate_call(function.__wrapped__)(**call["arguments"])
    except BaseException as error:
        user = str(error) if isinstance(error, UserError) else ""
        told = {"user": user, "trace": traceback.format_exc(), "waited": _waited(error)}
        write_text(job / f"error-{rank}.json", json.dumps(told))
        raise
    if rank == "0":
        write_text(job / "result.json", _json(result))


def _end_with_launcher() -> None:
    """End this process when the one that started all of it is gone, so that no two write the same files."""
    node, pid = os.environ[LAUNCHER].split()
    if node != platform.node():  # srun ends the others
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        starter = psutil.Process(int(pid))
        while starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE:
            time.sleep(EVERY)
    os._exit(1)


def launch(folder: str) -> int:
    """Start this node's processes and wait for them; the exit status."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    job = Path(folder)
    call = json.loads((job / "job.json").read_text(encoding="utf-8"))
    multiprocessing.set_forkserver_preload([call["module"]])  # imported once for all
    host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "localhost")
    config = LaunchConfig(
        call["nodes"],
        call["nodes"],
        call["devices"],
        rdzv_backend="c10d",
        rdzv_endpoint=f"{host}:{PORT if call['nodes'] > 1 else 0}",
        run_id=str(job),
        max_restarts=0,
        start_method="forkserver",
    )
    try:
        elastic_launch(config, work)(job)
    except ChildFailedError as error:
        ended = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        write_text(job / "ended.json", json.dumps(ended))
        return 1
    return 0
