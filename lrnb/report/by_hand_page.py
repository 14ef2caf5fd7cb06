"""docs/ties-by-hand.html: the lesson on six numbers as one page with its own script, for any website.

It needs no kernel and asks for nothing. `make by-hand` writes it: numbers, questions and sliders are those of
the notebook, colours those of the figures. The page's own function `steps` is `by_hand.steps` once more; a
test compares the two in a browser at every place of the sliders.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lrnb.figures.style import OUTCOMES, colour
from lrnb.merging import by_hand
from lrnb.widgets.by_hand import CONTROLS, GUESSES
from lrnb.widgets.explorer import Slider

TEMPLATE = "by_hand.html.jinja"
TOGETHER = "together"  # the section with all sliders, after the four steps


def by_hand_page() -> str:
    """The page as HTML: the same bytes for the same numbers."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    numbers = {
        "names": by_hand.NAMES,
        "base": by_hand.BASE.tolist(),
        "ct": by_hand.TAU_CT.tolist(),
        "sft": by_hand.TAU_SFT.tolist(),
    }
    guesses = {step: asdict(guess) for step, guess in GUESSES.items()}
    colours = {"ct": colour("ct"), "sft": colour("sft"), "reserved": OUTCOMES["reserved"]}
    return environment.get_template(TEMPLATE).render(
        numbers=numbers, guesses=guesses, controls=_controls(), colours=colours
    )


def _controls() -> dict[str, dict[str, Slider]]:
    """The sliders of every section; in the last one all of them."""
    every = {key: slider for sliders in CONTROLS.values() for key, slider in sliders.items()}
    return CONTROLS | {TOGETHER: every}


if __name__ == "__main__":
    sys.stdout.write(by_hand_page())
