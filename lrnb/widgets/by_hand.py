"""TIES by hand, as widgets: a guess first, then the sliders. The figures are those of `figures.by_hand`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lrnb.figures import by_hand as drawn
from lrnb.merging import by_hand
from lrnb.widgets.explorer import Choice, Explorer, Slider, explore, headless

KEPT = Slider("entries kept, of six", 5, 1, 6, 1)
WEIGHT = Slider("weight of SFT", 1.0, 0.25, 2.0, 0.25)
LAM = Slider("λ", 1.0, 0.0, 1.5, 0.1)
SLACK = Slider("slack ρ", 0.5, 0.0, 1.0, 0.05)
CONTROLS: dict[str, dict[str, Slider]] = {
    "trim": {"kept": KEPT},
    "elect": {"kept": KEPT, "weight": WEIGHT},
    "merge": {"kept": KEPT, "lam": LAM},
    "slack": {"slack": SLACK},
}
UNSAID = "?"
FIGURES: dict[str, Callable[..., go.Figure]] = {
    "trim": drawn.trimmed_by_hand,
    "elect": drawn.elected_by_hand,
    "merge": drawn.merged_by_hand,
    "slack": drawn.slackened_by_hand,
}


@dataclass(frozen=True)
class Guess:
    """What is asked before a step is shown, and where to look afterwards."""

    question: str
    options: tuple[str, ...]
    answer: str
    hint: str


GUESSES = {
    "trim": Guess(
        "Five of six entries of each parent stay. Which go?",
        ("p6 of CT, p2 of SFT", "p4 of CT, p6 of SFT", "p6 of both"),
        "p6 of CT, p2 of SFT",
        "move the slider: which entry is the last to stay?",
    ),
    "elect": Guess(
        "Five kept, weight 1: which entries does SFT lose?",
        ("none", "p4", "p1 and p5", "p1, p4 and p5"),
        "p1 and p5",
        "find the smallest weight with which SFT loses nothing.",
    ),
    "merge": Guess(
        "Five kept: what is p6 of the merged τ?",
        ("0.10", "0.20", "0.30"),
        "0.30",
        "keep all six: what happens to p6?",
    ),
    "slack": Guess(
        "Which of these slacks is the smallest that wins p1 back?",
        ("0.25", "0.5", "0.75", "1"),
        "0.75",
        "move ρ up from 0: which defeat comes back first, and what does CT lose?",
    ),
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

    return _guess_first("trim", numbers)


def elect_by_hand() -> Any:
    """The election: guess what SFT loses, then change the number kept and SFT's weight."""

    def numbers(kept: int, weight: float) -> dict[str, str]:
        steps = by_hand.steps(kept, weight)
        return {"SFT loses": by_hand.names(steps.sft_lost), "CT loses": by_hand.names(steps.ct_lost)}

    return _guess_first("elect", numbers)


def merge_by_hand() -> Any:
    """The merge: guess p6, then see what trimming does to it."""

    def numbers(kept: int, lam: float) -> dict[str, str]:
        steps = by_hand.steps(kept, lam=lam)
        return {name: f"{x:.2f}" for name, x in zip(by_hand.NAMES, steps.tau, strict=True)}

    return _guess_first("merge", numbers)


def slack_by_hand() -> Any:
    """Slack: guess the smallest ρ that wins p1 back, then find it."""

    def numbers(slack: float) -> dict[str, str]:
        steps = by_hand.steps(slack=slack)
        back = {"won back": by_hand.names(steps.reserved), "SFT loses": by_hand.names(steps.sft_lost)}
        return back | {"ξ": f"{drawn.xi(steps):.2f}", "CT loses": by_hand.names(steps.ct_lost)}

    return _guess_first("slack", numbers)


def _guess_first(name: str, numbers: Callable[..., dict[str, str]]) -> Any:
    """The figure without its answer, sliders locked, until a guess is chosen; headless with it."""
    asked = GUESSES[name]

    def draw(guess: str, **state: Any) -> go.Figure:
        return FIGURES[name](**state, reveal=guess != UNSAID)

    def told(guess: str, **state: Any) -> dict[str, str]:
        if guess == UNSAID:
            return {"your guess": "none yet", "sliders": "open with your guess"}
        verdict = "right" if guess == asked.answer else f"not so: {asked.answer}"
        return {"your guess": verdict} | numbers(**state)

    said, options = asked.answer if headless() else UNSAID, [UNSAID, *asked.options]
    first, hint = Choice(asked.question, said, options, own_row=True), f"Guess first; then {asked.hint}"
    widget = explore(f"{name}-by-hand", hint, draw, {"guess": first, **CONTROLS[name]}, numbers=told)
    return _opened_by_guess(widget, CONTROLS[name]) if isinstance(widget, Explorer) else widget


def _opened_by_guess(widget: Explorer, sliders: Iterable[str]) -> Explorer:
    """A slider that moved before the guess would give the answer away."""

    def lock(_: Any = None) -> None:
        for name in sliders:
            widget.controls[name].disabled = widget.controls["guess"].value == UNSAID

    widget.controls["guess"].observe(lock, "value")
    lock()
    return widget
