"""Predictions: asked before the evidence, kept in the kernel, shown beside it at the end of a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from lrnb.errors import UserError, did_you_mean
from lrnb.widgets.exercises import FRAME, choices
from lrnb.widgets.explorer import headless, html_part

CELL = "text-align:left;vertical-align:top;min-width:100px;padding:4px 14px 4px 0;"
CELL += "border-bottom:1px solid rgba(128,128,128,.35)"
NONE = "no prediction"


class Predictions:
    """What was asked and predicted in one notebook.

    questions: {key: what was asked}; said: {key: what was predicted}. Both may be read and set.
    """

    def __init__(self) -> None:
        self.questions: dict[str, str] = {}
        self.said: dict[str, str] = {}

    def ask(self, key: str, question: str, options: Sequence[str]) -> Any:
        """Buttons for a prediction, which may be changed; headless the question is printed."""
        self.questions[key] = question
        if headless():
            return print("\n".join([f"Predict: {question}", *(f"  ( ) {option}" for option in options)]))
        return self._asked(key, question, tuple(options))

    def _asked(self, key: str, question: str, options: tuple[str, ...]) -> Any:
        import ipywidgets as w

        buttons = choices(options).add_class(f"lrnb-predict-{key}")
        buttons.value = self.said.get(key) if self.said.get(key) in options else None
        buttons.observe(lambda change: self.said.update({key: change["new"]}), "value")
        asked = html_part(f'<div style="{FRAME}"><b>Predict.</b> {escape(question)}</div>', "lrnb-question")
        return w.VBox([asked, buttons])

    def beside(self, **found: str) -> Any:
        """A table: what was asked, what was predicted, and what was found; a row a key of `found`."""
        from IPython.display import HTML

        for key in found.keys() - self.questions.keys():
            raise UserError(
                f"nothing was asked as {key!r}{did_you_mean(key, self.questions)}: run the cells above"
            )
        rows = [("asked", "you predicted", "what was found")]
        rows += [(self.questions[key], self.said.get(key, NONE), str(value)) for key, value in found.items()]
        return HTML(
            f'<table class="lrnb-predictions" style="max-width:960px">{"".join(map(_row, rows))}</table>'
        )


def _row(cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f'<td style="{CELL}">{escape(cell)}</td>' for cell in cells) + "</tr>"
