"""Sets of languages in one merge: which there are, what is foretold, what they keep, on pico models."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.pico_run import BUDGET, pico_studies

from lrnb.analysis import language_sets, sets_kept
from lrnb.analysis.language_sets import ONE_STEP, TWO_STEPS, Joint
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.errors import UserError
from lrnb.figures.language_sets import kept_by_overlap, kept_by_size
from lrnb.merging.whole_models import merge_state
from lrnb.pipeline import graph
from lrnb.pipeline.notebooks import QUIET, exec_notebook
from lrnb.pipeline.steps import plan, step_params
from lrnb.study.languages import common_family
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.stages import RunPaths, Stage
from lrnb.tuning.for_languages import parents_together, studies_together

LANGS = ("qaa", "qab", "qac")
GIVEN = {"merge_languages": [[*LANGS]], "set_languages": [*LANGS], "methods": ["average", "ties"]}
GIVEN |= {"tasks_en": ["world_topic"], "test_limit": 8}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The last of three pico languages, all as their stages leave them."""
    return pico_studies(tmp_path_factory.mktemp("sets"), *LANGS)[-1].model_copy(update=GIVEN)


def test_all_pairs_and_a_sample_of_larger_sets() -> None:
    langs = [*"abcdefg"]
    found = language_sets.sets_of(langs, 4, seed=1)
    sizes = pd.Series([len(one) for one in found]).value_counts().to_dict()
    assert sizes == {1: 7, 2: 21, 3: 4, 4: 4, 5: 4, 6: 4, 7: 1}
    assert found == language_sets.sets_of(langs, 4, seed=1) != language_sets.sets_of(langs, 4, seed=2)
    assert len(set(found)) == len(found) and {*combinations(langs, 2)} <= {*found}


def test_steps_are_merges_of_their_parents(study: Study) -> None:
    parents = parents_together(studies_together(study), BUDGET)
    base, two = RunPaths(study).base, {lang: parents[lang] for lang in LANGS[:2]}
    one = language_sets.joint_state(study, Joint(LANGS[:2], "ties", ONE_STEP), parents)
    same = merge_state("ties", base, two | {"sft": parents["sft"]}, density=0.5)
    assert all(np.array_equal(one[name], same[name]) for name in same)
    first = merge_state("ties", base, two, density=0.5)
    second = merge_state("ties", base, {"ct": first, "sft": parents["sft"]}, density=0.5)
    stepped = language_sets.joint_state(study, Joint(LANGS[:2], "ties", TWO_STEPS), parents)
    assert all(np.array_equal(stepped[name], second[name]) for name in second)
    assert any(not np.array_equal(stepped[name], one[name]) for name in one)
    alone = language_sets.joint_state(study, Joint(LANGS[:1], "average", ONE_STEP), parents)
    plain = merge_state("average", base, {"ct": parents["qaa"], "sft": parents["sft"]}, alpha=0.5)
    assert all(np.allclose(alone[name], plain[name]) for name in plain)


def test_what_is_foretold_is_of_the_task_vectors(study: Study) -> None:
    found = language_sets.foretell(study, BUDGET)
    assert found[["one", "other"]].to_numpy().tolist() == [[*pair] for pair in combinations(LANGS, 2)]
    parents = parents_together(studies_together(study), BUDGET)
    base = open_checkpoint(RunPaths(study).base)
    a, b = ([np.asarray(m[n], float) - np.asarray(base[n]) for n in base] for m in
            (open_checkpoint(parents[lang]) for lang in LANGS[:2]))  # fmt: skip
    x, y = (np.concatenate([part.ravel() for part in parts]) for parts in (a, b))
    assert found["cosine"][0] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-5)
    assert found["conflict_share"].between(0.4, 0.6).all()  # random task vectors
    means = language_sets.set_predictors(LANGS, found)
    assert means["cosine"] == pytest.approx(found["cosine"].mean())


def made_answers(kept: dict[tuple[str, ...], float], n: int = 2000) -> sets_kept.Answers:
    """Every language's own merge right half of the time; sets so much more often."""
    rng, found = np.random.default_rng(0), {}
    langs = sorted({lang for key in kept for lang in key})
    drawn = {lang: rng.random(n) for lang in [*langs, "en"]}
    for key in [*((lang,) for lang in langs), *kept]:
        level = 0.5 + kept.get(key, 0.0)
        found["+".join(key), "ties", ONE_STEP] = {
            lang: {"topic": pd.Series((drawn[lang] < level).astype(float))} for lang in (*key, "en")
        }
    return found


def test_what_sets_keep_and_whether_it_was_foretold() -> None:
    langs = ["ta", "te", "bn", "or", "mn"]
    pairs = [*combinations(langs, 2)]
    cosine = {pair: place / 10 for place, pair in enumerate(pairs)}
    rows = [{"one": a, "other": b, "cosine": x} for (a, b), x in cosine.items()]
    table = pd.DataFrame(rows).assign(conflict_share=0.5)
    kept = sets_kept.kept_by_sets([made_answers({pair: x / 5 - 0.1 for pair, x in cosine.items()})], table)
    assert len(kept) == 2 * len(pairs) and set(kept["asked"]) == {"x", "en"}
    first = kept[(kept["languages"] == "ta+te") & (kept["asked"] == "x")].iloc[0]
    assert first["kept"] == pytest.approx(-10, abs=2) and first["p_holm"] < 0.05
    assert first["family"] == "Dravidian" and kept["family"].iloc[2] == ""
    relation = sets_kept.relation_of_pairs(kept).set_index(["asked", "predictor"])
    assert relation.loc[("x", "cosine"), "r"] > 0.95 and relation.loc[("x", "cosine"), "p"] < 0.05
    assert relation.loc[("x", "conflict_share"), "r"] == 0 and relation.loc[("x", "conflict_share"), "p"] == 1
    said = sets_kept.findings_of_sets(kept, relation.reset_index())
    assert "2 languages" in said[0] and "go together with r = " in said[-1]
    assert len(kept_by_size(kept).data) >= 3 and len(kept_by_overlap(kept, "cosine").data) == 1
    assert common_family(["ug", "kk"]) == "Turkic" and common_family(["ug", "mn"]) == ""


def test_its_step_is_the_last_language_s_and_waits_for_all(study: Study) -> None:
    given = {"set_languages": [*LANGS], "world_languages": 3}
    studies = [load_study(ROOT / "params" / f"{lang}.yaml", "nano", given) for lang in LANGS]
    nodes = graph.graph(studies)
    node = nodes["sets/sets"]
    assert {"qaa/ct", "qab/ct", "qac/ct", "shared/sft"} <= set(node.needs)
    assert node.study.lang == "qac" and "sets" not in plan(studies[0])
    with pytest.raises(UserError, match="set_languages: qac of .* is none of the languages of this command"):
        graph.graph(studies[:2])
    with pytest.raises(UserError, match="give codes of three languages or more, each once"):
        load_study(ROOT / "params" / "qaa.yaml", "nano", {"set_languages": ["qaa", "qab"]})


def test_sets_are_scored(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [Joint((lang,), "ties", ONE_STEP) for lang in LANGS[:2]] + [Joint(LANGS[:2], "ties", TWO_STEPS)]
    monkeypatch.setattr(language_sets, "joint_merges", lambda _: few)
    with Stage(tmp_path / "kept", "sets", {}, resumes=True) as stage:
        language_sets.measure_sets(study, stage, BUDGET)
    answers, foretold = sets_kept.read_sets(tmp_path / "kept")
    assert set(answers["qaa+qab", "ties", TWO_STEPS]) == {"qaa", "qab", "en"}
    kept = sets_kept.kept_by_sets([answers], foretold)
    both = answers["qaa+qab", "ties", TWO_STEPS]
    own = [answers[lang, "ties", ONE_STEP][lang] for lang in LANGS[:2]]
    pairs = [(both[lang][t], x[t]) for lang, x in zip(LANGS[:2], own, strict=True) for t in x]
    by_hand = [100 * (a.mean() - b.mean()) for a, b in pairs]
    assert kept["kept"][0] == pytest.approx(np.mean(by_hand))


@pytest.mark.slow
def test_the_notebook_measures_all_sets(study: Study, tmp_path: Path) -> None:
    step = plan(study)["sets"]
    exec_notebook(step.source, step_params(step, study), tmp_path / "out.ipynb", QUIET)
    kept = pd.read_csv(RunPaths(study).sets / "sets.csv")
    assert set(kept["size"]) == {2, 3} and set(kept["way"]) == {ONE_STEP, TWO_STEPS}
