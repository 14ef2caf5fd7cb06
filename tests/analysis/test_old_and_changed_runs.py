"""Runs that are not of today: made by version 0.1.0, or from inputs that have changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import made_run
from support.made_run import write_made_run

from lrnb.analysis import atlases, failures, results
from lrnb.conflicts import atlas
from lrnb.errors import UserError
from lrnb.pipeline import freshness
from lrnb.pipeline import steps as plan
from lrnb.report import page
from lrnb.study import stages
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import load_study
from lrnb.study.stages import RunPaths

OLD = Path(made_run.__file__).parent / "run_of_0_1_0"  # parameters, a manifest and an atlas's facts


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The run folder of 0.1.0 where a user has it."""
    return Path(shutil.copytree(OLD, tmp_path / "runs")) / "nano" / "qaa"


def change(folder: Path, source: str) -> None:
    """The stage in `folder` was made from another `source` than is there now."""
    made = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(made | {"inputs": {source: "of then"}}), encoding="utf-8")


def test_parameters_of_0_1_0_are_read_and_every_step_is_to_run(old: Path) -> None:
    study = plan.read_study(old / "params.yaml")
    again = load_study(old / "params.yaml", "nano", {"runs": str(old.parents[1])})
    new = {"tuning_trials": 3, "search": {"ties": {"lam": [1.0]}}}  # which 0.1.0 did not have: the preset's
    assert again == study.model_copy(update={"runs": str(old.parents[1])} | new)
    assert RunPaths(again).lang == old and study.methods == ["average", "task_arithmetic", "ties", "ties_sv"]
    steps = plan.plan(again)
    assert [*freshness.outdated(again, steps)] == [*steps]


def test_results_of_0_1_0_are_refused_with_the_command_that_makes_them(old: Path) -> None:
    command = rf"lrnb run {old}/params.yaml --preset nano --set runs={old.parents[1]}$"
    with pytest.raises(UserError, match=rf"parents is missing. Run notebooks/02_merge/04_.*{command}"):
        results.gather(RunPaths(page.study_of(old)))
    assert stages.read_manifest(old / "conflicts")["versions"]["lrnb"] == "0.1.0"
    with pytest.raises(UserError, match=r"an atlas of format 2, this is 3\. Make it with .*02_discarded"):
        atlas.load(old / "conflicts" / "2k")


def test_nothing_is_read_whose_inputs_have_changed_since(tmp_path: Path) -> None:
    """Atlases, the scores of both groups, the items that failures are found in: the stage and its input."""
    home = write_made_run(tmp_path / "runs", n=12)
    study = page.study_of(home)
    paths = RunPaths(study)
    for folder, source, read in (
        (paths.conflicts, "ct", lambda: atlases.study_atlases(study)),
        (paths.scored("merged"), "ct", lambda: results.gather(paths)),
        (paths.scores, "conflicts", lambda: failures.read_items(paths)),
    ):
        before = (folder / MANIFEST).read_bytes()
        change(folder, "../" * len(folder.relative_to(home).parts) + source)
        with pytest.raises(
            UserError, match=f"{folder} was made from {home}/{source}, which has changed since"
        ):
            read()
        (folder / MANIFEST).write_bytes(before)
