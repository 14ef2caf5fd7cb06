"""Exercises of the lesson: a question, an answer that is checked, a hint after a wrong one.

Questions, answers and hints are in `lrnb/widgets/lesson.py`, so that a notebook holds no answer.
"""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import Any

from lrnb.errors import UserError, did_you_mean
from lrnb.widgets.explorer import headless, html_part
from lrnb.widgets.lesson import LESSON, Exercise

FRAME = (
    "border-left:4px solid var(--jp-brand-color1,#1976d2);padding:2px 12px;max-width:820px;line-height:1.5"
)


def exercise(key: str) -> Any:
    """The exercise `key` of the lesson as a widget; headless its question is printed, and no answer."""
    exercises = {name: one for lesson in LESSON.values() for name, one in lesson.items()}
    if key not in exercises:
        hint = did_you_mean(key, exercises) or f"; there are {', '.join(exercises)}"
        raise UserError(f"no exercise is called {key!r}{hint}")
    if headless():
        return print(_printed(exercises[key]))
    return ExerciseBox(key, exercises[key])


def _printed(one: Exercise) -> str:
    return "\n".join([f"Exercise: {one.question}", *(f"  ( ) {option}" for option in one.options)])


class ExerciseBox:
    """An exercise on the page: options or a field for a number, a button, and what is said to the answer.

    Classes in the page: `lrnb-exercise-<key>`, `lrnb-answer`, `lrnb-check`, `lrnb-verdict`. Shows
    itself as the last line of a cell.
    """

    def __init__(self, key: str, one: Exercise) -> None:
        import ipywidgets as w

        self.one = one
        self.wrong: list[str | float] = []  # what was answered wrongly, each once
        question = html_part(
            f'<div style="{FRAME}"><b>Exercise.</b> {escape(one.question)}</div>', "lrnb-question"
        )
        self.answer = choices(one.options) if one.options else w.Text(placeholder="a number", **NUMBER)
        self.answer.add_class("lrnb-answer")
        self.button = w.Button(description="Check").add_class("lrnb-check")
        self.button.on_click(lambda _: self.check())
        if not one.options:
            self.answer.observe(lambda _: self.check(), "value")  # Enter, and when the field is left
        self.verdict = html_part("", "lrnb-verdict")
        self.box = w.VBox([question, self.answer, self.button, self.verdict]).add_class(
            f"lrnb-exercise-{key}"
        )

    def check(self) -> None:
        """Say whether the answer that is there is right; after another wrong one the next hint."""
        given = self.answer.value if self.one.options else typed_number(self.answer.value)
        if given is None:
            return self._say(
                "", "Choose one first." if self.one.options else "Give a number first, such as 0.5."
            )
        if self.one.is_right(given):
            return self._say("success", f"✓ Right. {self.one.why}")
        if given not in self.wrong:
            self.wrong.append(given)
        hint = self.one.hints[min(len(self.wrong), len(self.one.hints)) - 1]
        return self._say("error", f"✗ Not so. Hint: {hint}")

    def _say(self, colour: str, text: str) -> None:
        edge = FRAME.replace("brand", colour or "warn")
        self.verdict.value = f'<div role="status" style="{edge}">{escape(text)}</div>'

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


NUMBER: dict[str, Any] = {"description": "answer", "continuous_update": False, "layout": {"width": "260px"}}


def choices(options: tuple[str, ...]) -> Any:
    """One of `options`, none at first, each as long as it is."""
    import ipywidgets as w

    return w.RadioButtons(options=options, value=None, layout={"width": "auto", "max_width": "820px"})


def typed_number(text: str) -> float | None:
    """The number that a person typed, a decimal comma included; None for anything else."""
    try:
        found = float(text.strip().rstrip("%").replace(",", ".").replace("−", "-"))
    except ValueError:
        return None
    return found if isfinite(found) else None
