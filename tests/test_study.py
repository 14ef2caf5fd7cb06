"""One nano study from nothing to the report, through the real notebooks, at the smallest useful size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lrnb.params import ROOT

SMALL = {
    "base_tokens": 65536,
    "ct_budgets": "[2048, 8192]",
    "heldout_bytes": 2000,
    "sft_mix": "{world_topic: 64, world_reading: 64, world_response: 64, world_sums: 64}",
    "alphas": "[0.5]",
    "lams": "[1.0]",
    "densities": "[0.2, 0.5]",
    "slacks": "[0.5]",
    "dev_limit": 20,
    "test_limit": 40,
}
MERGED = ("average", "task_arithmetic", "ties", "ties_sv")
COLUMNS = (
    "preset lang model method ct_tokens task family metric value ci_low ci_high n chance shots seed".split()
)


def run(runs: Path, *extra: str) -> subprocess.CompletedProcess:
    changes = [
        part for key, value in (SMALL | {"runs": runs}).items() for part in ("--set", f"{key}={value}")
    ]
    command = [sys.executable, "-m", "lrnb", "run", "params/qaa.yaml", "--preset", "nano", *changes, *extra]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"}
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished small study."""
    runs = tmp_path_factory.mktemp("study") / "runs"
    done = run(runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report.html" in done.stdout
    assert "ties_sv" in done.stdout or "TIES-SV" in done.stdout
    return runs / "nano"


def test_scores_hold_every_model_and_task(study: Path) -> None:
    scores = pd.read_csv(study / "qaa" / "scores" / "scores.csv")
    assert list(scores.columns) == COLUMNS
    expected = {("base", 0), ("sft", 0)}
    expected |= {(m, n) for m in ("ct", "ct_then_sft", *MERGED) for n in (2048, 8192)}
    assert set(zip(scores["method"], scores["ct_tokens"], strict=True)) == expected
    single = scores[scores["family"].isin(["text_classification", "math"])]
    assert (single["n"] == 40).all()
    assert (single["chance"] == 25).all()
    assert ((scores["ci_low"] <= scores["value"]) & (scores["value"] <= scores["ci_high"])).all()


def test_every_stage_has_a_manifest_with_versions_and_hashes(study: Path) -> None:
    folders = ["shared/base", "shared/sft", "qaa/corpus", "qaa/ct", "qaa/ct_then_sft/2k", "qaa/scores"]
    folders += [f"qaa/merge/{method}" for method in MERGED] + ["qaa/conflicts"]
    for folder in folders:
        manifest = json.loads((study / folder / "manifest.json").read_text())
        assert manifest["outputs"], folder
        assert manifest["params"]["seed"] == 0
        assert manifest["versions"]["torch"]
        assert manifest["seconds"] >= 0


def test_a_candidate_was_chosen_on_dev_for_every_budget(study: Path) -> None:
    for method in MERGED:
        choices = pd.read_csv(study / "qaa" / "merge" / method / "choices.csv")
        assert choices.groupby("ct_tokens")["chosen"].sum().tolist() == [1, 1], method


def test_the_shares_add_up(study: Path) -> None:
    shares = pd.read_csv(study / "qaa" / "conflicts" / "shares.csv")
    tensors = shares[shares["tensor"] != "(model)"]
    whole = shares[shares["tensor"] == "(model)"]
    keys = ["setting", "ct_tokens"]
    counts = ["n", "ct_kept", "sft_kept", "conflicts", "ct_discarded", "sft_discarded", "reserved"]
    summed = tensors.groupby(keys)[counts].sum().astype("int64")
    pd.testing.assert_frame_equal(summed, whole.set_index(keys)[counts].astype("int64").sort_index())
    fixed = whole[whole["setting"] == "fixed"]
    assert fixed["ct_l2"].is_monotonic_increasing


def test_the_report_opens_offline_and_notebooks_were_kept(study: Path) -> None:
    page = (study / "qaa" / "report.html").read_text(encoding="utf-8")
    assert "Plotly" in page
    assert 'src="http' not in page
    kept = {path.stem for path in (study / "qaa" / "notebooks").glob("*.ipynb")}
    assert {
        "corpus",
        "ct",
        "average",
        "ties",
        "ties_sv",
        "eval_merged",
        "scores",
        "discarded",
        "failures",
    } <= kept


def test_a_rerun_has_nothing_to_do_and_a_change_runs_what_depends_on_it(study: Path) -> None:
    again = run(study.parent)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout.lower()
    changed = run(study.parent, "--set", "slacks=[0.2]", "--dry-run")
    assert changed.returncode == 0, changed.stderr
    rows = [line.split() for line in changed.stdout.splitlines() if line.startswith("│")]
    to_run = {row[1] for row in rows if row[-3:-1] == ["to", "run"]}
    assert to_run == {"ties_sv", "eval_merged", "scores", "discarded", "failures", "report"}
