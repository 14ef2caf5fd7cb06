"""Candidates that Optuna proposes: where the grid is larger than the budget, the same wherever it stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import pico_run

from lrnb.errors import UserError
from lrnb.pipeline import steps
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.tuning import by_tpe, search
from lrnb.tuning.on_dev import Dev, choose_on_dev

LISTS = {"lams": [0.0, 0.5, 1.0], "densities": [0.1, 0.5, 0.9]}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    pytest.importorskip("optuna")
    given = {"search_by": "tpe", "tuning_trials": 8, **LISTS, "keep": "scores"}
    return pico_run.pico_study(tmp_path_factory.mktemp("tpe") / "runs").model_copy(update=given)


class Ideal:
    """Scores merges by how little they moved from the base's first matrix; stops after some."""

    def __init__(self, study: Study, most: int = 99) -> None:
        self.made, self.most = 0, most
        self.name = "model.layers.0.mlp.up_proj.weight"
        from lrnb.checkpoints.reading import open_checkpoint

        self.base = np.asarray(open_checkpoint(RunPaths(study).base)[self.name])

    def __call__(self, state: Mapping[str, np.ndarray]) -> Dev:
        if self.made == self.most:
            raise KeyboardInterrupt
        self.made += 1
        return Dev(
            100 - 1e3 * float(abs(state[self.name] - self.base).mean()), 8, 25.0, ("world_topic",), 5.0
        )


def test_a_search_that_was_stopped_goes_on_with_the_same_candidates(study: Study, tmp_path: Path) -> None:
    whole = Ideal(study)
    wanted = choose_on_dev(study, "ties", whole)
    assert whole.made == len(wanted) == 8 and set(wanted["grid"]) == {9}
    assert wanted["default"].tolist() == [True] + [False] * 7  # density 0.5, lam 1
    assert wanted["density"].between(0.1, 0.9).all() and wanted["lam"].nunique() > 3
    (RunPaths(study).lang / ".tpe" / "ties.jsonl").unlink()
    stopped = Ideal(study, most=5)
    with pytest.raises(KeyboardInterrupt):
        choose_on_dev(study, "ties", stopped)
    again = Ideal(study)
    found = choose_on_dev(study, "ties", again)
    assert again.made == 3
    pd.testing.assert_frame_equal(found, wanted)
    kept = Ideal(study)
    choose_on_dev(study.model_copy(update={"dev_limit": 2}), "ties", kept)  # other items
    assert kept.made == 8


def test_it_finds_better_ones_than_it_began_with(study: Study) -> None:
    many = study.model_copy(update={"tuning_trials": 20, "densities": [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9]})
    found = choose_on_dev(many, "ties", Ideal(study))
    assert found["dev_score"][7:].mean() > found["dev_score"][:6].mean()


def test_a_small_grid_is_tried_whole_and_words_are_chosen_among(study: Study) -> None:
    assert not by_tpe.proposes(study, "average")
    assert not by_tpe.proposes(study.model_copy(update={"search_by": "grid"}), "ties")
    given: dict[str, Any] = {"ties_sv": {"reserve_by": ["margin", "magnitude", "random"]}}
    words = study.model_copy(update={"search": given, "tuning_trials": 4})
    tried = list(by_tpe.try_candidates(words, "ties_sv", dict, lambda options: Dev(1.0, 1, 1.0, ()), Dev))
    assert len(tried) == 4 and tried[0][0] == {"slack": 0.3, "reserve_by": "margin"}
    assert {options["reserve_by"] for options, _ in tried} <= {"margin", "magnitude", "random"}
    assert search.grid_size(words, "ties_sv") == 9


def test_without_the_package_it_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_tpe, "find_spec", lambda name: None)
    asked = Study(search_by="tpe", tuning_trials=3, search={"ties": {"lam": [0.5, 1.0]}})
    with pytest.raises(UserError, match=f"search_by tpe, for ties, needs a package: {sys.executable} -m pip"):
        steps.plan(asked)
    assert "ties" in steps.plan(asked.model_copy(update={"search_by": "grid"}))
