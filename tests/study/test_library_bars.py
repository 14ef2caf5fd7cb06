"""What libraries count is told where no person looks: downloads from a Hub, tables made of rows."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from support.hub import local_hub
from support.pico import save_pico

from lrnb.study.library_bars import LibraryBar, told_for_libraries
from lrnb.study.parameters import ROOT

TOLD = """
import json, os, sys
from pathlib import Path

states, replace = [], os.replace
def noted(source, target):
    if str(target) == os.environ["LRNB_PROGRESS"]:
        states.append(json.loads(Path(source).read_text()))
    replace(source, target)
os.replace = noted

import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 14  # bytes between two updates
from lrnb.checkpoints.opening import open_source
from lrnb.data.hub_sets import open_set
from lrnb.study import library_bars
from lrnb.training.base import real_base

library_bars.EVERY = 0.01  # seconds
found = {"tensors": len(open_source("org/model"))}
found["rows"] = len(open_set("org/rows", "", "train", files=["train.jsonl"]))
real_base("org/other", Path(sys.argv[1]), prune=False)
print(json.dumps(found | {"states": states}))
"""


def test_downloads_from_a_hub_say_how_fast_they_are_without_a_terminal(tmp_path: Path) -> None:
    for name in ("model", "other"):
        save_pico(tmp_path / "hub" / "models" / "org" / name)
    rows = tmp_path / "hub" / "datasets" / "org" / "rows"
    rows.mkdir(parents=True)
    (rows / "train.jsonl").write_text("".join(f'{{"text": "{n:0200}"}}\n' for n in range(1000)))
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "LRNB_PROGRESS": str(tmp_path / "told")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with local_hub(tmp_path / "hub", pause=0.02) as address:
        done = subprocess.run(
            [sys.executable, "-c", TOLD, str(tmp_path / "out")],
            env=kept | env | {"HF_ENDPOINT": address}, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["tensors"], found["rows"]) == (20, 1000)
    bytes_of = [
        (s["stage"], s["done"], s["total"], s["rate"]) for s in found["states"] if s["unit"] == "bytes"
    ]
    for what, size in (
        ("reconstruct", weights(tmp_path, "model")),
        ("train.jsonl", (rows / "train.jsonl").stat().st_size),
        ("model.safetensors", weights(tmp_path, "other")),
    ):
        told = [(done, total, rate) for stage, done, total, rate in bytes_of if what in stage]
        on_the_way = [rate for done, total, rate in told if size / 4 < done < total]
        assert on_the_way and all(1e4 < rate < 1e8 for rate in on_the_way), (what, told)
        assert any(done == total >= size for done, total, _ in told), (what, told)
    units = {state["stage"]: state["unit"] for state in found["states"]}
    assert (units["generating train split"], units["loading weights"]) == ("examples", "tensors")
    assert "%|" not in done.stderr  # bars of tqdm


def weights(folder: Path, name: str) -> int:
    return (folder / "hub" / "models" / "org" / name / "model.safetensors").stat().st_size


def test_what_a_table_is_made_of_is_told_and_the_table_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> datasets.Dataset:
        with told_for_libraries():
            return datasets.Dataset.from_dict({"n": list(range(50))}).map(lambda row: {"m": row["n"] ** 2})

    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    table = made()
    state = json.loads(told.read_text())
    assert (state["stage"], state["done"], state["total"], state["unit"]) == ("map", 50, 50, "examples")
    assert state["rate"] > 0
    monkeypatch.delenv("LRNB_PROGRESS")
    told.unlink()
    assert made().to_list() == table.to_list()
    assert not told.exists()


def test_bars_are_the_libraries_own_after_the_block_and_where_a_person_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = datasets.utils.tqdm
    monkeypatch.delenv("LRNB_PROGRESS", raising=False)
    with told_for_libraries():
        assert isinstance(kind(total=1, file=io.StringIO()), kind)
    monkeypatch.setenv("LRNB_PROGRESS", str(tmp_path / "progress.json"))
    with told_for_libraries():
        with told_for_libraries():
            assert isinstance(kind(total=1), LibraryBar)
        assert isinstance(kind(total=1), LibraryBar)
    assert isinstance(kind(total=1, file=io.StringIO()), kind)


def test_what_was_there_before_a_download_went_on_is_no_part_of_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    with LibraryBar(total=3_000_000_000, initial=2_000_000_000, unit="B", desc="model.safetensors") as bar:
        bar.update(10)
    state = json.loads(told.read_text())
    assert (state["done"], state["total"], state["unit"]) == (2_000_000_010, 3_000_000_000, "bytes")
    assert 0 < state["rate"] < 1e8
