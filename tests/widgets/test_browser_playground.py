"""MergePlayground and ScoreBoard in a real browser, in JupyterLab's light and dark theme; see `browser`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.browser import Notebook
from support.lab import Lab
from support.made_run import BUDGETS, METHODS, write_made_run
from support.pico_run import byte_study, pico_study

from lrnb.analysis import results
from lrnb.report import page
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.tuning.live_merge import Playground, Prompt
from lrnb.widgets.scoreboard import rows_shown

pytestmark = pytest.mark.slow  # minutes; CI has the browser in test_browser, the notebook in test_live_merge
PLAY, NAME = ".lrnb-merge-playground", "explore/playground"
EVIL = "<img src=x onerror=\"document.title='evil'\"> topic :"


# the playground


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return pico_study(tmp_path_factory.mktemp("pico") / "runs")


@pytest.fixture(scope="module")
def bench(study: Study) -> Playground:
    """The same in this process: what the page must show."""
    return Playground(study)


@pytest.fixture(scope="module")
def playground(chrome: Any, lab: Lab, study: Study) -> Iterator[Notebook]:
    given = {"runs": study.runs, "ct_budgets": study.ct_budgets, "tasks": study.tasks}
    notebook = Notebook(chrome, lab, lab.add(NAME, **given))
    notebook.run()
    yield notebook
    notebook.close()


def readout(notebook: Notebook, name: str) -> float:
    return float(notebook.text(f"{PLAY} .lrnb-control-{name} .widget-readout"))


def same_as_python(notebook: Notebook, bench: Playground, prompt: Prompt) -> None:
    """Every text, share and log-likelihood in the page is Python's, and so are the bars."""
    table = bench.answers(prompt)
    for row in table.itertuples():
        own = f'{PLAY} .lrnb-answers td[data-model="{row.model}"]'
        text = notebook.text(f'{own}[data-what="text"]')
        assert text.startswith(row.text if row.text.strip() else "(")  # below it its gloss
        for i, (share, value) in enumerate(zip(row.shares, row.loglikelihoods, strict=True)):
            shown_here = notebook.text(f'{own}[data-option="{i}"]')
            picked = " ◀" if row.picks == i else ""
            assert shown_here == f"{100 * share:.1f}%{picked}{value:.2f} nats"
    bars = notebook.page.evaluate(
        f"document.querySelector('{PLAY} .js-plotly-plot')._fullData.map(t => [t.name, Array.from(t.x)])"
    )
    assert [name for name, _ in bars] == ["base", "CT", "SFT-en", "TIES-SV"]
    for (_, x), shares in zip(bars, table["shares"], strict=True):
        assert x == pytest.approx([100 * share for share in shares], abs=1e-3)


def test_dragged_density_and_slack_merge_what_python_merges(playground: Notebook, bench: Playground) -> None:
    prompt = bench.by_movement(bench.prompts(each=10))[0]
    for name, share in (("density", 0.2), ("slack", 0.9), ("density", 0.75)):
        playground.drag(f"{PLAY} .lrnb-control-{name}", share)
        options = {key: readout(playground, key) for key in ("density", "lam", "slack")}
        assert options[name] == pytest.approx(share, abs=0.06)
        bench.merge("ties_sv", **options)
        same_as_python(playground, bench, prompt)
        assert float(playground.number("merged in", PLAY).removesuffix(" s")) < 2
        assert float(playground.number("answered in", PLAY).removesuffix(" s")) < 10
    assert playground.number("the other models", PLAY) == "known already"


def test_another_prompt_is_chosen_from_the_list(playground: Notebook, bench: Playground) -> None:
    playground.page.locator(f"{PLAY} .lrnb-control-item select").select_option(index=4)
    playground.settle()
    prompt = bench.by_movement(bench.prompts(each=10))[4]
    bench.merge("ties_sv", **{key: readout(playground, key) for key in ("density", "lam", "slack")})
    same_as_python(playground, bench, prompt)
    assert prompt.name in playground.text(f"{PLAY} .gtitle")


def test_an_own_prompt_is_text_and_nothing_else(playground: Notebook, bench: Playground) -> None:
    for name, text in (("options", "sea\n<b>farm</b>"), ("text", EVIL)):
        playground.page.locator(f"{PLAY} .lrnb-control-{name} textarea").fill(text)
        playground.page.keyboard.press("Tab")
        playground.settle()
    bench.merge("ties_sv", **{key: readout(playground, key) for key in ("density", "lam", "slack")})
    same_as_python(playground, bench, Prompt(EVIL, ("sea", "<b>farm</b>")))
    assert EVIL in playground.text(f"{PLAY} .lrnb-answers")
    assert "evil" not in playground.page.title()
    playground.page.locator(f"{PLAY} .lrnb-control-text textarea").fill("")
    playground.page.keyboard.press("Tab")
    playground.settle()


def test_a_method_shows_its_own_sliders(playground: Notebook) -> None:
    methods = playground.page.locator(f"{PLAY} .lrnb-control-method select")
    density = playground.page.locator(f"{PLAY} .lrnb-control-density")
    alpha = playground.page.locator(f"{PLAY} .lrnb-control-alpha")
    assert density.is_visible() and not alpha.is_visible()
    for method, there, gone in (("average", alpha, density), ("TIES-SV", density, alpha)):
        methods.select_option(label=method)
        there.wait_for(state="visible")
        gone.wait_for(state="hidden")
    playground.settle()


def test_nothing_went_wrong_in_the_page(playground: Notebook, lab: Lab) -> None:
    playground.picture(f"playground-{'dark' if lab.dark else 'light'}")
    playground.check()


BYTES = """
from lrnb import widgets
from lrnb.study.parameters import Study
from lrnb.tuning import live_merge
study = Study(**{given!r})
bench = live_merge.Playground(study)
widgets.merge_playground(bench, bench.prompts(1))
"""


def test_broken_bytes_are_marked_and_uyghur_runs_from_right_to_left(
    chrome: Any, lab: Lab, tmp_path: Path, data_root: Path
) -> None:
    study = byte_study(tmp_path / "runs", data_root, "ug", "Arabic")
    given = study.model_dump(exclude_unset=True)
    notebook = Notebook(chrome, lab, lab.write("bytes", BYTES.format(given=given)))
    notebook.run()
    prompt = notebook.page.locator(".lrnb-answers [lang=ug]").first
    first = prompt.locator("[dir]").first
    assert first.evaluate("node => getComputedStyle(node).direction") == "rtl"
    mark = notebook.page.locator(".lrnb-answers td .lrnb-garbage").first
    assert set(mark.inner_text()) == {"\ufffd"}
    assert "no character" in mark.get_attribute("title")
    notebook.picture(f"playground-uyghur-{'dark' if lab.dark else 'light'}")
    notebook.check()
    notebook.close()


# the scores

BOARD = """
from pathlib import Path
from lrnb import widgets
from lrnb.analysis import results, trust
from lrnb.report import page
from lrnb.study.stages import RunPaths
scores, items = results.gather(RunPaths(page.study_of(Path({folder!r}))))
levels, fallen = results.levels(scores, items), results.fallen(scores, items)
widgets.score_board(trust.marks(scores, items), levels=levels, fallen=fallen)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return RunPaths(page.study_of(write_made_run(tmp_path_factory.mktemp("scores") / "runs")))


@pytest.fixture(scope="module")
def board(chrome: Any, lab: Lab, made: RunPaths) -> Iterator[Notebook]:
    notebook = Notebook(chrome, lab, lab.write("board", BOARD.format(folder=str(made.lang))))
    notebook.run()
    yield notebook
    notebook.close()


def choose(notebook: Notebook, control: str, word: str) -> None:
    buttons = notebook.page.locator(f".lrnb-score-board .lrnb-control-{control} button")
    buttons.get_by_text(word, exact=True).click()
    notebook.settle()


def saved(notebook: Notebook, folder: Path) -> tuple[str, str]:
    """(name, text) of the file that the browser saves."""
    with notebook.page.expect_download() as download:
        notebook.page.locator(".lrnb-score-board a.lrnb-csv").click()
    download.value.save_as(folder / "saved.csv")
    return download.value.suggested_filename, (folder / "saved.csv").read_text(encoding="utf-8")


def test_table_and_figure_follow_the_choices(board: Notebook, made: RunPaths) -> None:
    scores = results.gather(made)[0]
    for task, subset, budget in (("mean", "all", 0), ("topic", "merges", BUDGETS[1])):
        choose(board, "task", "Mean of the tasks" if task == "mean" else task)
        choose(board, "methods", subset)
        choose(board, "budget", "65k" if budget else "all")
        rows = rows_shown(scores, task, subset, budget)
        lines = board.page.locator(".lrnb-scores tr[data-model]")
        assert lines.evaluate_all("rows => rows.map(row => row.dataset.model)") == list(rows["model"])
        for row in rows.itertuples():
            text = board.text(f'.lrnb-scores tr[data-model="{row.model}"]')
            mark = "" if row.ci_low > row.chance else "°"
            assert f"{row.value:.1f}{mark}{row.ci_low:.1f} to {row.ci_high:.1f}" in text
        assert board.number("models shown", ".lrnb-score-board") == str(len(rows))
        figure = "document.querySelector('.lrnb-score-board .js-plotly-plot')"
        drawn = board.page.evaluate(f"{figure}._fullData.filter(t => t.error_y?.visible).length")
        assert drawn == rows["method"].nunique()


def test_the_saved_csv_is_lines_of_scores_csv(board: Notebook, made: RunPaths, tmp_path: Path) -> None:
    lines = (made.scores / "scores.csv").read_text().splitlines()
    choose(board, "task", "reading")
    choose(board, "methods", "merges")
    choose(board, "budget", "16k")
    name, text = saved(board, tmp_path)
    assert name == "scores-nano-qaa-reading.csv"
    assert set(text.splitlines()) < set(lines)
    found = pd.read_csv(tmp_path / "saved.csv")
    assert (found["task"] == "reading").all() and set(found["method"]) == set(METHODS)
    assert (found["ct_tokens"] == BUDGETS[0]).all()
    choose(board, "methods", "all")
    choose(board, "budget", "all")
    assert len(saved(board, tmp_path)[1].splitlines()) == 1 + len(
        rows_shown(results.gather(made)[0], "reading")
    )


def test_nothing_went_wrong_on_the_board(board: Notebook, lab: Lab) -> None:
    board.picture(f"scoreboard-{'dark' if lab.dark else 'light'}")
    board.check()
