"""TIES by hand, as widgets: a guess first, then the sliders. The figures are those of `figures.by_hand`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import plotly.graph_objects as go

from lrnb.figures import by_hand as drawn
from lrnb.merging import by_hand
from lrnb.widgets.explorer import Choice, Explorer, Slider, explore, headless

KEPT = Slider("entries kept, of six", 5, 1, 6, 1)
WEIGHT = Slider("weight of SFT", 1.0, 0.25, 2.0, 0.25)
UNSAID = "?"
FIGURES: dict[str, Callable[..., go.Figure]] = {
    "trim": drawn.trimmed_by_hand,
    "elect": drawn.elected_by_hand,
    "merge": drawn.merged_by_hand,
    "slack": drawn.slackened_by_hand,
}


def trim_by_hand() -> Any:
    """Trimming: guess which entries go at five of six, then move the threshold."""

    def numbers(kept: int) -> dict[str, str]:
        steps = by_hand.steps(kept)
        t = steps.thresholds
        gone = {
            "trimmed of CT": by_hand.names(steps.ct == 0),
            "trimmed of SFT": by_hand.names(steps.sft == 0),
        }
        return {"threshold of CT": f"{t[0]:.2f}", "threshold of SFT": f"{t[1]:.2f}"} | gone

    question = "Five of six entries of each parent stay. Which go?"
    options = ["p6 of CT, p2 of SFT", "p4 of CT, p6 of SFT", "p6 of both"]
    hint = "Guess first; then move the slider: which entry is the last to stay?"
    return _guess_first("trim", hint, question, options, options[0], numbers, kept=KEPT)


def elect_by_hand() -> Any:
    """The election: guess what SFT loses, then change the number kept and SFT's weight."""

    def numbers(kept: int, weight: float) -> dict[str, str]:
        steps = by_hand.steps(kept, weight)
        return {"SFT loses": by_hand.names(steps.sft_lost), "CT loses": by_hand.names(steps.ct_lost)}

    options = ["none", "p4", "p1 and p5", "p1, p4 and p5"]
    hint = "Guess first; then find the smallest weight with which SFT loses nothing."
    question = "Five kept, weight 1: which entries does SFT lose?"
    controls = {"kept": KEPT, "weight": WEIGHT}
    return _guess_first("elect", hint, question, options, options[2], numbers, **controls)


def merge_by_hand() -> Any:
    """The merge: guess p6, then see what trimming does to it."""

    def numbers(kept: int, lam: float) -> dict[str, str]:
        steps = by_hand.steps(kept, lam=lam)
        return {name: f"{x:.2f}" for name, x in zip(by_hand.NAMES, steps.tau, strict=True)}

    options = ["0.10", "0.20", "0.30"]
    question = "Five kept: what is p6 of the merged τ?"
    hint = "Guess first; then keep all six: what happens to p6?"
    controls = {"kept": KEPT, "lam": Slider("λ", 1.0, 0.0, 1.5, 0.1)}
    return _guess_first("merge", hint, question, options, options[2], numbers, **controls)


def slack_by_hand() -> Any:
    """Slack: guess the smallest ρ that wins p1 back, then find it."""

    def numbers(slack: float) -> dict[str, str]:
        steps = by_hand.steps(slack=slack)
        back = {"won back": by_hand.names(steps.reserved), "SFT loses": by_hand.names(steps.sft_lost)}
        return back | {"ξ": f"{drawn.xi(steps):.2f}", "CT loses": by_hand.names(steps.ct_lost)}

    options = ["0.25", "0.5", "0.75", "1"]
    question = "Which of these slacks is the smallest that wins p1 back?"
    hint = "Guess first; then move ρ up from 0: which defeat comes back first, and what does CT lose?"
    slack = Slider("slack ρ", 0.5, 0.0, 1.0, 0.05)
    return _guess_first("slack", hint, question, options, "0.75", numbers, slack=slack)


def _guess_first(
    name: str,
    hint: str,
    question: str,
    options: list[str],
    answer: str,
    numbers: Callable[..., dict[str, str]],
    **controls: Slider,
) -> Any:
    """The figure without its answer until one of `options` is chosen, sliders locked; headless with it."""

    def draw(guess: str, **state: Any) -> go.Figure:
        return FIGURES[name](**state, reveal=guess != UNSAID)

    def told(guess: str, **state: Any) -> dict[str, str]:
        if guess == UNSAID:
            return {"your guess": "none yet", "sliders": "open with your guess"}
        return {"your guess": "right" if guess == answer else f"not so: {answer}"} | numbers(**state)

    first = Choice(question, answer if headless() else UNSAID, [UNSAID, *options], own_row=True)
    widget = explore(f"{name}-by-hand", hint, draw, {"guess": first, **controls}, numbers=told)
    return _opened_by_guess(widget, controls) if isinstance(widget, Explorer) else widget


def _opened_by_guess(widget: Explorer, sliders: Iterable[str]) -> Explorer:
    """A slider that moved before the guess would give the answer away."""

    def lock(_: Any = None) -> None:
        for name in sliders:
            widget.controls[name].disabled = widget.controls["guess"].value == UNSAID

    widget.controls["guess"].observe(lock, "value")
    lock()
    return widget
