"""TIES by hand: every place of every slider against the package, the figures, the notebook headless."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pytest

from lrnb import figures, widgets
from lrnb.figures.by_hand import xi
from lrnb.figures.style import OUTCOMES, PAPER
from lrnb.merging import by_hand
from lrnb.pipeline import notebooks
from lrnb.study.parameters import ROOT

WEIGHTS = np.arange(0.25, 2.01, 0.25)


def test_every_slider_position_agrees_with_the_package() -> None:
    for kept, weight, slack in product(range(1, 7), WEIGHTS, (0.0, 0.25, 0.5, 0.75, 1.0)):
        for lam in (0.5, 1.0):
            steps = by_hand.steps(kept, weight, lam, slack)  # asserts it
            assert (np.abs(steps.tau) <= lam * 0.8 + 1e-6).all()


def test_the_words_of_the_notebook_hold() -> None:
    steps = by_hand.steps()
    assert (by_hand.names(steps.ct == 0), by_hand.names(steps.sft == 0)) == ("p6", "p2")
    assert (by_hand.names(steps.sft_lost), by_hand.names(steps.ct_lost)) == ("p1, p5", "p4")
    assert steps.thresholds == (0.20, 0.30)
    lost, kept = np.abs(steps.sft[steps.sft_lost]).sum(), np.abs(steps.sft).sum()
    assert f"{lost / kept:.0%}" == "43%"
    assert steps.tau == pytest.approx([0.80, -0.25, 0.35, -0.55, -0.60, 0.30])
    assert by_hand.steps(6).tau[5] == pytest.approx(0.20)
    assert by_hand.names(by_hand.steps(slack=0.5).reserved) == "p5"
    back = [slack for slack in range(101) if by_hand.steps(slack=slack / 100).reserved[0]]
    assert min(back) == 75
    assert by_hand.names(by_hand.steps(slack=0.75).ct_lost) == "p1, p4, p5"
    smallest = min(w for w in WEIGHTS if not by_hand.steps(weight=w).sft_lost.any())
    assert smallest == 2.0


def test_figures_hatch_what_is_lost_and_frame_what_is_won_back() -> None:
    sft = figures.elected_by_hand().data[1]
    assert list(sft.marker.pattern.shape) == ["/", "", "", "", "/", ""]
    assert list(sft.marker.color)[1] == PAPER  # trimmed away
    assert not any(figures.elected_by_hand(reveal=False).data[1].marker.pattern.shape)
    delta, _, framed = figures.slackened_by_hand(0.5).data[:3]
    assert list(delta.x) == ["p5", "p1"]
    assert list(delta.marker.color) == [OUTCOMES["reserved"], OUTCOMES["discarded"]]
    assert list(framed.marker.line.width) == [1, 1, 1, 1, 4, 1]
    assert xi(by_hand.steps(slack=0.75)) == pytest.approx(0.35)


def test_a_guess_comes_before_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)
    explorer = widgets.elect_by_hand()
    numbers = explorer.box.children[-1]
    assert "p1, p5" not in numbers.value and "open with your guess" in numbers.value
    sliders = [explorer.controls[name] for name in ("kept", "weight")]
    assert all(slider.disabled for slider in sliders)
    explorer.controls["guess"].value = "p4"
    assert not any(slider.disabled for slider in sliders)
    assert "not so" in numbers.value
    assert "p1, p5" in numbers.value
    explorer.controls["guess"].value = "p1 and p5"
    assert "right" in numbers.value
    assert {note.text for note in explorer.figure.layout.annotations} == {"<b>+</b>", "<b>−</b>"}


@pytest.mark.parametrize("name", ["trim", "elect", "merge", "slack"])
def test_headless_shows_the_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRNB_HEADLESS", "progress.json")
    figure = getattr(widgets, f"{name}_by_hand")()
    drawn = {"trim": "trimmed", "elect": "elected", "merge": "merged", "slack": "slackened"}
    assert figure == getattr(figures, f"{drawn[name]}_by_hand")()


def test_the_notebook_runs_headless_and_keeps_figures(tmp_path: Path) -> None:
    notebook = ROOT / "notebooks" / "00_ties_by_hand.ipynb"
    env = {"LRNB_PROGRESS": str(tmp_path / "progress.json")}
    out = notebooks.exec_notebook(notebook, {}, tmp_path / "out.ipynb", env)
    cells = nbformat.read(out, 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("application/vnd.plotly.v1+json") == 4
    assert "application/vnd.jupyter.widget-view+json" not in kinds
    assert "wins p1 back: 0.75" in "".join(output.get("text", "") for output in outputs)
