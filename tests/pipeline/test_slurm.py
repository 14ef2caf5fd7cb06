"""A study on a real slurmctld and slurmd: interrupted, killed, over its time, refused; no job is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import slurm_cluster, tiny_study
from support.mini_checkout import ATLAS, Checkout, gone, write_checkout

from lrnb.pipeline import run_step, slurm
from lrnb.pipeline.steps import write_stage_params
from lrnb.study.files import MANIFEST, hashes, write_text
from lrnb.study.parameters import ROOT, Study, load_study, read_yaml
from lrnb.study.stages import RunPaths
from lrnb.training.pretraining import COMPLETE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"needs {slurm_cluster.missing()}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as variables:
        before = dict(os.environ)
        os.environ.update(variables)
        yield
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A miniature study that ran once, on this machine."""
    checkout = Checkout(write_checkout(tmp_path_factory.mktemp("study") / "checkout"))
    shutil.copytree(ROOT / "profiles", checkout.root / "profiles")
    status, text = checkout.run()
    assert status == 0, text
    return checkout


@pytest.fixture
def checkout(finished: Checkout, tmp_path: Path) -> Checkout:
    shutil.copytree(finished.root, tmp_path / "copy")
    return Checkout(tmp_path / "copy")


def profile(root: Path, **options: object) -> str:
    """The repository's own profile, with seconds for minutes and what a test gives."""
    given = read_yaml(ROOT / "profiles" / "slurm" / "config.yaml")
    given |= {"slurm-init-seconds-before-status-checks": 3, "latency-wait": 20, "retries": 0} | options
    write_text(root / "mine" / "config.yaml", repr(given))  # a mapping is YAML as Python spells it
    return str(root / "mine")


def queued(form: str) -> list[str]:
    done = subprocess.run(["squeue", "--noheader", f"--format={form}"], capture_output=True, text=True)
    return done.stdout.split("\n")[:-1]


def wait_for(path: Path, run: subprocess.Popen, seconds: int = 900) -> None:
    """Until a run has made a file."""
    until = time.monotonic() + seconds
    while not path.exists():
        if run.poll() is not None or time.monotonic() > until:
            run.kill()
            raise AssertionError(f"{path} was not made:\n{run.communicate()[0]}")
        time.sleep(0.02)


def wait_asleep(checkout: Checkout, run: subprocess.Popen) -> None:
    wait_for(checkout.lang / "asleep", run)


def test_interrupted_and_killed_runs_leave_no_job_and_the_next_one_finishes(
    cluster: None, checkout: Checkout
) -> None:
    """slurmdbd is not there: a run that asked sacct would never end."""
    name = profile(checkout.root)
    checkout.make_trouble("sleep")
    slow = checkout.start("--profile", name)
    wait_asleep(checkout, slow)
    assert [line.split() for line in queued("%P %m %c %l")] == [["cpu", "16000M", "2", "2:00:00"]]
    slow.send_signal(signal.SIGTERM)
    text, _ = slow.communicate(timeout=100)
    assert slow.returncode == 130, text
    assert queued("%i") == []

    (checkout.lang / "asleep").unlink()
    slow = checkout.start("--profile", name)
    wait_asleep(checkout, slow)
    child = checkout.owner()["child"]
    for pid in (slow.pid, child):  # a lost login node: nobody cancels
        os.kill(pid, signal.SIGKILL)
    slow.communicate()
    (left,) = slurm.jobs(checkout.lang) or []
    (checkout.lang / "trouble").unlink()
    status, text = checkout.run("--profile", name)
    assert status == 0, text
    assert checkout.steps_run(text) == {"report"} | ATLAS
    assert gone(child)
    done = subprocess.run(["scontrol", "show", "job", left], capture_output=True, text=True).stdout
    assert "JobState=CANCELLED" in done
    assert queued("%i") == []


def test_a_time_limit_is_named_and_so_is_a_refusal(cluster: None, checkout: Checkout) -> None:
    checkout.make_trouble("sleep")
    (checkout.lang / "scores" / "manifest.json").unlink()
    asks = {"discarded": {"runtime": 1}, "scores": {"slurm_partition": "nowhere"}}
    status, text = checkout.run("--profile", profile(checkout.root, **{"set-resources": asks}))
    assert status == 1, text
    assert "its job reached its time limit. Raise `runtime` in the profile" in text
    assert "sbatch refused its job (error: invalid partition specified: nowhere" in text
    assert "the same command continues" in text
    assert queued("%i") == []


WEIGHTS = "model.safetensors"
TRAINED = tiny_study.TINY | {"world_tokens": 60_000, "ct_budgets": [1024, 32_768], "ct_save_tokens": 512}


def trained(runs: Path, *steps: str) -> tuple[Study, RunPaths]:
    """A real study, some of its steps made on this machine."""
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", TRAINED | {"runs": str(runs)})
    write_stage_params(study)
    for step in steps:
        run_step(study, step)
    return study, RunPaths(study)


def kernels(runs: Path) -> list[psutil.Process]:
    """The processes that train in a run folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = process.environ().get("LRNB_PROGRESS", "")
            found += [process] if told.startswith(str(runs)) else []
    return found


def resume_points(draft: Path) -> list[Path]:
    """The marks of those that are whole."""
    return [*draft.glob(f"work/checkpoint-*/{COMPLETE}")]


def test_training_goes_on_where_its_time_limit_broke_it_off(cluster: None, tmp_path: Path) -> None:
    """Its job stands still until slurmd ends it; the next attempt begins at the last resume point.

    What trains outlives its job and holds the lock for a while, as on a node that hangs: no mistake of the
    user, and tried again too.
    """
    study, paths = trained(tmp_path / "runs", "base", "corpus", "sft")
    shutil.copytree(tmp_path / "runs", tmp_path / "whole")
    whole = trained(tmp_path / "whole", "ct")[1].ct()

    name = profile(tmp_path, retries=3, **{"set-resources": {"ct": {"runtime": 4}}})
    command = [sys.executable, "-m", "lrnb", "run", "params/qaa.yaml", "--profile", name]
    command += tiny_study.options(TRAINED | {"runs": study.runs})
    told: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, **told)
    draft = paths.ct().with_name(".ct.draft")
    model, last = (paths.ct(budget).name for budget in TRAINED["ct_budgets"])
    wait_for(draft / model / WEIGHTS, run)
    first = (draft / model / WEIGHTS).stat()
    while not any(point.stat().st_mtime_ns > first.st_mtime_ns for point in resume_points(draft)):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.01)
    for process in kernels(tmp_path / "runs"):
        process.suspend()
    assert not (draft / last).exists()
    log = paths.lang / "logs" / "snakemake.log"
    while "SLURM status is: 'TIMEOUT'" not in log.read_text():
        assert run.poll() is None, run.communicate()[0]
        time.sleep(1)
    for process in kernels(tmp_path / "runs"):
        process.resume()
    wait_for(paths.ct() / MANIFEST, run)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=100) == 130
    again = (paths.ct() / model / WEIGHTS).stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)  # not trained again
    assert hashes(paths.ct()) == hashes(whole)
    assert queued("%i") == []
