"""One nano study from nothing to the report, through the real notebooks, at the smallest useful size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support.browser import Notebook, check_export
from support.lab import Lab
from support.mini_checkout import to_run

from lrnb.conflicts import atlas as atlases
from lrnb.conflicts import counts as conflicts
from lrnb.conflicts.atlas import Atlas
from lrnb.conflicts.what_ifs import what_if
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import ROOT
from lrnb.study.parameters_cell import notebook_params
from lrnb.study.stages import read_manifest
from lrnb.widgets import conflicts as widgets_atlas

SMALL = {
    "base_tokens": 65536,
    "world_tokens": 40_000,
    "ct_budgets": "[2048, 8192]",
    "heldout_bytes": 2000,
    "sft_mix": "{world_topic: 64, world_reading: 64, world_response: 64, world_sums: 64}",
    "tuning_trials": 2,
    "alphas": "[0.5]",
    "lams": "[1.0]",
    "densities": "[0.2, 0.5]",
    "slacks": "[0.5]",
    "dev_limit": 20,
    "test_limit": 40,
}
MERGED = ("average", "task_arithmetic", "ties", "ties_sv")
COLUMNS = "preset lang model method ct_tokens task family metric".split()
COLUMNS += "value ci_low ci_high n chance shots seed cut label majority above clear collapsed mark".split()


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
        "signs",
        "failures",
    } <= kept


def test_a_rerun_has_nothing_to_do_and_a_change_runs_what_depends_on_it(study: Path) -> None:
    again = run(study.parent)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout.lower()
    changed = run(study.parent, "--set", "slacks=[0.2]", "--dry-run")
    assert changed.returncode == 0, changed.stderr
    assert set(to_run(changed.stdout)) == {
        "ties_sv",
        "eval_merged",
        "scores",
        "discarded",
        "signs",
        "saturation",
        "failures",
        "report",
    }


def hashes(nano: Path) -> dict[str, dict[str, str]]:
    """Those of every stage's files."""
    return {str(p.relative_to(nano)): read_manifest(p.parent)["outputs"] for p in nano.rglob(MANIFEST)}


@pytest.mark.slow  # a second run of the study, a minute; what a nursery is held to is in test_warm
def test_steps_started_from_nothing_make_the_same_bytes(study: Path, tmp_path: Path) -> None:
    """The study's steps were forked by a nursery where that is possible; here training, a merge, scores."""
    copy, made = tmp_path / "runs" / "nano", ("ct_then_sft/2k", "merge/ties", "scores")
    shutil.copytree(study, copy)
    params = copy / "qaa" / "params.yaml"
    params.write_text(params.read_text().replace(str(study.parent), str(copy.parent)))
    for folder in made:
        shutil.rmtree(copy / "qaa" / folder)
    for step in ("cts_2k", "ties", "scores"):
        command = [sys.executable, "-m", "lrnb", "exec", step, "--study", str(params)]
        subprocess.run(command, cwd=ROOT, check=True)
    assert all((copy / "qaa" / folder / MANIFEST).is_file() for folder in made)
    assert hashes(copy) == hashes(study)


@pytest.mark.slow
def test_a_whole_study_without_a_nursery_makes_the_same_bytes(study: Path) -> None:
    warm = study.rename(study.with_name("warm"))
    assert run(study.parent, "--no-warm").returncode == 0
    assert hashes(study) == hashes(warm)


@pytest.fixture(scope="module")
def lab(study: Path, chrome: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab beside a copy of the study."""
    home = tmp_path_factory.mktemp("by-hand")
    shutil.copytree(study, home / "runs" / "nano")
    with closing(Lab(home / "lab")) as lab:
        yield lab


def opened(lab: Lab, chrome: Any, name: str) -> Notebook:
    """A notebook of the study, run by hand with the study's parameters."""
    declared = notebook_params(ROOT / "notebooks" / f"{name}.ipynb")
    given = {k: yaml.safe_load(str(v)) for k, v in SMALL.items() if k in declared}
    runs = lab.root.parent.parent / "runs"
    notebook = Notebook(chrome, lab, lab.add(name, runs=str(runs), **given))
    notebook.run()
    return notebook


def close(notebook: Notebook, name: str) -> None:
    notebook.picture(name)
    notebook.check()
    notebook.close()


def shown(atlas: Atlas, where: str = conflicts.MODEL, **setting: Any) -> dict[str, str]:
    """The numbers that a widget should show, computed here."""
    found = what_if(atlas, **setting)
    return widgets_atlas.account_in_words(conflicts.sums(found.table.iloc[atlas.rows(where)]))


def read(notebook: Notebook, within: str, words: Iterable[str]) -> dict[str, str]:
    return {word: notebook.number(word, within) for word in words}


@pytest.mark.slow
def test_the_slack_explorer_in_jupyterlab_shows_the_studys_numbers(
    study: Path, lab: Lab, chrome: Any
) -> None:
    """At the study's setting, and after sliders were dragged, against the stored atlas."""
    atlas = atlases.load(study / "qaa" / "conflicts" / "8k")
    start = widgets_atlas.start(atlas)
    notebook, it = opened(lab, chrome, "03_analysis/02_discarded"), ".lrnb-slack-explorer"
    wanted = shown(atlas, **start)
    assert read(notebook, it, wanted) == wanted
    assert f"--slack {start['slack']:g} " in notebook.page.locator(f"{it} .lrnb-copy textarea").input_value()
    exact = pd.read_csv(study / "qaa/conflicts/shares.csv").query(
        "setting == 'chosen' and tensor == '(model)'"
    )
    lost = int(notebook.number("SFT discarded", it).split()[0].replace(",", ""))
    assert lost == pytest.approx(exact["sft_discarded"].iloc[-1], rel=0.02)
    notebook.drag(f"{it} .lrnb-control-slack", 0.8)
    notebook.press(f"{it} .lrnb-control-slack", "ArrowLeft")
    start["slack"] = float(notebook.text(f"{it} .lrnb-control-slack .widget-readout"))
    assert start["slack"] == pytest.approx(0.79, abs=0.02)
    wanted = shown(atlas, **start)
    assert read(notebook, it, wanted) == wanted
    xi = float(notebook.text(f"{it} .lrnb-control-threshold .widget-readout"))
    assert xi == pytest.approx(what_if(atlas, **start).table["xi"].iloc[-1], rel=0.05)
    notebook.press(f"{it} .lrnb-control-threshold", "End")  # the largest threshold wins all back
    assert float(notebook.text(f"{it} .lrnb-control-slack .widget-readout")) == 1
    assert "--slack-threshold" in notebook.page.locator(f"{it} .lrnb-copy textarea").input_value()
    close(notebook, "02_discarded")


def test_a_click_in_the_conflict_map_opens_that_cell(study: Path, lab: Lab, chrome: Any) -> None:
    atlas = atlases.load(study / "qaa" / "conflicts" / "8k")
    start, name = widgets_atlas.start(atlas), "03_analysis/03_sign_conflicts"
    notebook, it, signs = opened(lab, chrome, name), ".lrnb-conflict-map", ".lrnb-sign-explorer"
    assert "Whole model" in notebook.text(f"{signs} .gtitle")
    notebook.click_point(f"{it} > .lrnb-frame", "gate", "layer 1")
    notebook.shows(f"{signs} .gtitle", "Layer 1 gate")
    wanted = shown(atlas, "layer 1 gate", **start)
    assert read(notebook, signs, wanted) == wanted
    notebook.drag(f"{signs} .lrnb-control-density", 0.3)
    density = float(notebook.text(f"{signs} .lrnb-control-density .widget-readout"))
    wanted = shown(atlas, "layer 1 gate", **(start | {"density": density}))
    assert read(notebook, signs, wanted) == wanted
    close(notebook, "03_sign_conflicts")


@pytest.mark.slow  # in a browser, half a minute
def test_the_budget_player_plays(study: Path, lab: Lab, chrome: Any) -> None:
    last = atlases.load(study / "qaa" / "conflicts" / "8k")
    start = widgets_atlas.start(last)
    notebook, it = opened(lab, chrome, "03_analysis/04_saturation"), ".lrnb-budget-player"
    first = atlases.load(study / "qaa" / "conflicts" / "2k")
    assert notebook.number("conflicts", it) == shown(first, **start)["conflicts"]
    notebook.shows(f"{it} .gtitle", "At 2k CT tokens")
    notebook.page.locator(f"{it} .lrnb-play button").first.click()
    notebook.page.wait_for_timeout(3000)
    notebook.settle()
    notebook.shows(f"{it} .gtitle", "At 8k CT tokens")
    assert notebook.number("conflicts", it) == shown(last, **start)["conflicts"]
    close(notebook, "04_saturation")


@pytest.mark.parametrize("name", ["ties_sv", "discarded", "signs", "saturation"])
def test_an_executed_notebook_opens_without_a_network(
    study: Path, chrome: Any, tmp_path: Path, name: str
) -> None:
    assert check_export(chrome, study / "qaa" / "notebooks" / f"{name}.ipynb", tmp_path) >= 1
