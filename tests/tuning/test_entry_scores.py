"""Scores of entries that a study makes for its own merges: asked for by a search, read by its candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import pico_run

from lrnb.checkpoints.importance import FACTS
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.errors import UserError
from lrnb.merging.whole_models import merge_state
from lrnb.pipeline import estimate
from lrnb.pipeline.notebooks import QUIET, exec_notebook
from lrnb.pipeline.steps import plan, step_params
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.stages import RunPaths, read_manifest
from lrnb.tuning import on_dev
from lrnb.tuning.entry_scores import make_scores
from lrnb.tuning.on_dev import Dev

SEARCH = {"ties_sv": {"slack": [0.3], "reserve_by": ["margin", "fisher"]}}


def nano(**given: Any) -> Study:
    return load_study(ROOT / "params" / "qaa.yaml", "nano", given)


def test_the_step_is_there_only_where_a_search_asks_for_scores() -> None:
    assert "importance" not in plan(nano())
    study = nano(search=SEARCH)
    steps = plan(study)
    assert steps["importance"].needs == ("base", "sft")
    assert "importance" in steps["ties_sv"].needs and "importance" not in steps["ties"].needs
    model = 4 * estimate.parameters(study)
    small = estimate.disk_bytes(study, [steps["scores"]])
    assert estimate.disk_bytes(study, [steps["importance"]]) == small + model
    with pytest.raises(UserError, match="sft_mix is empty, and fisher take English rows"):
        plan(nano(search=SEARCH, sft_mix={}))
    with pytest.raises(UserError, match="reserve_by must be one of margin, magnitude"):
        plan(nano(search={"ties_sv": {"reserve_by": ["fischer"]}}))
    with pytest.raises(UserError, match="ties has no option 'trim_scope' to search"):
        plan(nano(search={"ties": {"trim_scope": ["tensor"]}}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    runs = tmp_path_factory.mktemp("scores") / "runs"
    given = {"search": SEARCH, "tuning_trials": 2, "densities": [0.5], "lams": [1.0], "importance_rows": 8}
    given |= {"sft_mix": {"world_topic": 20, "world_sums": 3}, "sft_max_len": 200, "keep": "scores"}
    return pico_run.pico_study(runs).model_copy(update=given)


@pytest.mark.slow
def test_its_notebook_runs(study: Study, tmp_path: Path) -> None:
    step = plan(study)["importance"]
    exec_notebook(step.source, step_params(step, study), tmp_path / "out.ipynb", QUIET)
    assert step.results[0].is_file()


def test_a_study_makes_the_scores_that_its_candidates_read(study: Study) -> None:
    paths = RunPaths(study)
    make_scores(study)
    facts = json.loads((paths.importance / "fisher" / FACTS).read_text(encoding="utf-8"))
    assert facts["rows"] == 4 + 3 and not (paths.importance / "gradient").exists()
    assert read_manifest(paths.importance)["facts"]["fisher"]["rows"] == 7
    by_rule: dict[float, str] = {}

    def likes_fisher(state: dict[str, np.ndarray]) -> Dev:
        by_rule[score := 50.0 + len(by_rule)] = str(len(by_rule))
        return Dev(score, 8, 25.0, ("world_topic",), 5.0)

    on_dev.choose_on_dev(study, "ties", likes_fisher)
    choices = on_dev.choose_on_dev(study, "ties_sv", likes_fisher)
    assert choices["reserve_by"].tolist() == ["margin", "fisher"] and choices["chosen"].tolist() == [
        False,
        True,
    ]
    assert read_manifest(paths.merge("ties_sv"))["inputs"].keys() >= {"../../importance"}
    options = {"density": 0.5, "lam": 1.0, "slack": 0.3, "reserve_by": "fisher"}
    scores = open_checkpoint(paths.importance / "fisher")
    own = merge_state(
        "ties_sv", paths.base, on_dev.parent_folders(paths, 2048), importance=dict(scores), **options
    )
    made = on_dev.chosen_merge(study, "ties_sv", 2048).state()
    margin = merge_state(
        "ties_sv", paths.base, on_dev.parent_folders(paths, 2048), **options | {"reserve_by": "margin"}
    )
    for name in own:
        np.testing.assert_array_equal(made[name], own[name])
    assert any((margin[name] != own[name]).any() for name in own)
    command = on_dev.merge_command(study, "ties_sv", 2048)
    assert f"--reserve-by fisher --importance {paths.importance / 'fisher'}" in command


def test_equal_scores_are_settled_by_the_numbers_of_a_grid() -> None:
    rows = pd.DataFrame({"reserve_by": ["margin", "fisher"] * 3, "slack": [0.1, 0.1, 0.3, 0.3, 0.5, 0.5]})
    found = on_dev.mark_chosen(rows.assign(dev_score=50.0), ["slack", "reserve_by"])
    assert found.index[found["chosen"]].tolist() == [2]  # the middle slack, and there the first rule
