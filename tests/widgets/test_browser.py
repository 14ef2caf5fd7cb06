"""Widgets and exports in a real browser: JupyterLab on loopback, chromium; see `browser`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import HIGH, WIDE, Notebook, Page, check_export, chromium
from support.lab import Lab

from lrnb.merging import by_hand as hand
from lrnb.pipeline import notebooks
from lrnb.study.parameters import ROOT
from lrnb.widgets.lesson import TASK_VECTORS

HAND = "00_ties_by_hand"


@pytest.fixture(scope="module")
def by_hand(chrome: Any, lab: Lab) -> Iterator[Notebook]:
    """00_ties_by_hand, run as a person would, in JupyterLab's light and dark theme."""
    notebook = Notebook(chrome, lab, lab.add(HAND))
    notebook.run()
    yield notebook
    notebook.close()


def guess(notebook: Notebook, step: str, answer: str) -> str:
    """Press a button of the guess; returns what the widget says to it."""
    notebook.page.locator(f".lrnb-{step}-by-hand .lrnb-control-guess button", has_text=answer).first.click()
    notebook.settle()
    return notebook.number("your guess", f".lrnb-{step}-by-hand")


def test_the_guess_comes_first_and_sliders_move_the_numbers(by_hand: Notebook) -> None:
    assert by_hand.number("your guess", ".lrnb-elect-by-hand") == "none yet"
    locked = by_hand.page.locator(".lrnb-elect-by-hand .noUi-target[disabled]")
    assert locked.count() == 2
    assert guess(by_hand, "elect", "p4") == "not so: p1 and p5"
    assert guess(by_hand, "elect", "p1 and p5") == "right" and locked.count() == 0
    assert by_hand.number("SFT loses", ".lrnb-elect-by-hand") == "p1, p5"
    by_hand.press(".lrnb-elect-by-hand .lrnb-control-weight", "End")
    steps = hand.steps(weight=2.0)
    assert by_hand.number("SFT loses", ".lrnb-elect-by-hand") == hand.names(steps.sft_lost) == "none"
    assert by_hand.number("CT loses", ".lrnb-elect-by-hand") == hand.names(steps.ct_lost)
    title = by_hand.page.locator(".lrnb-elect-by-hand .gtitle")
    title.filter(has_text="SFT loses 0 of its 5").wait_for(timeout=30_000)


def test_a_dragged_slider_trims_what_python_trims(by_hand: Notebook) -> None:
    assert guess(by_hand, "trim", "p6 of CT, p2 of SFT") == "right"
    by_hand.drag(".lrnb-trim-by-hand .lrnb-control-kept", 0.42)  # of 1 to 6: three
    steps = hand.steps(kept=3)
    for parent, tau, threshold in zip(("CT", "SFT"), (steps.ct, steps.sft), steps.thresholds, strict=True):
        assert by_hand.number(f"trimmed of {parent}", ".lrnb-trim-by-hand") == hand.names(tau == 0)
        assert by_hand.number(f"threshold of {parent}", ".lrnb-trim-by-hand") == f"{threshold:.2f}"
    assert by_hand.page.locator(".lrnb-trim-by-hand .shapelayer path").count() == 4


def test_merged_numbers_in_the_page_are_pythons(by_hand: Notebook) -> None:
    assert guess(by_hand, "merge", "0.30") == "right"
    by_hand.press(".lrnb-merge-by-hand .lrnb-control-kept", "ArrowRight")
    by_hand.drag(".lrnb-merge-by-hand .lrnb-control-lam", 1.0)
    for name, tau in zip(hand.NAMES, hand.steps(kept=6, lam=1.5).tau, strict=True):
        assert by_hand.number(name, ".lrnb-merge-by-hand") == f"{tau:.2f}"


def test_the_smallest_slack_that_wins_p1_back_is_found_with_the_slider(by_hand: Notebook) -> None:
    assert guess(by_hand, "slack", "0.75") == "right"
    slack, back = ".lrnb-slack-by-hand .lrnb-control-slack", {}
    by_hand.press(slack, "Home")
    by_hand.press(slack, "ArrowRight", 13)
    for step in range(13, 17):
        back[step / 20] = by_hand.number("won back", ".lrnb-slack-by-hand")
        by_hand.press(slack, "ArrowRight")
    assert back == {0.65: "p5", 0.7: "p5", 0.75: "p1, p5", 0.8: "p1, p5"}
    assert by_hand.number("ξ", ".lrnb-slack-by-hand") == "0.35"


NAMELESS = """() => [...document.querySelectorAll(
  '[role=slider], [contenteditable=true].widget-readout, .lrnb-explorer select, .lrnb-explorer textarea'
)].filter(part => !part.ariaLabel && !part.labels?.[0]?.textContent.trim()).map(part => part.outerHTML)"""


def test_every_control_has_a_name_for_screen_readers(by_hand: Notebook) -> None:
    assert by_hand.page.evaluate(NAMELESS) == []
    sliders = by_hand.page.locator(".lrnb-elect-by-hand [role=slider]")
    names = sliders.evaluate_all("found => found.map(slider => slider.ariaLabel)")
    assert names == ["entries kept, of six", "weight of SFT"]
    group = by_hand.page.locator(".lrnb-elect-by-hand .lrnb-control-guess [role=group]")
    assert "which entries does SFT lose?" in group.get_attribute("aria-label")


WIDTHS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(
  figure => [figure._fullLayout.width, figure.closest('.jp-OutputArea-output').clientWidth])"""


def test_figures_are_as_wide_as_the_cell_whatever_its_width(by_hand: Notebook) -> None:
    for wide in (1920, WIDE):
        by_hand.page.set_viewport_size({"width": wide, "height": HIGH})
        by_hand.page.wait_for_timeout(600)
        found = by_hand.page.evaluate(WIDTHS)
        assert len(found) == 4
        assert all(abs(figure - cell) <= 4 for figure, cell in found)
    assert found[0][0] > 700  # what plotly takes where it knows no width


def test_figures_are_in_the_colours_of_the_theme(by_hand: Notebook, lab: Lab) -> None:
    colour = "css => getComputedStyle(document.querySelector(css)).fill"
    ink = by_hand.page.evaluate(colour, ".lrnb-trim-by-hand .gtitle")
    red = int(re.findall(r"\d+", ink)[0])
    assert (red > 200) == lab.dark and (red < 80) != lab.dark
    paper = "css => getComputedStyle(document.querySelector(css)).backgroundColor"
    assert by_hand.page.evaluate(paper, ".lrnb-trim-by-hand .main-svg") == "rgba(0, 0, 0, 0)"


def test_nothing_went_wrong_in_the_page(by_hand: Notebook, lab: Lab) -> None:
    by_hand.picture(f"{HAND}-{'dark' if lab.dark else 'light'}")
    by_hand.check()


SLOW = """
import time, plotly.graph_objects as go
from lrnb import widgets
from lrnb.errors import UserError
drawn = []
def draw(n, broken=False):
    if broken:
        raise UserError("broken on purpose: <b>mend it</b>")
    time.sleep(0.04)
    drawn.append(n)
    return go.Figure(go.Bar(y=[n])).update_layout(title_text=f"{n} of 100")
controls = {"n": widgets.Slider("n", 0, 0, 100, 1), "broken": widgets.Check("broken")}
widgets.explore("slow", "Drag.", draw, controls, numbers=lambda **s: {"n": s["n"], "draws": len(drawn)})
"""
CLICK = """
controls = {"x": widgets.Choice("x", "a", ["a", "b", "c"]), "y": widgets.Choice("y", "k", ["k", "l"])}
def heat(x, y):
    return go.Figure(go.Heatmap(x=list("abc"), y=list("kl"), z=[[1, 2, 3], [4, 5, 6]]))
explorer = widgets.explore("heat", "Click.", heat, controls, numbers=lambda x, y: {"cell": x + y})
def clicked(x, y):
    with explorer.hold():
        explorer.controls["x"].value, explorer.controls["y"].value = x, y
explorer.on_click(clicked)
explorer
"""
MOVED = """
def bars(high):
    return go.Figure([go.Bar(x=["a", "b"], y=[high, 1]), go.Bar(x=[3, high], y=["c", "d"], orientation="h")])
moved = widgets.explore("moved", "Move.", bars, {"high": widgets.Slider("high", 1, 0, 9, 1)})
moved.controls["high"].value = 7
moved
"""
ASKED = 'widgets.exercise("task_vector")'
LONG = f"lrnb merge {'--model a=b ' * 40}--out <b>there</b>"
COPY = f"widgets.copy_button({LONG!r})"


@pytest.fixture(scope="module")
def parts(chrome: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """Widgets made for the test: a slow one, one to click, a copy button."""
    lab = Lab(tmp_path_factory.mktemp("parts"))
    notebook = Notebook(chrome, lab, lab.write("parts", SLOW, CLICK, ASKED, COPY, MOVED))
    notebook.run()
    yield notebook
    notebook.close()
    lab.close()


def test_values_that_come_while_the_kernel_draws_are_skipped(parts: Notebook) -> None:
    before = int(parts.number("draws", ".lrnb-slow"))
    parts.drag(".lrnb-control-n", 1.0, steps=100)
    assert parts.number("n", ".lrnb-slow") == "100"
    parts.shows(".lrnb-slow .gtitle", "100 of 100")
    assert 1 <= int(parts.number("draws", ".lrnb-slow")) - before < 90


def test_an_error_of_the_user_is_read_in_the_widget(parts: Notebook) -> None:
    parts.page.locator(".lrnb-control-broken input").click()
    parts.settle()
    assert parts.text(".lrnb-slow .lrnb-error") == "broken on purpose: <b>mend it</b>"
    parts.page.locator(".lrnb-control-broken input").click()
    parts.settle()
    assert parts.text(".lrnb-slow .lrnb-error") == ""


def test_a_click_on_a_cell_of_a_heatmap_is_heard(parts: Notebook) -> None:
    assert parts.number("cell", ".lrnb-heat") == "ak"
    parts.click_point(".lrnb-heat", "c", "l")
    assert parts.number("cell", ".lrnb-heat") == "cl"
    parts.click_point(".lrnb-heat", "b", "k")
    assert parts.number("cell", ".lrnb-heat") == "bk"


def test_a_page_that_is_loaded_again_shows_the_present_figure(parts: Notebook) -> None:
    parts.press(".lrnb-control-n", "Home")
    parts.press(".lrnb-control-n", "ArrowRight", 7)
    parts.reload()
    assert parts.number("n", ".lrnb-slow") == "7"
    parts.shows(".lrnb-slow .gtitle", "7 of 100")


LOADS_SLOWLY = """() => {
  const timeout = AbortSignal.timeout;
  AbortSignal.timeout = ms => timeout.call(AbortSignal, ms == 2000 ? 0 : ms);
}"""


@pytest.fixture(scope="module")
def late(chrome: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A page on a machine that takes more than the two seconds that anywidget gives a figure to load."""
    lab = Lab(tmp_path_factory.mktemp("late"))
    notebook = Notebook(chrome, lab, lab.write("late", SLOW, CLICK, MOVED), f"({LOADS_SLOWLY})()")
    notebook.run()
    yield notebook
    notebook.close()
    lab.close()


def test_figures_that_load_late_follow_their_controls(late: Notebook) -> None:
    late.press(".lrnb-control-n", "ArrowRight", 7)
    assert late.number("n", ".lrnb-slow") == "7"
    late.shows(".lrnb-slow .gtitle", "7 of 100")
    late.click_point(".lrnb-heat", "c", "l")
    assert late.number("cell", ".lrnb-heat") == "cl"
    late.press(".lrnb-control-high", "Home")
    assert late.page.evaluate(DATA) == [[["a", "b"], [0, 1]], [[3, 0], ["c", "d"]]]


DATA = """() => document.querySelector('.lrnb-moved .js-plotly-plot').data.map(
  trace => [trace.x, trace.y].map(values => values && Array.from(values)))"""


def test_a_figure_that_is_shown_after_a_move_is_whole(parts: Notebook) -> None:
    """In one trace only y changed, in the other only x: the others were lost in a view that opens later."""
    assert parts.page.evaluate(DATA) == [[["a", "b"], [7, 1]], [[3, 7], ["c", "d"]]]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))  # of five loads in each theme, 50 in all
def test_no_first_draw_is_blank_on_a_busy_machine(part: int, chrome: Any, lab: Lab) -> None:
    """The page is loaded anew and its kernel goes on, so that figures are sent while the page still loads.

    anywidget complains where a model takes longer than two seconds, here those of the loads before.
    """
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    notebook = Notebook(chrome, lab, lab.add(HAND))
    try:
        for _ in range(5):
            notebook.load()
            notebook.run_cells()
    finally:
        notebook.close()
        for process in busy:
            process.kill()


def test_an_exercise_gives_a_hint_and_then_the_reason(parts: Notebook) -> None:
    one, asked = TASK_VECTORS["task_vector"], ".lrnb-exercise-task_vector"
    options, check = (
        parts.page.locator(f"{asked} input[type=radio]"),
        parts.page.locator(f"{asked} .lrnb-check"),
    )
    for option in (one.options[0], one.answer):
        options.nth(one.options.index(option)).click()
        check.click()
        parts.settle()
        said = parts.text(f"{asked} [role=status]")
        assert said == (f"✓ Right. {one.why}" if option == one.answer else f"✗ Not so. Hint: {one.hints[0]}")


def test_the_copy_button_copies_the_text_as_it_is(parts: Notebook) -> None:
    box = parts.page.locator(".lrnb-copy textarea")
    assert box.input_value() == LONG
    assert box.evaluate("box => box.scrollHeight <= box.clientHeight")  # all of its lines are seen
    parts.page.locator(".lrnb-copy button").click()
    parts.page.wait_for_selector(".lrnb-copy button:text('Copied')")
    parts.context.grant_permissions(["clipboard-read"])
    assert parts.page.evaluate("() => navigator.clipboard.readText()") == LONG
    parts.check()


def test_an_error_in_the_page_and_a_request_to_the_outside_are_noticed(chrome: Any) -> None:
    page = Page(chrome, offline=True)
    script = "console.error('mine'); setTimeout(() => { throw Error('thrown') }); new Image().src = 'http://example.org/x'"
    page.page.set_content(f"<script>{script}</script>")
    page.page.wait_for_timeout(300)
    assert {text.split(":")[0] for text in page.errors} >= {"console", "page"}
    assert any("mine" in text for text in page.errors)
    assert any("thrown" in text for text in page.errors)
    assert "asked for http://example.org/x" in page.errors
    page.close()


def test_an_absent_browser_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name in ("CI", "LRNB_REQUIRE_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        chromium()
    monkeypatch.setenv("LRNB_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="required here"):
        chromium()


@pytest.mark.slow  # test_study has one in CI
def test_the_export_of_an_executed_notebook_draws_its_figures_without_a_network(
    chrome: Any, tmp_path: Path
) -> None:
    env = {"LRNB_PROGRESS": str(tmp_path / "progress.json")}
    out = notebooks.exec_notebook(ROOT / "notebooks" / f"{HAND}.ipynb", {}, tmp_path / f"{HAND}.ipynb", env)
    assert check_export(chrome, out, tmp_path) == 4
