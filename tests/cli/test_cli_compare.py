"""`lrnb compare`: on real output of lm-evaluation-harness, on runs, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.harness_runs import DOCUMENTS, run_the_harness, write_harness_tasks
from support.made_run import write_made_run
from support.pico import save_pico

from lrnb import statistics
from lrnb.cli import main


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """Two models scored by lm-evaluation-harness: the folder of org__a and org__b, and its own results."""
    folder = tmp_path_factory.mktemp("harness")
    tasks, results = write_harness_tasks(folder / "tasks"), {}
    for seed, name in enumerate("ab"):
        results[name] = run_the_harness(save_pico(folder / name, seed=seed), tasks, folder / f"out-{name}")
        (made,) = (folder / f"out-{name}").iterdir()
        made.rename(folder / f"org__{name}")
    return folder, results


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("runs"), n=40)


def compare(*given: object) -> int:
    return main.main(["compare", *map(str, given)])


def told(capsys: pytest.CaptureFixture, *given: object) -> dict:
    assert compare(*given, "--json") == 0
    return json.loads(capsys.readouterr().out)


def samples(folder: Path, task: str) -> list[dict]:
    (path,) = folder.glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_are_those_that_the_harness_reports(harness: tuple, capsys: pytest.CaptureFixture) -> None:
    folder, results = harness
    found = told(capsys, folder / "org__a", folder / "org__b", "--metric", "pico_choice=acc")
    rows = {row["task"]: row for row in found["differences"]}
    assert list(rows) == ["pico_choice", "pico_written", "mean"]
    for name, score in (("a", "score_baseline"), ("b", "score")):
        own = results[name]
        assert rows["pico_choice"][score] == pytest.approx(100 * own["pico_choice"]["acc,none"])
        assert rows["pico_written"][score] == pytest.approx(100 * own["pico_written"]["exact_match,digit"])
    assert {row["noise"] for row in rows.values()} == {"items only"}
    a, b = ([row["acc"] for row in samples(folder / f"org__{name}", "pico_choice")] for name in "ab")
    assert rows["pico_choice"]["p"] == pytest.approx(statistics.mcnemar(b, a))
    assert rows["pico_choice"]["n"] == DOCUMENTS  # also the document that stands there twice


def test_the_metric_and_the_filter_are_chosen_by_task(harness: tuple, capsys: pytest.CaptureFixture) -> None:
    folder, results = harness
    metrics = ["--metric", "pico_w*=exact_match,word"]
    rows = told(capsys, folder / "org__a", folder / "org__b", *metrics)["differences"]
    assert [row["metric"] for row in rows] == ["acc_norm", "exact_match,word", "mean"]
    assert rows[0]["score"] == pytest.approx(100 * results["b"]["pico_choice"]["acc_norm,none"])
    assert rows[1]["score"] == pytest.approx(100 * results["b"]["pico_written"]["exact_match,word"])
    assert compare(folder / "org__a", folder / "org__b", "--metric", "f1") == 2
    error = capsys.readouterr().err
    assert "'f1' is none of them" in error and "acc, acc_norm" in error


def test_files_in_another_order_and_of_other_length_are_matched(
    harness: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, _ = harness
    shutil.copytree(folder / "org__b", tmp_path / "b")
    (path,) = (tmp_path / "b").glob("samples_pico_choice_*")
    lines = path.read_text().splitlines()[3:]
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n")
    row = told(capsys, f"a={folder}/org__a", f"b={tmp_path}/b", "--metric", "pico_choice=acc")["differences"][
        0
    ]
    a, b = ([row["acc"] for row in samples(folder / f"org__{name}", "pico_choice")][3:] for name in "ab")
    # the first document is the last one again: one of the two is left in b
    first = samples(folder / "org__a", "pico_choice")[0]["acc"]
    assert (row["n"], row["only_baseline"], row["only_model"]) == (DOCUMENTS - 3, 3, 0)
    assert a[-1] == first and row["difference"] == pytest.approx(100 * (sum(b) - sum(a)) / len(a))
    assert compare(f"a={folder}/org__a", f"b={tmp_path}/b") == 0
    assert "left out, no such document on the other side: pico_choice 3 of A" in capsys.readouterr().out


def test_the_newest_file_of_a_task_is_read(
    harness: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, _ = harness
    shutil.copytree(folder / "org__a", tmp_path / "a")
    for path in (folder / "org__b").glob("samples_*"):
        task = path.name.split("_2")[0]
        shutil.copy(path, tmp_path / "a" / f"{task}_2999-01-01T00-00-00.000001.jsonl")
    rows = told(capsys, folder / "org__b", tmp_path / "a")["differences"]
    assert [row["difference"] for row in rows] == [0, 0, 0]


def test_repeated_names_are_trainings_of_one_model(harness: tuple, capsys: pytest.CaptureFixture) -> None:
    folder, _ = harness
    a, b = folder / "org__a", folder / "org__b"
    found = told(capsys, f"x={a}", f"x={b}", f"y={b}", f"y={a}", "--metric", "pico_choice=acc")
    right = {
        name: pd.Series([row["acc"] for row in samples(folder / f"org__{name}", "pico_choice")])
        for name in "ab"
    }
    wanted = statistics.over_seeds([[right["b"] - right["a"]], [right["a"] - right["b"]]], shared=True)
    row = found["differences"][0]
    assert (row["seeds"], row["noise"], row["difference"]) == (2, "items and training", 0)
    assert row["ci_high"] == pytest.approx(100 * wanted.ci_high)
    pattern = told(capsys, f"x={a}", f"y={folder}/org__?")
    assert pattern["sources"]["y"] == [str(a), str(b)]
    assert pattern["differences"][0]["noise"] == "items and training of y"


def test_a_folder_of_models_is_compared_with_its_first(harness: tuple, capsys: pytest.CaptureFixture) -> None:
    folder, _ = harness
    rows = told(capsys, folder)["differences"]
    assert {(row["baseline"], row["model"]) for row in rows} == {("org__a", "org__b")}
    turned = told(capsys, folder, "--baseline", "org__b")["differences"]
    assert [row["difference"] for row in turned] == [-row["difference"] for row in rows]


def test_models_of_a_run(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stored = pd.read_csv(run_folder / "scores" / "differences.csv").set_index(
        ["method", "ct_tokens", "baseline", "task"]
    )
    sides = [f"{run_folder}:ct_then_sft@16k", f"{run_folder}:ties@16k"]
    out = tmp_path / "out"
    assert compare(*sides, "--out", out, "--margin", 2) == 0
    text = capsys.readouterr().out
    assert (
        "A: ct_then_sft@16k" in text
        and "acc; B - A in points" in text
        and "topic_en  " in text
        and str(out) in text
    )
    table = pd.read_csv(out / "differences.csv", na_filter=False).set_index("task")
    for task in ("mean", "topic", "topic_en"):
        wanted = stored.loc[("ties", 16384, "ct_then_sft", task)]
        assert float(table.loc[task, "difference"]) == pytest.approx(wanted["difference"])
        assert float(table.loc[task, "ci_low"]) == pytest.approx(wanted["ci_low"])
        assert float(table.loc[task, "p"]) == pytest.approx(wanted["p"], abs=0.01)  # of a mean by draws
    assert table.loc["topic", "verdict"] == "above, items only" or float(table.loc["topic", "p_holm"]) >= 0.05
    made = {path.name for path in out.iterdir()}
    assert made - {"differences.svg", "differences.png"} == {
        "comparison.json", "differences.csv", "differences.html"
    }  # fmt: skip
    assert ("differences.png" in made) != ("No SVG and PNG" in text)
    page = (out / "differences.html").read_text()
    assert "Difference to ct_then_sft@16k" in page and "<script src=" not in page


def test_two_runs_are_compared_model_by_model(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    rows = told(capsys, f"a={run_folder}", f"b={run_folder}")["differences"]
    assert {row["of"] for row in rows} > {"base", "ties@16k"}
    assert {row["difference"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{run}", "{harness}/org__a"], "none of them is in all sources. Name one: SOURCE:base"),
        (["{run}:ties@16k", "{harness}/org__a"], "have no task in common"),
        (["{run}:ties@17k", "{run}:base"], "has no model 'ties@17k'; there are base"),
        (["{harness}/none", "{run}"], "none: nothing is there. Give a run folder"),
        (["{harness}/tasks", "{run}"], "tasks: has no answers. Give a run folder"),
        (["{harness}/org__a", "{harness}/org__a"], "two sources are called 'org__a'. Name them"),
        (["{harness}/org__a"], "needs two models or more"),
        (["{harness}/org__a", "{harness}/org__b", "--baseline", "c"], "there are org__a, org__b"),
        (["{harness}/org__a", "{harness}/org__b", "--margin", "-1"], "--margin -1"),
        (["{harness}/org__a", "{harness}/org__b", "--out", "{harness}"], "exists and is no comparison"),
        (["{run}:base", "{run}:sft", "--metric", "acc"], "Leave out --metric"),
        (["{harness}/tasks/rows.json", "{harness}/org__a"], "no file of samples"),
    ],
)  # fmt: skip
def test_what_is_refused(
    harness: tuple, run_folder: Path, given: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert compare(*(text.format(run=run_folder, harness=harness[0]) for text in given)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_damaged_samples_are_named_by_file_and_line(
    harness: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, _ = harness
    shutil.copytree(folder / "org__b", tmp_path / "b")
    (path,) = (tmp_path / "b").glob("samples_pico_choice_*")
    whole = path.read_text().splitlines()
    for lines, message in (
        ([*whole, '{"doc_id": 1'], f"{path.name}:{DOCUMENTS + 1}: not JSON"),
        ([*whole, '{"doc_id": 1}'], f"{path.name}:{DOCUMENTS + 1}: lacks doc_hash, prompt_hash"),
        ([*whole, whole[0]], "a document stands in it twice"),
        ([], "has no samples"),
    ):
        path.write_text("".join(line + "\n" for line in lines))
        assert compare(folder / "org__a", tmp_path / "b") == 2
        assert message in capsys.readouterr().err
