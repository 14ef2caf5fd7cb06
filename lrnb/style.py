"""The look of the study's figures: one colour, line and marker a method, everywhere.

Okabe and Ito's palette, told apart with any kind of colour vision, and by marker where colour is
lost. Names that come from models or data are escaped before they reach a figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import NotebookRenderer

from lrnb.params import budget_name

#: method -> (label, colour, marker, dash), in the order of every table and legend.
METHODS: dict[str, tuple[str, str, str, str]] = {
    "base": ("base", "#8c8c8c", "circle-open", "dot"),
    "ct": ("CT", "#E69F00", "square-open", "dot"),
    "sft": ("SFT-en", "#56B4E9", "diamond-open", "dot"),
    "ct_then_sft": ("CT-then-SFT", "#222222", "circle", "solid"),
    "average": ("average", "#0072B2", "square", "solid"),
    "task_arithmetic": ("task arithmetic", "#009E73", "diamond", "solid"),
    "ties": ("TIES", "#D55E00", "triangle-up", "solid"),
    "ties_sv": ("TIES-SV", "#CC79A7", "triangle-down", "solid"),
}
MERGED = ("average", "task_arithmetic", "ties", "ties_sv")
INK, FAINT, RULE = "#24292f", "#6a737d", "#e3e6ea"
OUTCOMES = {"agreed": "#0072B2", "reserved": "#CC79A7", "discarded": "#D55E00"}
BUDGET_SHADES = ("#9ecae1", "#4292c6", "#08519c", "#041f3d")  # light to dark as CT tokens grow
CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8c8c8c")


class Offline(NotebookRenderer):
    """plotly.js once in a notebook and a figure in each output, as plotly has it, but without asking a
    server for MathJax at every figure: an export opens without a network."""

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        options: dict[str, Any] = {"include_plotlyjs": False, "include_mathjax": False, "full_html": False}
        return {"text/html": pio.to_html(fig_dict, config=self.config, validate=False, **options)}


pio.renderers["notebook"] = Offline()
if "notebook" in (pio.renderers.default or "").split("+"):  # plotly looked the name up before
    pio.renderers.default = pio.renderers.default


def label(method: str) -> str:
    """The name of a method as a reader sees it; an unknown one is escaped and kept."""
    return METHODS[method][0] if method in METHODS else escape(str(method))


def colour(method: str) -> str:
    """The fixed colour of a method; dark grey for an unknown one."""
    return METHODS[method][1] if method in METHODS else INK


def _look() -> go.layout.Template:
    """White, left title, thin grid, legend below the plot: what all figures share."""
    look = go.layout.Template(pio.templates["plotly_white"])
    axis = {"gridcolor": RULE, "zeroline": False, "automargin": True, "title": {"font": {"size": 13}}}
    sans = "system-ui, -apple-system, 'Segoe UI', sans-serif"
    look.layout.update(
        colorway=list(CLASS_COLOURS),
        title={"x": 0, "xref": "paper", "font": {"size": 15}},
        font={"family": sans, "size": 13, "color": INK},
        margin={"l": 64, "r": 20, "t": 56, "b": 56},
        hoverlabel={"font": {"size": 13}},
        legend={"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"},
        xaxis=axis,
        yaxis=axis,
    )
    return look


# A template that new figures get by default: set at each figure anew it would take longer than the rest.
pio.templates["lrnb"] = _look()
pio.templates.default = "lrnb"


def finish(fig: go.Figure, title: str, x: str = "", y: str = "", height: int = 420) -> go.Figure:
    """Title, axes' names and height; the rest of the look is in the template."""
    fig.update_layout(height=height, title={"text": title})
    fig.update_xaxes(title_text=x or None)
    fig.update_yaxes(title_text=y or None)
    return fig


def level(fig: go.Figure, y: float, text: str, dash: str, anchor: str = "middle") -> None:
    """A horizontal line, named at the right of the plot; `anchor`: which edge of the name is at the line."""
    fig.add_hline(y=y, line={"color": FAINT, "width": 1.3, "dash": dash}, layer="below")
    fig.add_annotation(
        x=1,
        xref="paper",
        xanchor="left",
        y=y,
        yanchor=anchor,
        text=f" {text}",
        showarrow=False,
        font={"size": 11, "color": FAINT},
    )


def positions(tokens: Iterable[float]) -> tuple[dict[int, float], list[str]]:
    """Place on a log2 axis for every token count; 0 (no CT) one step left of the smallest."""
    unique = sorted({int(t) for t in tokens})
    logs = {t: float(np.log2(t)) for t in unique if t > 0}
    step = min(np.diff(sorted(logs.values())), default=2.0)
    if 0 in unique:
        logs = {0: min(logs.values(), default=1.0) - float(step), **logs}
    return logs, [budget_name(t) if t else "0" for t in logs]


def token_axis(fig: go.Figure, tokens: Iterable[float], **where: int) -> dict[int, float]:
    """Log axis of token counts with the budgets as ticks; returns the place of every count."""
    logs, names = positions(tokens)
    fig.update_xaxes(tickvals=list(logs.values()), ticktext=names, **where)
    return logs


def task_name(task: str) -> str:
    """A task as a reader sees it: mean -> "Mean of the tasks", topic_en -> "topic, English"."""
    names = {"mean": "Mean of the tasks", "mean_en": "Mean of the English tasks"}
    plain = task.removesuffix("_en").replace("_", " ") + (", English" if task.endswith("_en") else "")
    return names.get(task, escape(plain))


def shade(place: int, of: int) -> str:
    """The colour of budget number `place` of `of`, light to dark."""
    last = len(BUDGET_SHADES) - 1
    return BUDGET_SHADES[min(place + (of < last), last) if of <= last else round(place * last / (of - 1))]
