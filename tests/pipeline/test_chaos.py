"""Kills at random moments, damaged results, full disks, clocks set back: a study ends in the same bytes."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.tiny_study import TINY, options

from lrnb.pipeline import outdated
from lrnb.pipeline.steps import Step, plan, write_stage_params
from lrnb.study.files import MANIFEST, free_space, hashes, visible_files
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.stages import RunPaths

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("LRNB_KILLS", "10"))  # in each of five chains
SEED = int(os.environ.get("LRNB_CHAOS_SEED", "0"))
# Two processes train together; few steps, since each of these starts three of its own.
FEW = {key: value for key, value in TINY.items() if key not in ("densities", "slacks", "importance_rows")}
RANKS = FEW | {"devices": 2, "device": "cpu", "methods": ["average"], "search": {}, "tuning_trials": 1}


@dataclass
class Runs:
    """A folder of runs, the study in it, and where its commands write what they print."""

    folder: Path
    values: dict[str, Any]
    log: Path

    @property
    def study(self) -> Study:
        return load_study(ROOT / "params" / "qaa.yaml", "nano", self.values | {"runs": str(self.folder)})

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def start(self, *command: str) -> psutil.Popen:
        """`lrnb run` of the study, or another command."""
        given = ["params/qaa.yaml", *options(self.values | {"runs": str(self.folder)})]
        words = [sys.executable, "-m", "lrnb", *(command or ["run", *given])]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with open(self.log, "a", encoding="utf-8") as log:
            return psutil.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=env)

    def made(self, before: Path | None = None) -> dict[str, dict[str, str]]:
        """sha256 of every file of every stage, but for the name of the folder, which some of them hold.

        before: what the folder was called when part of it was made.
        """
        names, found = [str(one).encode() for one in (before, self.folder) if one], {}
        for stage in sorted(path.parent for path in self.folder.rglob(MANIFEST)):
            data = {name: path.read_bytes() for name, path in visible_files(stage).items()}
            for own in names:
                data = {name: text.replace(own, b"runs") for name, text in data.items()}
            told = {name: sha256(text).hexdigest() for name, text in data.items()}
            found[str(stage.relative_to(self.folder))] = told
        return found

    def left_over(self) -> list[Path]:
        return [
            path for path in self.folder.rglob(".*") if path.suffix in (".tmp", ".old", ".ipynb", ".draft")
        ]


@dataclass
class Whole:
    """What an uninterrupted study made, and the seconds that it took."""

    runs: Runs
    seconds: float
    made: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """Whole studies by their names; made when a test asks for one."""
    return {}


def uninterrupted(known: dict[str, Whole], values: dict[str, Any], folder: Path) -> Whole:
    name = str(values)
    if name not in known:
        runs, began = Runs(folder / "whole", values, folder / "log of whole"), time.monotonic()
        assert runs.start().wait() == 0, runs.printed
        known[name] = Whole(runs, time.monotonic() - began, runs.made())
    return known[name]


def family(run: psutil.Popen) -> dict[str, list[psutil.Process]]:
    """The processes of a run by what they are: steps and nurseries are `below`."""
    found: dict[str, list[psutil.Process]] = {"runner": [run]}
    for process in run.children(recursive=True):
        with suppress(psutil.Error, OSError):
            found.setdefault(kind(process, run), []).append(process)
    return found


def kind(process: psutil.Process, run: psutil.Popen) -> str:
    if any("multiprocessing.forkserver" in word for word in process.cmdline()):
        return "rank"  # or what forks them
    if process.ppid() == run.pid:
        return "engine"
    return "kernel" if os.getsid(process.pid) == process.pid else "below"


def kill_one(run: psutil.Popen, dice: random.Random) -> str:
    """End one process of a run; ranks are there for moments only, and taken where they are."""
    found = family(run)
    level = "rank" if "rank" in found else dice.choice(sorted(found))
    dice.choice(found[level]).kill()
    return level


def stages(study: Study) -> list[Path]:
    """The folders of all stages."""
    results = [path for step in plan(study).values() for path in step.results]
    return [path.parent for path in results if path.name == MANIFEST]


HOW = ("cut", "changed", "emptied", "removed", "a folder in its place")


def damage(stage: Path, how: str, dice: random.Random) -> str:
    """Spoil a file of a finished stage, or its manifest."""
    path = dice.choice([*sorted(stage.rglob(MANIFEST)), *(stage / name for name in hashes(stage))])
    data = path.read_bytes()
    half = len(data) // 2
    path.unlink()
    if how == "a folder in its place":
        path.mkdir()
    elif how != "removed":
        spoilt = {"cut": data[:half], "changed": data[:half] + b"?" + data[half + 1 :], "emptied": b""}
        path.write_bytes(spoilt[how])
    return f"{path.relative_to(stage.parent.parent)} {how}"


def chaos(runs: Runs, seconds: float, dice: random.Random) -> Iterator[str]:
    """What is done to a study, until KILLS kills have been survived and it is finished."""
    kills = 0
    while True:
        run, moment = runs.start(), time.monotonic() + dice.uniform(1, seconds / 3)
        while run.poll() is None:
            time.sleep(0.05)
            if kills < KILLS and time.monotonic() > moment:
                with suppress(psutil.Error):  # it ended just then
                    yield f"{kill_one(run, dice)} killed"
                    kills, moment = kills + 1, time.monotonic() + dice.uniform(1, seconds / 3)
        if run.returncode == 0 and kills >= KILLS:
            return
        if run.returncode == 0:
            yield damage(dice.choice(stages(runs.study)), dice.choice(HOW), dice)
        assert kills, runs.printed  # it failed by itself


@pytest.mark.parametrize(("values", "chain"), [*((TINY, chain) for chain in range(4)), (RANKS, 4)])
def test_random_kills_end_in_the_same_bytes(
    undisturbed: dict[str, Whole], values: dict[str, Any], chain: int, tmp_path: Path
) -> None:
    whole = uninterrupted(undisturbed, values, tmp_path)
    assert len(whole.made) > 12
    runs = Runs(tmp_path / "runs", values, tmp_path / "log")
    for event in chaos(runs, whole.seconds, random.Random(f"{SEED} {chain}")):
        print(time.strftime("%H:%M:%S"), event, flush=True)
    assert runs.made() == whole.made
    assert runs.left_over() == []  # nothing half-made stays


def set_clock_back(runs: Path, days: int) -> None:
    """As the files of a run look after that: of another day than today."""
    for path in runs.rglob("*"):
        then = path.stat().st_mtime + 86_400 * days
        os.utime(path, (then, then))


def test_damaged_results_are_made_again_whatever_the_clock_says(
    undisturbed: dict[str, Whole], tmp_path: Path
) -> None:
    """25 ways, five stages at a time, each of which is named; each time on another day."""
    whole = uninterrupted(undisturbed, TINY, tmp_path)
    shutil.copytree(whole.runs.folder, tmp_path / "runs")
    runs, dice = Runs(tmp_path / "runs", TINY, tmp_path / "log"), random.Random(SEED)
    steps = plan(runs.study)
    for days in (1, -2, 1, 400, -400):
        set_clock_back(runs.folder, days)
        assert outdated(runs.study, steps) == {}
        names = dice.sample([name for name in steps if name != "report"], len(HOW))
        for name, how in zip(names, HOW, strict=True):
            print(damage(steps[name].results[-1].parent, how, dice), f"on another day ({days})", flush=True)
        assert {*names} <= {*outdated(runs.study, steps)}
        assert runs.start().wait() == 0, runs.printed
        assert runs.made(whole.runs.folder) == whole.made


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """A disk on which so many bytes are free."""
    with open(disk / "filler", "wb") as file:
        while (more := free_space(disk) - left) > 0:
            with suppress(OSError):  # others write there too
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)
    yield
    (disk / "filler").unlink()


def pages(step: Step, whole: Path, runs: Path) -> int:
    """Bytes that the results of a step take on a disk."""
    there = [whole / result.relative_to(runs) for result in step.results]
    files = [file for path in there for file in ([path] if path.name != MANIFEST else path.parent.rglob("*"))]
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in files if file.is_file())


def test_a_full_disk_in_every_step_is_said_and_mended(undisturbed: dict[str, Whole], tmp_path: Path) -> None:
    """Full from the start, or after three eighths or three quarters of what the step makes."""
    whole = uninterrupted(undisturbed, TINY, tmp_path)
    with small_disk(tmp_path / "disk", 400) as disk:
        runs = Runs(disk / "runs", TINY, tmp_path / "log")
        steps, params = write_stage_params(runs.study), RunPaths(runs.study).lang / "params.yaml"
        for number, step in enumerate(steps.values()):
            command = ["exec", step.name, "--study", str(params)]
            with filled(disk, pages(step, whole.runs.folder, runs.folder) * (number % 3) * 3 // 8):
                assert runs.start(*command).wait() != 0, step.name
            assert re.search("the disk is full|the disk has .* free", runs.printed), runs.printed
            assert "Traceback" not in runs.printed
            assert not any(result.exists() for result in step.results)
            runs.log.unlink()
            assert runs.start(*command).wait() == 0, runs.printed
        assert runs.made() == whole.made
        assert runs.left_over() == []


def test_a_disk_that_fills_while_a_study_runs_stops_it_and_the_next_run_goes_on(
    undisturbed: dict[str, Whole], tmp_path: Path
) -> None:
    whole = uninterrupted(undisturbed, TINY, tmp_path)
    with small_disk(tmp_path / "disk", 400) as disk:
        runs = Runs(disk / "runs", TINY, tmp_path / "log")
        run, base = runs.start(), RunPaths(runs.study).base / MANIFEST
        while run.poll() is None and not base.exists():
            time.sleep(0.05)
        with filled(disk, 0):
            assert run.wait() == 1, runs.printed
        said = " ".join(runs.printed.split())
        assert re.search(rf"{disk}/\S*: the disk is full \([\d,]+ bytes free\)", said), runs.printed
        assert "Traceback" not in runs.printed
        assert runs.start().wait() == 0, runs.printed
        assert runs.made() == whole.made
        assert runs.left_over() == []
