"""Written answers: what is right, what a text says, and that they are in no mean and no comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from support.made_run import WRITTEN, made_study, write_made_run

from lrnb import figures
from lrnb.analysis import comparisons, failures, results
from lrnb.errors import UserError
from lrnb.study.parameters import Study, load_study
from lrnb.study.stages import RunPaths
from lrnb.tasks import loading, task_file, written_answers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    folder = write_made_run(tmp_path_factory.mktemp("runs"), n=60)
    return RunPaths(made_study(folder.parents[1]))


@pytest.mark.parametrize(
    ("text", "answer", "rule", "expected"),
    [
        (" fishes ", "fishes", "text", True),
        ("Fishes\n", "fishes", "text", True),
        ("two  fishes", "two fishes", "text", True),
        ("e\u0301t\u00e9", "\u00e9te\u0301", "text", True),
        ("fishes and shells", "fishes", "text", False),
        ("", "fishes", "text", False),
        ("first 3 then ৭", "7", "last", True),
        ("first 3 then ৭", "7", "first", False),
    ],
)
def test_the_tasks_rule_says_what_is_right(text: str, answer: str, rule: str, expected: bool) -> None:
    assert written_answers.same(text, answer, rule) is expected


def test_right_answer_is_the_right_option_or_the_answer() -> None:
    assert written_answers.right({"options": ["a", "b"], "label": "b"}, "text", "file:1") == "b"
    row = {"options": ["shells", "fishes"], "answer": 1}
    assert written_answers.right(row, "text", "file:1") == "fishes"
    assert written_answers.right({"options": ["5", "৭"], "answer": 1}, "last", "file:1") == "7"
    assert written_answers.right({"answer": 1200}, "last", "file:1") == "1200"


@pytest.mark.parametrize("row", [{"answer": 3}, {"answer": " "}, {}, {"options": ["", "a"], "answer": 0}])
def test_a_text_is_needed_where_texts_are_compared(row: dict) -> None:
    with pytest.raises(UserError, match=r"file:1: 'answer' is .* needs a text that is not empty"):
        written_answers.right(row, "text", "file:1")


@pytest.mark.parametrize(
    "row",
    [
        {"options": ["a", "b"], "answer": 2},
        {"options": ["a", "b"]},
        {"options": "ab"},
        {"options": ["a", "b"], "answer": 1.0},
    ],
)
def test_a_wrong_index_names_the_row(row: dict) -> None:
    with pytest.raises(UserError, match="file:1"):
        written_answers.right(row, "text", "file:1")


def test_the_micro_worlds_written_task_asks_the_questions_of_the_choice(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "world_reading" / "qaa"
    folder.mkdir(parents=True)
    row = {"passage": "a b .", "question": "c ?", "options": ["d", "e"], "answer": 1}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    both = loading.load_tasks(["world_reading", "world_reading_written"], "qaa", tmp_path)
    choice, written = (task.eval_docs[0] for task in both.values())
    assert choice["prompt"] == written["prompt"]
    assert written["answer"] == "e"
    assert both["world_reading_written"].chance == 0
    assert task_file.spec("world_reading_written").metadata.number == "text"


def test_a_written_task_that_is_compared_counts_once() -> None:
    bn = ROOT / "params" / "bn.yaml"
    study = load_study(bn, "smol", {"tasks": ["topic", "math_generate"]}, None)
    assert study.compared[:2] == ["topic", "math_generate"]
    assert study.apart == ["math_generate_en"]
    assert load_study(bn, "paper", {}, None).apart == []


def test_a_choice_is_no_written_task_and_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "world_reading" / "qaa"
    folder.mkdir(parents=True)
    row = {"passage": "a b .", "question": "c ?", "options": ["d", "e"], "answer": 1}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    given = {"preset": "nano", "lang": "qaa", "tasks": ["world_reading"]}
    loaded, written = loading.load_study_tasks(
        Study(**given, tasks_written=["world_reading_written"]), tmp_path
    )
    assert list(loaded) == ["world_reading", "world_reading_written"]
    assert written == ["world_reading_written"]
    mine = tmp_path / "mine.yaml"
    text = (ROOT / "lrnb" / "tasks" / "files" / "world_reading.yaml").read_text()
    mine.write_text(text.replace("task: world_reading", "task: other"))
    with pytest.raises(UserError, match=r"tasks_written: 'other' has options to choose from"):
        loading.load_study_tasks(Study(**given, tasks_written=[str(mine)]), tmp_path)
    assert loading.load_study_tasks(Study(**given, tasks_language=[str(mine)]), tmp_path)[1] == ["other"]
    with pytest.raises(
        UserError, match=r"tasks_language: answers to 'world_reading_written' are written out"
    ):
        loading.load_study_tasks(Study(**given, tasks_language=["world_reading_written"]), tmp_path)
    mine.write_text(text)
    with pytest.raises(UserError, match="two tasks are called 'world_reading'"):
        loading.load_study_tasks(Study(**given, tasks_written=[str(mine)]), tmp_path)


@pytest.mark.parametrize(
    ("lang", "preset"), [("qaa", "nano"), ("qab", "nano"), ("bn", "smol"), ("te", "smol")]
)
def test_presets_have_written_answers_in_x_and_in_english(lang: str, preset: str) -> None:
    study = load_study(ROOT / "params" / f"{lang}.yaml", preset, {}, None)
    assert study.tasks_written
    assert {name.endswith("_en") for name in study.tasks_written} == {True, False}
    assert all(task_file.spec(name).kind == "generate_until" for name in study.tasks_written)


def test_written_tasks_are_in_no_mean_and_no_comparison(made: RunPaths) -> None:
    scores, items = results.gather(made)
    assert WRITTEN not in set(scores["task"]) | set(items["task"])
    assert WRITTEN not in set(comparisons.compare_methods(items, made.study)["task"])
    apart, rows = results.gather_written(made)
    assert set(apart["task"]) == set(rows["task"]) == {WRITTEN}
    assert len(apart) == scores["model"].nunique()


def test_measures_of_the_language_are_in_no_mean_and_apart_from_what_is_written(tmp_path: Path) -> None:
    paths = RunPaths(made_study(write_made_run(tmp_path, n=8).parents[1]))
    before, _ = results.gather(paths)
    for group in ("parents", "merged"):
        folder = paths.scored(group)
        tables = [
            (folder / "scores.csv", folder / "written.csv"),
            (folder / "items.parquet", folder / "written.parquet"),
        ]
        scores, items = (
            results.joined([pd.read_csv(p) if p.suffix == ".csv" else pd.read_parquet(p) for p in pair])
            for pair in tables
        )
        results.write_group(folder, scores, items, [WRITTEN, "reading"])
    after, _ = results.gather(paths)
    assert set(before["task"]) - set(after["task"]) == {"reading", "mean"}  # a mean needs two
    language, rows = results.gather_language(paths)
    assert set(language["task"]) == set(rows["task"]) == {"reading"}
    assert len(language) == before["model"].nunique()
    assert set(results.gather_written(paths)[0]["task"]) == {WRITTEN}


def test_scores_of_an_earlier_version_say_so(tmp_path: Path) -> None:
    paths = RunPaths(made_study(write_made_run(tmp_path, n=8).parents[1]))
    (paths.scored("merged") / "written.parquet").unlink()
    with pytest.raises(UserError, match=r"merged/written\.parquet is not there.*Score again.*04_evaluate"):
        results.gather_written(paths)


def test_a_study_without_written_tasks_has_empty_tables(tmp_path: Path) -> None:
    paths = RunPaths(made_study(write_made_run(tmp_path, n=8).parents[1]))
    scores, items = results.gather(paths)
    for group in ("parents", "merged"):
        results.write_group(paths.scored(group), scores, items, [])
    apart, rows = results.gather_written(paths)
    assert (len(apart), len(rows)) == (0, 0)
    assert len(failures.unparsable(results.joined([items, rows]))) == 0
    assert results.joined([scores, apart]).dtypes.equals(scores.dtypes)


def test_languages_stand_side_by_side_each_kind_of_model_at_its_largest_budget(tmp_path: Path) -> None:
    for lang, share in (("bo", 80.0), ("bn", 5.0)):
        table = pd.DataFrame({
            "model": ["base", "ties@1k", "ties@9k", "ties@9k"], "method": ["base", "ties", "ties", "ties"],
            "ct_tokens": [0, 1000, 9000, 9000], "task": ["math", "math", "math", "math_en"], "n": 20,
            "replaced": [share, 1.0, share, 0.0], "ci_low": 0.0, "ci_high": 100.0, "unparsed": 0.0,
        })  # fmt: skip
        (tmp_path / lang / "failures").mkdir(parents=True)
        table.to_csv(tmp_path / lang / "failures" / "unparsable.csv", index=False)
        (tmp_path / lang / "failures" / "manifest.json").write_text("{}")
    broken = tmp_path / "ug" / "failures"  # of a stage that did not end
    broken.mkdir(parents=True)
    table.to_csv(broken / "unparsable.csv", index=False)
    found = failures.across_languages(tmp_path, "unparsable")
    assert found[["lang", "model"]].to_numpy().tolist() == [
        ["bn", "base"], ["bn", "ties@9k"], ["bo", "base"], ["bo", "ties@9k"],
    ]  # fmt: skip
    fig = figures.shares_across_languages(found, "replaced", "broken bytes", "answers (%)")
    shown = {
        trace.name: dict(zip([place[:2] for place in trace.customdata], trace.x, strict=True))
        for trace in fig.data
    }
    assert shown == {"base": {"bn": 5.0, "bo": 80.0}, "TIES": {"bn": 5.0, "bo": 80.0}}
    assert [round(y) for trace in fig.data for y in trace.y] == [0, 1] * 2
    assert [text[:2] for text in fig.layout.yaxis.ticktext] == ["bn", "bo"]


def test_no_written_answers_anywhere_is_said(tmp_path: Path) -> None:
    fig = figures.shares_across_languages(
        failures.across_languages(tmp_path, "scripts"), "wrong", "wrong script", "answers (%)"
    )
    assert "no language here has written answers" in fig.layout.annotations[0].text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks_written": ["world_topic"]}, "tasks_written: 'world_topic' has options to choose from"),
        (
            {"tasks_language": ["world_reading_written"]},
            "tasks_language: answers to 'world_reading_written' are",
        ),
        ({"tasks_language": ["multiblimp"]}, "'multiblimp' is a group of the harness"),
        ({"test_limits": {"topc": 3}}, "did you mean 'topic'"),
        ({"sft_mix": {"world_topik": 3}}, "did you mean 'world_topic'"),
    ],
)
def test_names_are_looked_at_before_any_row(given: dict, message: str) -> None:
    given = {"tasks": ["world_sums"], "tasks_written": [], **given}
    with pytest.raises(UserError, match=message):
        loading.require_names(load_study(ROOT / "params" / "qaa.yaml", "nano", given))
