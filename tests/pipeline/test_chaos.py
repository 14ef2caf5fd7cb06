"""Kills at random moments, one after the other, and damaged results: the study ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.tiny_study import TINY

from lrnb.study.files import MANIFEST, hashes
from lrnb.study.parameters import ROOT

KILLS = int(os.environ.get("LRNB_KILLS", "50"))
SEED = int(os.environ.get("LRNB_CHAOS_SEED", "0"))


def start(runs: Path) -> psutil.Popen:
    values = TINY | {"runs": str(runs)}
    options = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "lrnb", "run", "params/qaa.yaml", *options]
    with open(runs.with_name("log"), "a", encoding="utf-8") as log:
        return psutil.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )


def made(runs: Path) -> dict[str, dict[str, str]]:
    """sha256 of every file of every stage."""
    folders = sorted(path.parent for path in runs.rglob(MANIFEST))
    return {str(folder.relative_to(runs)): hashes(folder) for folder in folders}


def kill_one(run: psutil.Popen, dice: random.Random) -> str:
    """End the runner, Snakemake, or anything below (nursery, steps, kernels); which it was."""
    family = [run, *run.children(recursive=True)]
    level = dice.choice(["runner", "engine", "below", "below"])
    victim = {"runner": family[0], "engine": family[min(1, len(family) - 1)]}.get(level)
    (victim or dice.choice(family[2:] or family)).kill()
    return level


def damage(runs: Path, dice: random.Random) -> str:
    """Cut, change or remove a file of a finished stage."""
    stage = dice.choice(sorted(runs.rglob(MANIFEST))).parent
    path = dice.choice([stage / MANIFEST, *(stage / name for name in hashes(stage))])
    how = dice.choice(["cut", "changed", "removed"])
    if how == "removed":
        path.unlink()
    else:
        data = path.read_bytes()
        half = len(data) // 2
        path.write_bytes(data[:half] if how == "cut" else data[:half] + b"?" + data[half + 1 :])
    return f"{path.relative_to(runs)} {how}"


def chaos(runs: Path, dice: random.Random) -> Iterator[str]:
    """What is done to a study, until KILLS kills have been survived and it is finished."""
    kills = 0
    while True:
        run, moment = start(runs), time.monotonic() + dice.uniform(1, 40)
        while run.poll() is None:
            time.sleep(0.2)
            if kills < KILLS and time.monotonic() > moment:
                try:
                    yield f"{kill_one(run, dice)} killed"
                except psutil.Error:  # it ended just then
                    continue
                kills, moment = kills + 1, time.monotonic() + dice.uniform(1, 40)
        if run.returncode == 0 and kills >= KILLS:
            return
        if run.returncode == 0:
            yield damage(runs, dice)
        assert kills, runs.with_name("log").read_text()  # it failed by itself


@pytest.mark.slow
def test_random_kills_and_damages_end_in_the_same_bytes(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert start(runs).wait() == 0, (tmp_path / "log").read_text()
    wanted = made(runs)
    assert len(wanted) > 15
    subprocess.run(["rm", "-r", str(runs)], check=True)
    for event in chaos(runs, random.Random(SEED)):
        print(time.strftime("%H:%M:%S"), event, flush=True)
    assert made(runs) == wanted
    hidden = [path for path in runs.rglob(".*") if path.suffix in (".tmp", ".old", ".ipynb")]
    assert hidden == []  # nothing half-made stays
