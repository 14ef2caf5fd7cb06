"""Every notebook, run twice in one kernel, ends with equal results: nothing it leaves behind changes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nbformat import NotebookNode
from support.run_all import Kernel, kernel, with_parameters
from support.tiny_study import TINY

from lrnb.pipeline.lesson_run import SHIPPED
from lrnb.pipeline.steps import plan, step_params, write_stage_params
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.parameters_cell import notebook_params
from lrnb.study.stages import RunPaths, read_manifest

# A micro-world of full size takes half a minute to write; plotly.js comes with a kernel's first figure only.
PREPARED = """import functools
from lrnb.data import microworld
small = {"dev": 5, "test": 12, "sft": 20}
microworld.write_world = functools.partial(microworld.write_world, **small)
import plotly.graph_objects
plotly.graph_objects.Figure().show()"""


def study_in(runs: Path) -> Study:
    return load_study(ROOT / "params" / "qaa.yaml", "nano", TINY | {"runs": str(runs)})


STEPS = {name: step for name, step in plan(study_in(Path("runs"))).items() if step.notebook}
ALONE = ["00_start_here", "00_ties_by_hand", "explore/playground"]  # no steps of a study
POOLS = [
    "03_analysis/06_map",
    "03_analysis/07_questions",
    "03_analysis/11_sizes",
]  # write nothing, and run in tests/analysis
LESSON = [f"lesson/{path.stem}" for path in sorted(SHIPPED.parent.glob("*.ipynb"))]  # write nothing
IN_X = "03_analysis/09_rows_in_x"  # of arms on rows in X, and is run in test_rows_in_x
TOGETHER = "02_merge/languages"  # of several languages, and is run in tests/tuning/test_for_languages.py
ASKED_FOR = ["03_analysis/08_retention", "03_analysis/10_sets"]  # off by default, and run in tests/analysis


@pytest.fixture(scope="module")
def running() -> Iterator[Kernel]:
    with kernel() as started:
        started.run(PREPARED)
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twice") / "runs"


def results(runs: Path) -> dict[str, dict[str, str]]:
    """The hashes of every stage's files."""
    return {str(path): read_manifest(path.parent)["outputs"] for path in runs.rglob(MANIFEST)}


def test_every_notebook_is_run_here() -> None:
    found = (path.relative_to(ROOT / "notebooks") for path in (ROOT / "notebooks").rglob("*.ipynb"))
    names = {str(path.with_suffix("")) for path in found if ".ipynb_checkpoints" not in path.parts}
    apart = {*ALONE, *POOLS, *LESSON, TOGETHER, *ASKED_FOR, IN_X}
    assert names == {step.notebook for step in STEPS.values()} | apart


SLOW = pytest.param("explore/playground", marks=pytest.mark.slow)  # three quarters of a minute


@pytest.mark.parametrize("name", [*STEPS, *ALONE[:-1], SLOW])
def test_a_second_run_all_ends_like_the_first(name: str, running: Kernel, runs: Path) -> None:
    study, step = study_in(runs), STEPS.get(name)
    notebook = with_parameters(step.notebook, **step_params(step, study)) if step else of_study(name, study)
    running.start_afresh()
    first = running.run_all(notebook), results(runs)
    assert (running.run_all(notebook), results(runs)) == first


@pytest.mark.parametrize("name", LESSON)
def test_the_lesson_reads_the_run_that_ships_and_ones_own(name: str, running: Kernel, runs: Path) -> None:
    write_stage_params(study_in(runs))
    own = {"run": str(RunPaths(study_in(runs)).lang)}
    running.start_afresh()
    shown = [running.run_all(with_parameters(name, **given)) for given in ({}, own)]
    assert shown[0] != shown[1]
    assert all("Predict: " in "".join(cells) and "no prediction" in cells[-1] for cells in shown)


def of_study(name: str, study: Study) -> NotebookNode:
    """A notebook that is no step, with the study's values for the study's parameters."""
    declared = notebook_params(ROOT / "notebooks" / f"{name}.ipynb")
    given = {key: getattr(study, key) for key in declared} if "preset" in declared else {}
    return with_parameters(name, **given)
