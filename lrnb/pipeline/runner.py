"""`lrnb run`: the study's graph through Snakemake, with progress, and safe against kills and second runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from lrnb.errors import UserError
from lrnb.merging.task_vectors import cores
from lrnb.pipeline import graph, monitor, preflight
from lrnb.pipeline import steps as plan
from lrnb.pipeline.estimate import disk_bytes
from lrnb.pipeline.notebooks import visible_gpus
from lrnb.study.files import free_space, full_disk, make_folder, need_space, write_text
from lrnb.study.parameters import ROOT, Study
from lrnb.study.stages import RunPaths

LOCK = ".run.lock"
OWNER = ".run.json"
LITTLE = 1 << 20  # bytes free on a disk that is full
FEW = 3  # steps that start sooner than a process has imported everything


def run_study(study: Study, **options: Any) -> list[str]:
    """`run_studies` of one."""
    return run_studies([study], **options)


def run_studies(
    studies: Sequence[Study],
    *,
    jobs: int | None = None,
    gpus: int | None = None,
    profile: str = "",
    keep_code: bool = False,
    warm: bool = True,
    console: Any = None,
) -> list[str]:
    """Bring every step of all studies up to date, as one graph; returns the nodes that did not succeed.

    studies: languages of one folder; what they share is made once. `jobs` notebooks run at once (default:
    as many as the cores allow). `keep_code`: finished steps count as up to date although lrnb's own code
    changed. `warm`: where that is safe and pays, kernels are forked from one process that has imported.
    UserError when another run is at work in a folder, when one cannot be written, or when the data folder
    or disk space is missing.
    """
    from rich.console import Console

    console = console or Console()
    nodes = graph.graph(studies)
    if graph.outdated_nodes(studies, nodes, keep_code):
        preflight.refuse_missing(*studies)
    with contextlib.ExitStack() as held:
        for study in studies:
            held.enter_context(run_lock(make_folder(RunPaths(study).lang)))
            plan.write_stage_params(study)
        todo = graph.outdated_nodes(studies, nodes, keep_code, stamps=True)
        if not todo:
            console.print(f"Nothing to do: all {len(nodes)} steps in {_where(studies)} are up to date.",
                          soft_wrap=True)  # fmt: skip
            return []
        require_disk([nodes[name] for name in todo])
        board = monitor.Board([nodes[name] for name in todo])
        config: dict[str, Any] = {"keep_code": int(keep_code)}
        config["warm"] = int(warm and len(todo) > FEW and can_be_warm(studies[0], profile))
        if others := graph.folders_from(studies)[1:]:
            config["others"] = ",".join(map(str, others))
        command = snakemake_command(studies[0], jobs, gpus, profile, config)
        _watch(studies, board, command, console)
        monitor.notes(board, console)
        monitor.failures(board, console)
        return _conclude(board, _where(studies), console)


def _where(studies: Sequence[Study]) -> Path:
    """The folder of one study, or the one around those of several."""
    paths = RunPaths(studies[0])
    return paths.root if len(studies) > 1 else paths.lang


def require_disk(nodes: Sequence[graph.Node]) -> None:
    """UserError when the run folder's disk has less room than `nodes` will write."""
    studies = {node.place: node.study for node in nodes}
    need = sum(disk_bytes(studies[place], own) for place, own in graph.by_study(nodes).items())
    need_space(_where([*studies.values()]), need, "use another disk: --set runs=FOLDER")


def can_be_warm(study: Study, profile: str) -> bool:
    """Whether one process may import for all steps and fork: on Linux, on this machine, without a GPU."""
    return sys.platform == "linux" and not profile and study.threads == 1 and not visible_gpus()


def default_jobs(study: Study) -> int:
    return max(1, cores() // study.threads)


def snakemake_command(
    study: Study, jobs: int | None, gpus: int | None, profile: str, config: Mapping[str, Any]
) -> list[str]:
    """Snakemake's command line; `config`: what the Snakefile asks for.

    Its own lock is off: `run_lock` guards the folder and survives kills.
    """
    jobs = jobs or default_jobs(study)
    gpus = len(visible_gpus()) if gpus is None else gpus
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--nolock"]
    command += ["--directory", str(RunPaths(study).lang.resolve()), "--keep-going", "--rerun-incomplete"]
    command += ["--rerun-triggers", "mtime", "--scheduler", "greedy", "--nocolor", "--latency-wait", "20"]
    command += ["--resources", f"gpu={gpus or jobs}"]  # without GPUs the count limits nothing
    command += ["--config", *(f"{name}={value}" for name, value in config.items())]
    if profile:
        return [*command, "--workflow-profile", str(find_profile(profile)), "--jobs", str(jobs)]
    return [*command, "--workflow-profile", "none", "--cores", str(jobs * study.threads)]


def find_profile(profile: str) -> Path:
    """A folder below profiles/, or a path. UserError naming the known ones."""
    for folder in (ROOT / "profiles" / profile, Path(profile)):
        if (folder / "config.yaml").is_file():
            return folder
    known = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
    raise UserError(f"profile {profile!r}: no config.yaml in it; known profiles are {', '.join(known)}")


def _watch(studies: Sequence[Study], board: monitor.Board, command: list[str], console: Any) -> None:
    """Start Snakemake, show progress until it ends; stop it with everything it started when interrupted."""
    folder = RunPaths(studies[0]).lang
    log = folder / "logs" / "snakemake.log"
    make_folder(log.parent)
    with open(log, "w", encoding="utf-8") as out, monitor.display(board, console) as refresh, _sigterm():
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=ROOT,
        )
        try:
            for study in studies:
                _remember_child(RunPaths(study).lang, process.pid)
            while process.poll() is None:
                refresh()
                time.sleep(0.3)
        except BaseException:
            end_tree(process.pid)
            raise
    if process.returncode and free_space(folder) < LITTLE:  # too little to write even what failed
        console.print(str(full_disk(folder)), markup=False, soft_wrap=True)
    elif process.returncode and not any(state == "failed" for state in board.states().values()):
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-40:])
        console.print(
            f"Snakemake ended with status {process.returncode}; the end of {log}:\n{tail}", markup=False
        )


def _conclude(board: monitor.Board, folder: Path, console: Any) -> list[str]:
    unfinished = [name for name, state in board.states().items() if state != "done"]
    if unfinished:
        console.print(
            f"\nNot finished: {', '.join(unfinished)}. Finished steps in {folder} are kept; once the cause "
            "is mended, the same command continues.",
            markup=False,
            soft_wrap=True,
        )
    return unfinished


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    """Let a polite kill end the run as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder; UserError naming the process that has it. Ends what a killed run left behind."""
    owner = folder / OWNER
    guard = FileLock(folder / LOCK)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        pid = _owner(owner).get("pid", "unknown")
        raise UserError(
            f"{folder}: another lrnb run is at work there (process {pid}). "
            f"Wait for it, or stop it with: kill {pid}"
        ) from None
    try:
        end_left_over(owner)
        write_text(owner, json.dumps({"pid": os.getpid()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        guard.release()


def _owner(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return {}


def _remember_child(folder: Path, pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        facts = {"pid": os.getpid(), "child": pid, "child_started": psutil.Process(pid).create_time()}
        write_text(folder / OWNER, json.dumps(facts))


def end_left_over(owner: Path) -> None:
    """After `kill -9` of `lrnb run` its Snakemake works on alone: end it, so that two do not collide."""
    facts = _owner(owner)
    with contextlib.suppress(psutil.Error, KeyError):
        child = psutil.Process(facts["child"])
        if abs(child.create_time() - facts["child_started"]) < 1:
            end_tree(child.pid)


def end_tree(pid: int) -> None:
    """End a process and all it started (notebooks, their kernels); returns when they are gone."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=10)
