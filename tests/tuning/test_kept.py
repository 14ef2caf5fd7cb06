"""What `keep` leaves on disk, and that a merge in memory is the one that would have been written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support import pico_run

from lrnb.analysis import results, together
from lrnb.errors import UserError
from lrnb.scoring.evaluate import ScoredModel, score_models, text_bits
from lrnb.scoring.unwritten import Unwritten
from lrnb.study.files import write_text
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths, Stage
from lrnb.tasks.loading import load_study_tasks
from lrnb.tuning.for_languages import choose_for_languages
from lrnb.tuning.kept import NOTE
from lrnb.tuning.on_dev import Dev, choose_on_dev

METHODS = ["average", "ties", "ties_sv", "slerp"]
GIVEN = {"methods": METHODS, "test_limit": 6, "tuning_trials": 1, "merge_languages": [["qaa", "qab"]]}
TEXT = {"qaa": ["ა ბ გ", "დ"]}


def fixed_dev(state: object) -> Dev:
    return Dev(50.0, 8, 25.0, ("world_topic",), 5.0)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    runs = tmp_path_factory.mktemp("kept") / "runs"
    return [one.model_copy(update=GIVEN) for one in pico_run.pico_studies(runs, "qaa", "qab")]


def scored(study: Study, keep: str) -> tuple[list[dict[str, Any]], pd.DataFrame, pd.DataFrame]:
    """The models of the study under `keep`, what they have right, and bits per byte."""
    paths, kept = RunPaths(study), study.model_copy(update={"keep": keep})
    for method in METHODS:
        choose_on_dev(kept, method, fixed_dev)
    models = results.study_models(paths, "merged")
    tasks, _ = load_study_tasks(study, paths.data_root)
    given = {m["model"]: ScoredModel(m["made"], m["method"], m["ct_tokens"]) for m in models}
    _, items = score_models(given, tasks, lang=study.lang, cache=paths.root / ".scores")
    return models, items, text_bits(given, TEXT, cache=paths.root / ".scores")


def test_a_merge_in_memory_answers_and_predicts_as_the_written_one(studies: list[Study]) -> None:
    models, items, bits = scored(studies[0], "all")
    assert all(isinstance(m["made"], Path) and (m["made"] / "model.safetensors").is_file() for m in models)
    made, in_memory, same_bits = scored(studies[0], "scores")
    assert all(isinstance(m["made"], Unwritten) and m["made"]._made is None for m in made)
    assert not any((m["folder"] / "2k").exists() for m in made)
    pd.testing.assert_frame_equal(in_memory, items)
    pd.testing.assert_frame_equal(same_bits, bits)
    assert items.groupby("model")["loglikelihoods"].apply(str).nunique() == len(METHODS)
    _, again, _ = scored(studies[0], "scores")  # from the cache
    pd.testing.assert_frame_equal(again, items)


def test_by_default_the_papers_four_stay_and_the_rest_are_notes(studies: list[Study]) -> None:
    models, _, _ = scored(studies[0], "chosen")
    written = {m["method"] for m in models if isinstance(m["made"], Path)}
    assert written == {"average", "ties", "ties_sv"}
    note = json.loads((RunPaths(studies[0]).merge("slerp") / NOTE).read_text(encoding="utf-8"))
    assert note.keys() == {"2k"} and note["2k"]["models"].keys() == {"base", "ct", "sft"}
    other = studies[0].model_copy(update={"ct_budgets": [4096]})
    with pytest.raises(UserError, match="slerp: no merge of 4,096 CT tokens"):
        results._merged(RunPaths(other), "slerp", 4096)


def test_merges_of_several_languages_are_scored_the_same(studies: list[Study]) -> None:
    found = {}
    for keep in ("all", "scores"):
        made = [one.model_copy(update={"keep": keep, "methods": ["average", "ties"]}) for one in studies]
        for study in made:
            write_text(RunPaths(study).lang / "params.yaml", yaml.safe_dump(study.model_dump()))
            for method in study.methods:
                choose_on_dev(study, method, fixed_dev)
            score_own(study)
        for method in made[1].methods:
            choose_for_languages(made[1], method, fixed_dev)
        found[keep] = together.score_together(made[1])
    pd.testing.assert_frame_equal(found["all"], found["scores"])
    assert not list(RunPaths(studies[1]).together(["qaa", "qab"]).glob("merge/*/2k"))


def score_own(study: Study) -> None:
    paths = RunPaths(study)
    models = results.study_models(paths, "merged")
    given = {m["model"]: ScoredModel(m["made"], m["method"], m["ct_tokens"]) for m in models}
    inputs = dict.fromkeys(m["folder"] for m in models)
    with Stage(paths.scored("merged"), "eval_merged", {}, inputs) as stage:
        scores, items = score_models(given, together._compared(study), lang=study.lang)
        results.write_group(stage.draft, scores, items, [])


def test_a_stage_leaves_its_resume_points_where_it_is_told_to(tmp_path: Path) -> None:
    for leaves in (True, False):
        folder = tmp_path / str(leaves)
        with Stage(folder, "ct", {}, resumes=True, leaves_work=leaves) as stage:
            write_text(stage.draft / "work" / "point", "moments")
            write_text(stage.draft / "weights", "w")
        assert (folder / "work" / "point").is_file() == leaves
        assert "work/point" not in (folder / "manifest.json").read_text(encoding="utf-8")
