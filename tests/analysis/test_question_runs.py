"""The merges of the open questions, made and scored for a run: what is stored, and that it goes on."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from support.pico_run import BUDGET, pico_study

from lrnb.analysis import pool, question_merges, question_runs
from lrnb.analysis.pool_lines import arm_name, right_of
from lrnb.analysis.question_merges import RIVALS, Asked, all_won_back, no_slack, selected
from lrnb.data.corpus import file_texts
from lrnb.errors import UserError
from lrnb.study.environment import instruction_set
from lrnb.study.files import MANIFEST, hashes, make_folder
from lrnb.study.parameters import Study
from lrnb.study.recipe import RECIPE, pool_file
from lrnb.study.stages import RunPaths

ASKED = [no_slack(0.5), all_won_back(0.5), selected(0.5, 0.3, "margin"), selected(0.5, 0.3, "fisher"),
         RIVALS[-1]]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A pico study whose parents say what they were made with, and a corpus stage with held-out text."""
    made = pico_study(tmp_path_factory.mktemp("runs"))
    mix = {"world_topic": 10, "world_sums": 10}
    study = made.model_copy(update={"sft_mix": mix, "test_limit": 12})
    paths = RunPaths(study)
    make_folder(paths.corpus)
    for name, lang in (("heldout_x", "qaa"), ("heldout_en", "en")):
        texts = islice(file_texts(paths.world / "corpus" / f"{lang}.jsonl.gz"), 2)
        (paths.corpus / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for folder in (paths.corpus, paths.base, paths.sft, paths.ct(), paths.ct(BUDGET)):
        facts = {"outputs": hashes(folder), "versions": {}, "recipe": RECIPE, "processor": "a made one"}
        (folder / MANIFEST).write_text(json.dumps(facts))
    return study


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    monkeypatch.setattr(
        question_runs, "in_order", lambda budgets: [(one, b) for one in ASKED for b in budgets]
    )
    return ASKED


def test_every_merge_is_stored_and_what_is_there_is_not_made_again(
    study: Study, few: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, isa = pool_file(tmp_path, study), instruction_set()
    made, answers = list[str](), question_runs.Bench.answers

    def broken_off(bench: question_runs.Bench, one: Asked, budget: int) -> dict:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(one.name)
        return answers(bench, one, budget)

    monkeypatch.setattr(question_runs.Bench, "answers", broken_off)
    with pytest.raises(KeyboardInterrupt):
        question_runs.add_answers(study, path, isa)
    monkeypatch.setattr(question_runs.Bench, "answers", answers)
    assert question_runs.add_answers(study, path, isa) == len(few) - len(made) == 3
    assert question_runs.add_answers(study, path, isa) == 0
    (line,) = pool.read_pool(path)
    names = [arm_name(one.name, BUDGET) for one in few]
    assert [*line["items"]] == [*line["bits"]] == [*line["counts"]] == names
    assert {len(x) for tasks in right_of(line).values() for x in tasks.values()} == {12}
    assert all(set(bits) == {"qaa", "en"} and min(bits.values()) > 0 for bits in line["bits"].values())
    none, everything, margin, fisher, stitched = (line["counts"][name] for name in names)
    assert none["reserved"] == 0 and everything["reserved"] == none["sft_discarded"] > 0
    assert margin["reserved"] == fisher["reserved"] == round(0.3 * none["sft_discarded"])
    assert 0 < margin["ceded_share"] < fisher["ceded_share"] < everything["ceded_share"]
    assert stitched == {}  # it elects nothing
    assert right_of(line)[few[0].name, BUDGET]["world_topic"].isin([0, 1]).all()


def test_answers_are_those_of_the_merge_on_disk(study: Study, few: list[Asked], tmp_path: Path) -> None:
    """Scored here from memory, there from a folder that `lrnb merge` writes."""
    from lrnb.merging import merge_checkpoints
    from lrnb.scoring import ScoredModel, score_models
    from lrnb.tasks import load_study_tasks

    path, paths = pool_file(tmp_path, study), RunPaths(study)
    question_runs.add_answers(study, path, instruction_set())
    parents = {"ct": paths.ct(BUDGET), "sft": paths.sft}
    merge_checkpoints("ties_sv", paths.base, parents, tmp_path / "made", density=0.5, slack=0.3)
    tasks, written = load_study_tasks(study, paths.data_root)
    own = {name: task for name, task in tasks.items() if name not in written}
    _, items = score_models({"made": ScoredModel(tmp_path / "made", "made", BUDGET)}, own)
    stored = right_of(pool.read_pool(path)[0])[selected(0.5, 0.3, "margin").name, BUDGET]
    for task, rows in items.groupby("task"):
        assert np.array_equal(rows.sort_values("item")["correct"].to_numpy(float), stored[task])


def test_other_parents_are_refused(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pool_file(tmp_path, study)
    monkeypatch.setattr(question_runs, "in_order", lambda _: [(ASKED[0], BUDGET)])
    question_runs.add_answers(study, path, instruction_set())
    (line,) = pool.read_pool(path)
    pool.write_pool(path, [line | {"parents": "others"}])
    monkeypatch.setattr(question_runs, "in_order", lambda _: [(ASKED[1], BUDGET)])
    with pytest.raises(UserError, match=r"seed 0 was merged from other parents.*--pool OTHER"):
        question_runs.add_answers(study, path, instruction_set())


def test_published_settings_stand_beside_the_finished_runs_own_models(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of a finished run, whose scores a pico study lacks, is made up; the merges are real."""
    path, isa, source = pool_file(tmp_path, study), instruction_set(), tmp_path / "questions.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(question_runs, "in_order", lambda _: [(no_slack(0.5), BUDGET)])
        question_runs.add_answers(study, source, isa)
    (line,) = pool.read_pool(source)
    tuned = {f"average@{BUDGET}": next(iter(line["items"].values()))}
    own = {name: line[name] for name in ("n", "seed", "isa", "processor", "recipe", "world", "versions")}
    run = own | {"parameters": line["parameters"], "search": {}, "items": tuned, "bits": {}}
    monkeypatch.setattr(pool, "run_line", lambda _: run)
    pool.write_pool(path, [run])
    averaged = study.model_copy(update={"methods": ["average", "ties"]})
    assert question_runs.add_answers(averaged, path, isa, published=True) == 3
    assert question_runs.add_answers(averaged, path, isa, published=True) == 0
    (found,) = pool.read_pool(path)
    assert set(found["items"]) == {
        f"{name}@{BUDGET}"
        for name in (
            "average",
            "average alpha=0.5",
            "ties density=0.2 lam=1.0",
            "ties density=0.5 lam=0.5 trim_scope=tensor",
        )
    }
    assert found["items"][f"average@{BUDGET}"] == tuned[f"average@{BUDGET}"]
    pool.write_pool(path, [found | {"items": found["items"] | {f"average@{BUDGET}": {}}}])
    with pytest.raises(UserError, match="give other answers here"):
        question_runs.add_answers(
            averaged.model_copy(update={"methods": ["widen"]}), path, isa, published=True
        )


def test_a_run_without_parents_says_what_to_run(study: Study, few: list[Asked], tmp_path: Path) -> None:
    other = study.model_copy(update={"runs": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"01_ct/02_ct"):
        question_runs.add_answers(other, pool_file(tmp_path, other), instruction_set())
    assert not pool_file(tmp_path, other).exists()


def test_names_are_apart_and_every_selector_is_asked() -> None:
    asked = question_merges.in_order([1, 2])
    assert len({(one.name, budget) for one, budget in asked}) == len(asked) == 2 * (2 * (2 + 3 * 6) + 8)
    assert asked[0] == (no_slack(0.5), 1)
    assert list(dict.fromkeys(b for _, b in question_merges.in_order([1, 2, 3, 4]))) == [1, 4, 2, 3]
    rules = {dict(one.options).get("reserve_by") for one, _ in asked} - {None}
    assert rules == {"margin", "magnitude", "random", "layer", "fisher", "gradient"}
    assert selected(0.2, 0.1, "layer").name == "ties_sv density=0.2 slack=0.1 reserve_by=layer"
