"""ScoreBoard in Python: the rows shown, their table, and a CSV that is made of lines of scores.csv."""

from __future__ import annotations

import base64
import csv
import re
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from support.made_run import BUDGETS, made_items, made_models, score_rows, write_made_run

from lrnb import figures, widgets
from lrnb.analysis import results, trust
from lrnb.report import page as report
from lrnb.study.stages import RunPaths
from lrnb.widgets.scoreboard import SUBSETS, rows_shown


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run folder whose scores are counted from items by the study's own code."""
    folder = write_made_run(tmp_path_factory.mktemp("scores") / "runs")
    return RunPaths(report.study_of(folder))


@pytest.fixture
def scores(paths: RunPaths) -> pd.DataFrame:
    return trust.marks(*results.gather(paths))


@pytest.fixture
def somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)


def csv_of(page: str) -> tuple[str, str]:
    """(name, content) of the file that the link saves."""
    name, held = re.findall(r'download="([^"]+)"[^>]*href="data:text/csv;base64,([^"]+)"', page)[0]
    return name, base64.b64decode(held).decode()


@pytest.mark.parametrize("methods", SUBSETS)
@pytest.mark.parametrize("budget", [0, *BUDGETS])
def test_csv_is_the_shown_lines_of_scores_csv(
    paths: RunPaths, scores: pd.DataFrame, methods: str, budget: int
) -> None:
    lines = (paths.scores / "scores.csv").read_text().splitlines()
    for task in ("mean", "topic"):
        rows = rows_shown(scores, task, methods, budget)
        name, text = csv_of(widgets.csv_link(rows))
        assert name == f"scores-nano-qaa-{task}.csv"
        both = zip(lines[1:], csv.DictReader(lines), strict=True)
        want = [line for line, row in both if _wanted(row, task, methods, budget)]
        assert text.splitlines() == [lines[0], *want]
        assert len(want) > 1


def _wanted(row: dict[str, str], task: str, methods: str, budget: int) -> bool:
    there = not budget or row["ct_tokens"] in ("0", str(budget))
    return there and row["task"] == task and row["method"] in SUBSETS[methods]


def test_table_marks_what_is_not_above_chance_and_bolds_nothing(scores: pd.DataFrame) -> None:
    rows = rows_shown(scores, "topic")
    page = widgets.score_table(rows, fallen={("base", "topic")})
    below = rows[rows["ci_low"] <= rows["chance"]]
    assert 0 < len(below) < len(rows)
    assert page.count("°</td>") == len(below)
    assert set(re.findall(r'<tr data-model="([^"]+)" style="opacity', page)) == set(below["model"])
    assert "<b>" not in page and "<strong" not in page
    assert page.count("collapsed") == 1
    for row in rows.itertuples():
        assert f"{row.ci_low:.1f} to {row.ci_high:.1f}" in page


def test_names_of_models_and_tasks_are_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>"
    items = pd.DataFrame(made_items(evil, evil, 0, evil, 0.5, 20))
    scores = score_rows(items)
    page = widgets.score_table(scores) + widgets.csv_link(scores)
    assert "<img" not in page


@pytest.mark.usefixtures("somebody_is_there")
def test_widget_follows_its_choices(paths: RunPaths, scores: pd.DataFrame) -> None:
    items = results.gather(paths)[1]
    levels, fallen = results.levels(scores, items), results.fallen(scores, items)
    board = widgets.score_board(scores, levels=levels, fallen=fallen)
    board.controls["task"].value = "reading"
    board.controls["methods"].value = "merges"
    board.controls["budget"].value = BUDGETS[0]
    rows = rows_shown(scores, "reading", "merges", BUDGETS[0])
    assert set(rows["ct_tokens"]) == {BUDGETS[0]}
    assert board.box.children[-1].value == widgets.score_table(rows, fallen) + widgets.csv_link(rows)
    want = figures.scores_by_budget(rows, "reading", levels=levels, fallen=fallen)
    assert [trace.name for trace in board.figure.data] == [trace.name for trace in want.data]
    assert board.figure.layout.title == want.layout.title
    assert f">{len(rows)}</b>" in board.box.children[4].value


def test_every_kind_of_model_of_a_study_is_in_a_subset() -> None:
    assert {method for method, _, _ in made_models()} <= set(SUBSETS["all"])
    assert all(set(methods) <= set(SUBSETS["all"]) for methods in SUBSETS.values())


def test_headless_is_the_figure(scores: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRNB_HEADLESS", "somewhere.json")
    fig = widgets.score_board(scores)
    assert isinstance(fig, go.Figure)
    assert fig == figures.scores_by_budget(rows_shown(scores, "mean"), "mean")


def test_study_of_one_task_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRNB_HEADLESS", "somewhere.json")
    scores = results.gather(RunPaths(report.study_of(write_made_run(tmp_path / "runs", tasks=("topic",)))))[0]
    assert "mean" not in set(scores["task"])
    assert widgets.score_board(scores) == figures.scores_by_budget(rows_shown(scores, "topic"), "topic")
