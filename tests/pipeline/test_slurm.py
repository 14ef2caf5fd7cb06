"""A study on a real slurmctld and slurmd: interrupted, killed, over its time, refused; no job is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import slurm_cluster
from support.mini_checkout import ATLAS, Checkout, gone, write_checkout

from lrnb.pipeline import slurm
from lrnb.study.parameters import ROOT, read_yaml

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


def profile(checkout: Checkout, **options: object) -> str:
    """The repository's own profile, with seconds for minutes and what a test gives."""
    given = read_yaml(ROOT / "profiles" / "slurm" / "config.yaml")
    given |= {"slurm-init-seconds-before-status-checks": 3, "latency-wait": 20, "retries": 0} | options
    (checkout.root / "mine").mkdir()
    (checkout.root / "mine" / "config.yaml").write_text(repr(given))  # a mapping is YAML as Python spells it
    return "mine"


def queued(form: str) -> list[str]:
    done = subprocess.run(["squeue", "--noheader", f"--format={form}"], capture_output=True, text=True)
    return done.stdout.split("\n")[:-1]


def wait_asleep(checkout: Checkout) -> None:
    for _ in range(1800):
        if (checkout.lang / "asleep").exists():
            return
        time.sleep(0.1)
    raise AssertionError((checkout.lang / "logs" / "snakemake.log").read_text())


def test_interrupted_and_killed_runs_leave_no_job_and_the_next_one_finishes(
    cluster: None, checkout: Checkout
) -> None:
    """slurmdbd is not there: a run that asked sacct would never end."""
    name = profile(checkout)
    checkout.make_trouble("sleep")
    slow = checkout.start("--profile", name)
    wait_asleep(checkout)
    assert [line.split() for line in queued("%P %m %c %l")] == [["cpu", "16000M", "2", "2:00:00"]]
    slow.send_signal(signal.SIGTERM)
    text, _ = slow.communicate(timeout=100)
    assert slow.returncode == 130, text
    assert queued("%i") == []

    (checkout.lang / "asleep").unlink()
    slow = checkout.start("--profile", name)
    wait_asleep(checkout)
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
    status, text = checkout.run("--profile", profile(checkout, **{"set-resources": asks}))
    assert status == 1, text
    assert "its job reached its time limit. Raise `runtime` in the profile" in text
    assert "sbatch refused its job (error: invalid partition specified: nowhere" in text
    assert "the same command continues" in text
    assert queued("%i") == []
