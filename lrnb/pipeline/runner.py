"""`lrnb run`: the study's graph through Snakemake, with progress, and safe against kills and second runs."""

from __future__ import annotations

import contextlib
import json
import os
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
from lrnb.pipeline import graph, monitor, preflight, slurm
from lrnb.pipeline import steps as plan
from lrnb.pipeline.estimate import disk_bytes
from lrnb.pipeline.notebooks import Status, visible_gpus
from lrnb.pipeline.processes import ended_by_signals, stop, uninterrupted
from lrnb.pipeline.profiles import BUILT_IN, Profile, find_profile
from lrnb.study.files import free_space, full_disk, json_object, make_folder, need_space, write_text
from lrnb.study.parameters import ROOT, Study
from lrnb.study.stages import RunPaths

LOCK = ".run.lock"
OWNER = ".run.json"
LITTLE = 1 << 20  # bytes free on a disk that is full
FEW = 3  # steps that start sooner than a process has imported everything
PATIENCE = 30.0  # seconds for Snakemake to cancel what it submitted


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

    studies: languages, and seeds, of one folder; what they share is made once. `jobs` notebooks run at once
    (default: as many as the cores allow). `keep_code`: finished steps count as up to date although lrnb's own
    code changed. `warm`: where that is safe and pays, kernels are forked from one process that has imported.
    UserError when another run is at work in a folder, when one cannot be written, or when the data folder,
    disk space or what the profile needs is missing.
    """
    from rich.console import Console

    console, where = console or Console(), find_profile(profile)
    nodes = graph.graph(studies)
    if graph.outdated_nodes(studies, nodes, keep_code):
        preflight.refuse_missing(*studies)
    with contextlib.ExitStack() as held:
        for study in studies:
            held.enter_context(run_lock(make_folder(RunPaths(study).lang)))
            plan.write_stage_params(study)
        todo = graph.outdated_nodes(studies, nodes, keep_code)
        if not todo:
            console.print(f"Nothing to do: all {len(nodes)} steps in {_where(studies)} are up to date.",
                          soft_wrap=True)  # fmt: skip
            return []
        require_disk([nodes[name] for name in todo])
        for name in todo:
            Status(nodes[name].study, nodes[name].step.name).forget()
        board = monitor.Board([nodes[name] for name in todo])
        config: dict[str, Any] = {"keep_code": int(keep_code), "due": ",".join(todo)}
        config["warm"] = int(warm and len(todo) > FEW and can_be_warm(studies[0], profile))
        if others := graph.folders_from(studies)[1:]:
            config["others"] = ",".join(map(str, others))
        command = snakemake_command(studies[0], jobs, gpus, where, config)
        reasons = _watch(studies, board, command, console, where)
        monitor.notes(board, console)
        monitor.failures(board, console, reasons)
        return _conclude(board, _where(studies), console)


def _where(studies: Sequence[Study]) -> Path:
    """The folder of one study, or the one around those of several."""
    roots = {(paths := RunPaths(study)).root for study in studies}
    return paths.root.parent if len(roots) > 1 else paths.root if len(studies) > 1 else paths.lang


def require_disk(nodes: Sequence[graph.Node]) -> None:
    """UserError when the run folder's disk has less room than `nodes` will write."""
    studies = {node.place: node.study for node in nodes}
    need = sum(disk_bytes(studies[place], own) for place, own in graph.by_study(nodes).items())
    need_space(_where([*studies.values()]), need, "use another disk: --set runs=FOLDER")


def can_be_warm(study: Study, profile: str) -> bool:
    """Whether one process may import for all steps and fork: on Linux, on this machine, without a GPU."""
    alone = study.device != "mps" and not visible_gpus()
    return sys.platform == "linux" and not profile and study.threads == 1 and alone


def default_jobs(study: Study) -> int:
    """Notebooks at once; one where the only GPU is nobody's to lend."""
    return 1 if study.device == "mps" else max(1, cores() // study.threads)


def snakemake_command(
    study: Study, jobs: int | None, gpus: int | None, profile: Profile, config: Mapping[str, Any]
) -> list[str]:
    """Snakemake's command line; `config`: what the Snakefile asks for.

    `jobs` and `gpus`, where they are given, win over the profile, and the profile over what is usual. Its own
    lock is off: `run_lock` guards the folder and survives kills. So is its view of what is up to date:
    `freshness` has found what is due, and all of that is run, whatever dates and notes of earlier runs say.
    """
    folder = RunPaths(study).lang.resolve()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--nolock"]
    command += ["--directory", str(folder), "--keep-going", "--nocolor"]
    command += ["--forceall", "--ignore-incomplete", "--drop-metadata"]
    command += ["--config", *(f"{name}={value}" for name, value in config.items())]
    command += ["--workflow-profile", str(profile.folder or "none")]
    usual = {"scheduler": "greedy", "latency-wait": 20} | _limits(study, jobs, gpus, profile)
    usual |= slurm.arguments(folder) if profile.executor == "slurm" else {}
    typed = [*(["jobs", "cores"] if jobs else []), *(["resources"] if gpus else []), slurm.PREFIX]
    return [*command, *profile.arguments(usual, typed)]


def _limits(study: Study, jobs: int | None, gpus: int | None, profile: Profile) -> dict[str, int | str]:
    """How much may run at once, as Snakemake's options; a cluster has its own limits."""
    if not profile.is_local:
        return {"jobs": jobs or "unlimited"} | ({"resources": f"gpu={gpus}"} if gpus else {})
    at_once = jobs or default_jobs(study)
    found = len(visible_gpus()) if gpus is None else gpus
    return {"cores": at_once * study.threads, "resources": f"gpu={found or at_once}"}  # no GPU: no limit


def _watch(
    studies: Sequence[Study], board: monitor.Board, command: list[str], console: Any, profile: Profile
) -> dict[str, str]:
    """Start Snakemake, show progress until it ends; stop it with everything it started when interrupted.

    Returns why the cluster ended steps, where it was the cluster.
    """
    folder = RunPaths(studies[0]).lang
    log = folder / "logs" / "snakemake.log"
    make_folder(log.parent)
    with (
        open(log, "w", encoding="utf-8") as out,
        monitor.display(board, console) as refresh,
        ended_by_signals(),
    ):
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
                remember_child(RunPaths(study).lang, process.pid, profile.executor, folder)
            while process.poll() is None:
                if profile.executor == "slurm":
                    board.queued = slurm.submitted(log.read_text(encoding="utf-8", errors="replace"))
                refresh()
                time.sleep(0.3)
        except BaseException:
            end_run(folder, process.pid, profile.executor)
            raise
    if process.returncode:  # it may have been killed, and its steps work on
        end_run(folder, process.pid, profile.executor)
    text = log.read_text(encoding="utf-8", errors="replace")
    reasons = slurm.reasons(text) if profile.executor == "slurm" else {}
    if process.returncode and free_space(folder) < LITTLE:  # too little to write even what failed
        console.print(str(full_disk(folder)), markup=False, soft_wrap=True)
    elif process.returncode and not reasons and "failed" not in board.states().values():
        tail = "\n".join(text.splitlines()[-40:])
        console.print(
            f"Snakemake ended with status {process.returncode}; the end of {log}:\n{tail}", markup=False
        )
    return reasons


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
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder; UserError naming the process that has it. Ends what a killed run left behind."""
    owner = folder / OWNER
    guard = FileLock(folder / LOCK)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        pid = json_object(owner).get("pid", "unknown")
        raise UserError(
            f"{folder}: another lrnb run is at work there (process {pid}). "
            f"Wait for it, or stop it with: kill {pid}"
        ) from None
    try:
        end_left_over(folder)
        write_text(owner, json.dumps({"pid": os.getpid()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        guard.release()


def remember_child(folder: Path, pid: int, executor: str, first: Path) -> None:
    """Note which Snakemake works in a run folder, how, and `first`: the folder that its jobs are named by."""
    facts = {"pid": os.getpid(), "child": pid, "executor": executor, "first": str(first.resolve())}
    write_text(folder / OWNER, json.dumps(facts))


def end_left_over(folder: Path) -> None:
    """After `kill -9` of `lrnb run` its Snakemake works on alone, or steps of one that was killed too: end
    them, so that two do not collide.
    """
    facts = json_object(folder / OWNER)
    if not {"child", "executor", "first"} <= facts.keys():
        return
    with contextlib.suppress(psutil.Error):
        command = psutil.Process(facts["child"]).cmdline()  # of one that has ended: empty
        if command and facts["first"] not in command:
            facts["child"] = 0  # another process by now
    end_run(Path(facts["first"]), facts["child"], facts["executor"])


def end_run(first: Path, pid: int, executor: str) -> None:
    """End a Snakemake (0: none) with all it started, on this machine and on the cluster."""
    if executor == "slurm":
        with uninterrupted():
            told = slurm.cancelling(first)
        if told:
            print(f"lrnb: {told}", file=sys.stderr, flush=True)
    if pid:
        stop(pid, 0 if executor in BUILT_IN else PATIENCE)
    if executor == "slurm":
        with uninterrupted():
            left = slurm.cancel_jobs(first)
        if left:
            print(f"lrnb: {first}: {left}", file=sys.stderr)
