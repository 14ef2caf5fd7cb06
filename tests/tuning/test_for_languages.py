"""The CT of two languages and one SFT in one model: chosen, merged, scored on pico models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from support import pico_run

from lrnb.analysis import results, together
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.errors import UserError
from lrnb.merging.whole_models import merge_state
from lrnb.pipeline import graph
from lrnb.pipeline.notebooks import QUIET, exec_notebook
from lrnb.pipeline.steps import plan, step_params
from lrnb.study.files import MANIFEST, write_text
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.stages import RunPaths, Stage, read_manifest
from lrnb.tuning import for_languages as joint
from lrnb.tuning.on_dev import Dev, choose_on_dev
from lrnb.tuning.search import for_languages, methods_together

METHODS = ["average", "ties", "ties_sv", "slerp"]
GIVEN = {"merge_languages": [["qaa", "qab"]], "methods": METHODS, "alphas": [0.4], "lams": [0.5]}
GIVEN |= {"densities": [0.5], "slacks": [0.3], "tuning_trials": 1, "dev_limit": 4, "test_limit": 6}


def fixed_dev(state: object) -> Dev:
    return Dev(50.0, 8, 25.0, ("world_topic",), 5.0)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Two languages whose own merges are chosen and scored, and their merges in one model."""
    runs = tmp_path_factory.mktemp("together") / "runs"
    made = [one.model_copy(update=GIVEN) for one in pico_run.pico_studies(runs, "qaa", "qab")]
    for study in made:
        write_text(RunPaths(study).lang / "params.yaml", yaml.safe_dump(study.model_dump()))
        for method in ("average", "ties", "ties_sv"):
            choose_on_dev(study, method, fixed_dev)
        _score_own(study)
    for method in methods_together(made[1], ["qaa", "qab"]):
        joint.choose_for_languages(made[1], method, fixed_dev)
    return made


def _score_own(study: Study) -> None:
    from lrnb.scoring.evaluate import ScoredModel, score_models

    paths = RunPaths(study)
    models = {f"{m}@2k": ScoredModel(paths.merge(m, 2048), m, 2048) for m in ("average", "ties", "ties_sv")}
    with Stage(paths.scored("merged"), "eval_merged", {}) as stage:
        scores, items = score_models(models, together._compared(study), lang=study.lang)
        results.write_group(stage.draft, scores, items, [])


def test_the_merge_is_of_all_ct_and_sft_with_ct_s_share_split(studies: list[Study]) -> None:
    first, second = (RunPaths(study) for study in studies)
    parents = {"qaa": first.ct(2048), "qab": second.ct(2048), "sft": first.sft}
    home = second.together(["qaa", "qab"])
    assert home.name == "qaa+qab"
    ways = {
        "average": {"weights": {"qaa": 0.2, "qab": 0.2, "sft": 0.6}},
        "ties_sv": {"density": 0.5, "lam": 0.5, "slack": 0.3, "protect": "sft", "trim_scope": "model"},
    }
    for method, options in ways.items():
        expected = merge_state(method, second.base, parents, **options)
        found = open_checkpoint(home / "merge" / method / "2k")
        for name in found:
            np.testing.assert_array_equal(np.asarray(found[name]), expected[name])
    choices = pd.read_csv(home / "merge" / "ties_sv" / "choices.csv")
    assert choices["lang"].tolist() == ["qaa+qab"] and choices["density"].tolist() == [0.5]


def test_it_is_scored_in_every_language_against_its_own_merge(studies: list[Study]) -> None:
    leads = together.score_together(studies[1])
    assert set(leads["lang"]) == {"qaa", "qab"} and set(leads["baseline"]) == {"alone"}
    assert set(leads["method"]) == {"average", "ties", "ties_sv"}
    mean = leads[leads["task"] == "mean"]
    assert len(mean) == 2 * 3 and (mean["p_holm"] >= mean["p"]).all()
    np.testing.assert_allclose(leads["score"] - leads["score_alone"], leads["difference"], atol=1e-9)
    home = RunPaths(studies[1]).together(["qaa", "qab"])
    items = pd.read_parquet(home / "scores" / "items.parquet")
    own = items[(items["lang"] == "qab") & (items["method"] == "ties") & (items["task"] == "world_sums")]
    row = leads[(leads["lang"] == "qab") & (leads["method"] == "ties") & (leads["task"] == "world_sums")]
    assert row["score"].iloc[0] == pytest.approx(100 * own["correct"].mean())
    assert len(together.read_together(RunPaths(studies[1]).root)) == len(leads)
    assert together.read_together(home).empty


def test_its_notebook_runs_and_ends_with_the_same_results(studies: list[Study], tmp_path: Path) -> None:
    study = studies[1].model_copy(update={"methods": ["average", "ties"]})
    step = plan(study)["merge_qaa+qab"]
    before = {path: read_manifest(path.parent)["outputs"] for path in step.results if "merge" in path.parts}
    out = exec_notebook(step.source, step_params(step, study), tmp_path / "out.ipynb", QUIET)
    assert "one set" not in out.read_text(encoding="utf-8")
    assert all(path.is_file() for path in step.results)
    leads = pd.read_csv(step.results[-1].parent / "leads.csv")
    assert set(leads["method"]) == {"average", "ties"} and set(leads["lang"]) == {"qaa", "qab"}
    after = {path: read_manifest(path.parent)["outputs"] for path in before}
    weights = [name for name in next(iter(before.values())) if name.endswith(".safetensors")]
    assert weights and all(before[p][name] == after[p][name] for p in before for name in weights)


def test_options_are_shared_out_among_the_languages() -> None:
    assert for_languages({"alpha": 0.5, "lam": 1.0}, ["mn", "ug"]) == {
        "lam": 1.0, "weights": {"mn": 0.25, "ug": 0.25, "sft": 0.5}
    }  # fmt: skip
    assert for_languages({"density": 0.2}, ["mn", "ug"]) == {"density": 0.2}


def test_methods_of_two_models_are_left_out() -> None:
    study = Study(methods=["slerp", "ties"])
    assert methods_together(study, ["qaa", "qab"]) == ["ties"]
    with pytest.raises(UserError, match="none of slerp merges 3 models; add ties"):
        methods_together(Study(methods=["slerp"]), ["qaa", "qab"])


def test_the_step_waits_for_every_language_and_belongs_to_the_last() -> None:
    given = {"merge_languages": [["qaa", "qab"]]}
    both = [load_study(ROOT / "params" / f"{lang}.yaml", "nano", given) for lang in ("qab", "qaa")]
    nodes = graph.graph(both)
    node = nodes["qaa+qab/merge_qaa+qab"]
    assert {"qaa/ct", "qab/ct", "qaa/eval_merged", "qab/eval_merged", "shared/sft"} <= set(node.needs)
    assert [*nodes][-1] == node.name and node.study.lang == "qab"
    assert node.step.results[-1] == RunPaths(both[0]).root / "qaa+qab" / "scores" / MANIFEST
    assert "merge_qaa+qab" not in plan(both[1])
    with pytest.raises(
        UserError, match=r"merge_languages: qab of .* is none of the languages of this command"
    ):
        graph.graph(both[1:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"merge_languages": [["qaa"]]}, r"merge_languages: \['qaa'\]; give codes of two languages or more"),
        ({"merge_languages": [["qaa", "qaa"]]}, "each once"),
        ({"merge_languages": [["qaa", "../x"]]}, "give codes of two languages"),
        (
            {"merge_languages": [["qaa", "qab"]], "extend_vocabulary": 50},
            "tokens of its own, which no one model",
        ),
    ],
)
def test_sets_that_cannot_be_merged_are_refused(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study(ROOT / "params" / "qaa.yaml", "nano", given)


def test_a_notebook_says_which_languages_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"merge_languages is \[\]; here it is one set"):
        joint.languages_together(Study())
    study = Study(runs=str(tmp_path), merge_languages=[["qaa", "qab"]])
    with pytest.raises(UserError, match="qaa/params.yaml is missing: qaa was not run here"):
        joint.studies_together(study)
