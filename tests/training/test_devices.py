"""Training on several devices: the same weights as on one, exact resume after a kill, errors as they were."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support import devices
from support.devices import BUDGETS, RECIPE, furthest
from support.pico import save_pico

from lrnb.data import packing
from lrnb.errors import TryAgain, UserError
from lrnb.study import files
from lrnb.study.parameters import ROOT
from lrnb.training import launching, pretraining

FAR, NEAR = 0.04, 5e-5  # what training moves some weight by, and what another number of devices may
TWO = replace(RECIPE, devices=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a pico base and packed rows, and tests/support where other processes find it."""
    folder = tmp_path_factory.mktemp("devices")
    save_pico(folder / "base")
    rng = np.random.default_rng(0)
    documents = [[1, *rng.integers(4, 29, rng.integers(3, 30)).tolist(), 2] for _ in range(200)]
    packing.write_packed(packing.pack(documents, 16), folder / "packed.arrow", 10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
        yield folder


def given(place: Path, out: str) -> dict[str, Path]:
    return {"base": place / "base", "packed": place / "packed.arrow", "out": files.make_folder(place / out)}


@pytest.fixture(scope="module")
def one(place: Path) -> dict[str, Any]:
    """What one process trains and tells."""
    found = given(place, "one/ct")
    told = devices.pretrain(RECIPE, **found)
    return {"ct": told, "sft": devices.fine_tune(RECIPE, place / "base", place / "one" / "sft")}


@pytest.fixture(scope="module")
def two(place: Path) -> dict[str, Any]:
    """What two processes train and tell: whole models (none) and sharded ones (full)."""
    for sharding in ("none", "full"):
        files.make_folder(place / "two" / sharding / "ct")
    return devices.both_ways(TWO, **given(place, "two"))


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_to_the_weights_of_one(
    place: Path, one: dict[str, Any], two: dict[str, Any], sharding: str
) -> None:
    """The same rows in the same steps. Gradients are summed in another order, so that float32 rounds them
    otherwise, and Adam divides them by their own size. Found: 2e-6 (CT) and 6e-6 (SFT).
    """
    for part in (*(f"ct/{budget}" for budget in BUDGETS), "sft"):
        assert furthest(place / "one" / part, place / "two" / sharding / part) < NEAR
        assert furthest(place / "base", place / "one" / part) > FAR
    sft, ct = two[f"sft {sharding}"], two[f"ct {sharding}"]
    assert sft == one["sft"] | {"loss": pytest.approx(one["sft"]["loss"], rel=1e-5)}
    assert [row["tokens"] for row in ct] == [row["tokens"] for row in one["ct"]]
    for ours, theirs in zip(ct, one["ct"], strict=True):
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-5)
        assert ours.get("bits_per_byte_x", 0) == pytest.approx(theirs.get("bits_per_byte_x", 0), rel=1e-5)


def test_only_the_first_process_writes_and_nothing_is_left_over(place: Path, two: dict[str, Any]) -> None:
    for sharding in ("none", "full"):
        found = {path.name for path in (place / "two" / sharding / "ct").iterdir()}
        assert found == {"history.csv", "work", *(str(budget) for budget in BUDGETS)}
        sharded = place / "two" / sharding / "ct" / "work" / "checkpoint-12" / "pytorch_model_fsdp_0"
        assert sharded.is_dir() == (sharding == "full")
    assert not list(place.glob("*.job"))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_killed_process_ends_all_and_training_resumes_to_the_same_bytes(
    place: Path, two: dict[str, Any], sharding: str
) -> None:
    recipe, paths = replace(TWO, sharding=sharding), given(place, f"killed-{sharding}")
    with pytest.raises(TryAgain, match="process 1 was killed"):
        devices.killed(recipe, **paths)
    assert pretraining.newest_point(paths["out"] / "work").endswith("checkpoint-4")
    history = devices.pretrain(recipe, **paths)
    for budget in BUDGETS:
        name = f"{budget}/model.safetensors"
        assert files.sha256(paths["out"] / name) == files.sha256(place / "two" / sharding / "ct" / name)
    assert [row["tokens"] for row in history] == [row["tokens"] for row in two[f"ct {sharding}"]]


def test_a_batch_is_shared_by_all_devices() -> None:
    assert RECIPE.shares(1) == (2, 4) and RECIPE.shares(2) == (2, 2)
    assert replace(RECIPE, micro_batch=0).shares(4) == (2, 1)
    with pytest.raises(UserError, match=r"8 is no multiple of 6 \(micro_batch 2 on each of 3 devices\)"):
        RECIPE.shares(3)


def test_a_batch_that_devices_cannot_share_is_refused_before_any_is_started(place: Path) -> None:
    with pytest.raises(UserError, match="no multiple of 6"):
        devices.pretrain(replace(RECIPE, devices=3), **given(place, "three"))
    assert not list((place / "three").iterdir())


def test_several_nodes_need_slurm(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="nodes 2: several nodes are started by Slurm's srun"):
        devices.pretrain(replace(RECIPE, nodes=2), **given(place, "nodes"))


def test_an_error_of_the_first_process_to_fail_is_told(tmp_path: Path) -> None:
    for rank, user in ((1, "the corpus is empty"), (0, "")):
        files.write_text(tmp_path / f"error-{rank}.json", f'{{"user": "{user}", "trace": "Traceback"}}')
    told = launching._failure(tmp_path, 1)
    assert isinstance(told, UserError) and str(told) == "the corpus is empty"


def test_a_process_that_ended_without_a_word_is_the_cause_of_what_the_others_say(tmp_path: Path) -> None:
    """The agent may see first the one that waited for it."""
    said = {
        "user": "",
        "trace": "Traceback",
        "waited": launching._waited(RuntimeError("gloo: Connection closed")),
    }
    files.write_text(tmp_path / "error-0.json", json.dumps(said))
    files.write_text(tmp_path / "ended.json", '{"0": 1}')
    files.write_text(tmp_path / "job.json", '{"devices": 2, "nodes": 1}')
    told = launching._failure(tmp_path, 1)
    assert isinstance(told, TryAgain) and "process 1 was killed" in str(told)
    assert not launching._waited(ValueError("a loss that is no number"))


SRUN = """#!/bin/sh
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
export SLURM_LAUNCH_NODE_IPADDR=127.0.0.1
"$@" & other=$!
"$@" && wait $other
"""


@pytest.mark.slow
def test_two_nodes_train_as_one_machine(
    place: Path, one: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is stood in for by a script that starts the agent twice, here: they meet as on two machines."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    devices.pretrain(replace(RECIPE, nodes=2, sharding="full"), **given(place, "nodes-ct"))
    for budget in BUDGETS:
        assert furthest(place / "one" / "ct" / str(budget), place / "nodes-ct" / str(budget)) < NEAR


def _train_and_wait(place: Path) -> None:
    devices.pretrain(replace(RECIPE, devices=2, batch=8), **given(place, "orphaned"))


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(place: Path) -> None:
    starter = multiprocessing.get_context("spawn").Process(target=_train_and_wait, args=(place,))
    starter.start()
    deadline = time.time() + 300
    while not list((place / "orphaned.job").glob("progress.json")) and time.time() < deadline:
        time.sleep(0.05)
    family = psutil.Process(starter.pid).children(recursive=True)
    assert len(family) >= 3  # the agent, and what it started
    starter.kill()
    starter.join()
    assert psutil.wait_procs(family, timeout=200)[1] == []  # one that still imports looks afterwards
    assert not (place / "orphaned" / str(BUDGETS[1])).exists()  # they had not come to the end


def test_every_stage_that_the_processes_tell_of_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "told.json"))
    theirs = tmp_path / "theirs.json"
    with contextlib.closing(launching._counted(theirs)) as count:
        next(count)  # nothing yet
        for stage, unit, done in (
            ("tokenizing", "examples", 40),
            ("sft", "tokens", 8),
            ("sft", "tokens", 16),
        ):
            theirs.write_text(json.dumps({"stage": stage, "unit": unit, "done": done, "total": 40}))
            next(count)
    found = json.loads(told.read_text())
    assert [found[key] for key in ("stage", "unit", "done", "total")] == ["sft", "tokens", 16, 40]
