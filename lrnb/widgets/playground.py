"""MergePlayground: sliders over a merge that is made again at once, its answers beside its parents'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lrnb.analysis.kinds import label
from lrnb.errors import UserError
from lrnb.figures.answers import answers_table, option_shares
from lrnb.merging.methods import METHODS
from lrnb.merging.registry import Option
from lrnb.study.parameters import budget_name
from lrnb.tuning.live_merge import Playground, Prompt, sliders
from lrnb.widgets.explorer import Choice, Explorer, Slider, explore, headless, html_part

HINT = (
    "Try: slack from 0 to 1: does the merge come nearer to what SFT answers? Then the same at the smallest "
    "CT budget: what is left to win back there?"
)


@dataclass(frozen=True)
class Menu(Choice):
    """One of `options`, as a list that opens."""

    def build(self, w: Any) -> Any:
        style = {"description_width": "auto"}
        wide = w.Layout(width="100%")
        return w.Dropdown(
            options=list(self.options), value=self.value, description=self.label, style=style, layout=wide
        )


@dataclass(frozen=True)
class Words:
    """A text of several lines; it counts when the cursor leaves the box."""

    label: str
    value: str = ""
    placeholder: str = ""
    rows: int = 2

    def build(self, w: Any) -> Any:
        look = {"description": self.label, "style": {"description_width": "auto"}, "rows": self.rows}
        look |= {"placeholder": self.placeholder, "layout": w.Layout(width="46%")}
        return w.Textarea(self.value, continuous_update=False, **look)


def merge_playground(
    bench: Playground, prompts: Sequence[Prompt], method: str = "ties_sv", **start: float
) -> Any:
    """Prompt, CT budget, method and sliders over the answers of the study's models and the merge.

    prompts: of `bench.prompts`. start: options to begin with, such as density=0.5. Headless: the figure.
    """
    if not prompts:
        raise UserError("merge_playground: no prompts. Give a list, such as bench.prompts()")
    study = bench.study
    table = None if headless() else html_part("", "lrnb-table")

    def draw(item: int, text: str, options: str, budget: int, method: str, **values: float) -> go.Figure:
        prompt = own_prompt(text, options) if text.strip() else prompts[item]
        bench.at(budget)
        bench.merge(method, **{name: values[name] for name in sliders(method)})
        answers = bench.answers(prompt)
        if table is not None:
            table.value = answers_table(answers, prompt, study.lang, study.script, bench.gloss)
        return option_shares(answers, prompt, study.script, bench.gloss)

    controls = {
        "item": Menu("prompt", 0, [(_line(prompt), i) for i, prompt in enumerate(prompts)]),
        "text": Words("own prompt", placeholder="empty: the prompt chosen above"),
        "options": Words("its options", placeholder="one a line; empty: only texts"),
        "budget": Choice("CT tokens", bench.budget, [(budget_name(b), b) for b in study.ct_budgets]),
        "method": Choice("method", method, [(label(name), name) for name in METHODS]),
        **{
            name: Slider(spec.label or name, start.get(name, spec.start), *spec.slide)
            for name, spec in _all_sliders().items()
        },
    }
    widget = explore(
        "merge-playground",
        HINT,
        draw,
        controls,
        numbers=lambda **_: bench.numbers(),
        below=() if table is None else (table,),
    )
    return _only_its_sliders(widget) if isinstance(widget, Explorer) else widget


def _all_sliders() -> dict[str, Option]:
    return {name: spec for method in METHODS for name, spec in sliders(method).items()}


def own_prompt(text: str, options: str) -> Prompt:
    """A prompt of one's own; `options` one a line. UserError for a single option."""
    lines = tuple(line.strip() for line in options.splitlines() if line.strip())
    if len(lines) == 1:
        raise UserError("its options: there is only one. Give two or more, one a line, or none")
    return Prompt(text, lines)


def _line(prompt: Prompt) -> str:
    """A prompt in one line of the list: its task, and how it ends."""
    words = " ".join(prompt.text.split())
    return f"{prompt.name}: {'…' if len(words) > 90 else ''}{words[-90:]}"


def _only_its_sliders(widget: Explorer) -> Explorer:
    """A method shows the sliders that it has."""

    def show(_: Any = None) -> None:
        for name in _all_sliders():
            there = name in sliders(widget.controls["method"].value)
            widget.controls[name].layout.display = None if there else "none"

    widget.controls["method"].observe(show, "value")
    show()
    return widget
