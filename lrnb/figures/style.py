"""The look of the study's figures: one colour, line and marker a method, everywhere.

Okabe and Ito's palette, told apart with any kind of colour vision, and by marker where colour is
lost. Names that come from models or data are escaped before they reach a figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrnb.analysis.kinds import label, look_of
from lrnb.study.parameters import budget_name

INK, FAINT, RULE, PAPER = "#24292f", "#6a737d", "#e3e6ea", "#ffffff"
BUDGET_SHADES = ("#9ecae1", "#4292c6", "#08519c", "#041f3d")  # light to dark as CT tokens grow
DENSITY_SHADES = ("#dfc27d", "#bf812d", "#8c510a", "#543005")  # and as density grows
#: Answers, selectors, languages: what is no kind of model. Tol's muted palette.
CLASS_COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#AA4499", "#44AA99", "#8c8c8c")
#: What becomes of an entry that trimming kept: its colour, and how it is called.
OUTCOMES = {"agreed": "#8796a5", "reserved": "#7b3294", "ceded": "#c2a5cf", "discarded": "#b2182b"}
#: What the others do where the protected parent has a kept entry; the rest is in OUTCOMES.
FATES = {"alone": "#d0d4d9", "won": "#1b7837"}
OUTCOME_NAMES = {
    "agreed": "merged",
    "reserved": "won back by slack",
    "ceded": "given up to slack",
    "discarded": "discarded",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
ABOVE_LEGEND = 60  # pixels from the lower edge of the plot
MARGIN = 56  # pixels above and below the plot
ACROSS = 3  # panels side by side
BETWEEN = 76  # pixels between rows of panels: ticks and the next panel's name

BELOW_MODE_BAR = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 26}}
HATCH = {"fillmode": "overlay", "size": 10, "solidity": 0.2}
AXIS = {
    "gridcolor": RULE,
    "zeroline": False,
    "zerolinewidth": 2,
    "automargin": True,
    "title": {"font": {"size": 13}, "standoff": 15},
}
#: White, left title, thin grid, legend below the plot: what all figures share. Only what is used: plotly
#: validates it at every figure, and with all of plotly_white that takes longer than the figure.
LOOK = {
    "layout": {
        "colorway": CLASS_COLOURS,
        "autotypenumbers": "strict",
        "title": {"x": 0, "xref": "paper", "font": {"size": 15}, **BELOW_MODE_BAR},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": INK},
        "margin": {"l": 64, "r": 20, "t": MARGIN, "b": MARGIN},
        "hoverlabel": {"align": "left", "font": {"size": 13}},
        "legend": {"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"},
        "xaxis": AXIS,
        "yaxis": AXIS,
    },
    "data": {
        "bar": [{"marker": {"line": {"color": PAPER, "width": 0.5}, "pattern": HATCH}}],
        "heatmap": [{"colorbar": {"outlinewidth": 0, "ticks": ""}}],
    },
}


def blank(**plots: Any) -> go.Figure:
    """An empty figure of this look; with options of plotly's `make_subplots`, one of several plots."""
    fig = make_subplots(**plots) if plots else go.Figure()
    fig.layout.template = LOOK
    return fig


def finish(
    fig: go.Figure, title: str, x: str = "", y: str = "", height: int = 420, *, rows: bool = False
) -> go.Figure:
    """Title, axes' names (none: they stay) and height in pixels; the rest of the look is in the template.

    rows: the plot is as high as its rows need, so that the legend is placed by pixels.
    """
    fig.update_layout(height=height, title={"text": title})
    if rows:
        fig.update_layout(legend={"y": -ABOVE_LEGEND / (height - 2 * MARGIN)})
    if x:
        fig.update_xaxes(title_text=x)
    return fig.update_yaxes(title_text=y) if y else fig


def panels(names: Sequence[str], high: int, **plots: Any) -> tuple[go.Figure, list[dict[str, int]]]:
    """An empty figure of one panel a name, each `high` pixels, ACROSS side by side; row and col of each.

    Panels have one y axis, to be read at the left. Ends with `finish_panels`.
    """
    rows, cols = -(-len(names) // ACROSS), min(len(names), ACROSS)
    places = [{"row": 1 + place // ACROSS, "col": 1 + place % ACROSS} for place in range(len(names))]
    inner = rows * high + (rows - 1) * BETWEEN
    spaces = {"horizontal_spacing": 0.03, "vertical_spacing": BETWEEN / inner if rows > 1 else 0}
    there = [[{"row": r, "col": c} in places for c in range(1, cols + 1)] for r in range(1, rows + 1)]
    specs: list[list[Any]] = [[{} if one else None for one in row] for row in there]
    shared = {"subplot_titles": names, "shared_yaxes": "all", **spaces, **plots}
    fig = blank(rows=rows, cols=cols, specs=specs, **shared)
    top = MARGIN + 18 * (1 + max(name.count("<br>") for name in names))
    return fig.update_layout(height=inner + top + MARGIN + ABOVE_LEGEND, margin={"t": top}), places


def finish_panels(
    fig: go.Figure, places: Sequence[dict[str, int]], title: str, x: str, y: str = ""
) -> go.Figure:
    """Title; y's name at the left of every row, x's below the lowest panel of every column."""
    finish(fig, title, height=fig.layout.height).update_annotations(font={"size": 13})
    lowest = {place["col"]: place for place in places}
    name = "<br>".join(textwrap.wrap(x, 78 // len(lowest)))
    for where in lowest.values():
        fig.update_xaxes(title_text=name, showticklabels=True, **where)
    inner = fig.layout.height - fig.layout.margin.t - MARGIN - ABOVE_LEGEND
    fig.update_layout(legend={"y": -(ABOVE_LEGEND + 18 * name.count("<br>")) / inner})
    return fig.update_yaxes(title_text=y or None, col=1)


def colour(method: str) -> str:
    """The fixed colour of a method."""
    return look_of(method).colour


def marker_of(method: str, size: float = 9) -> dict[str, Any]:
    """The fixed marker of a method in its colour."""
    return {"symbol": look_of(method).symbol, "size": size, "color": colour(method)}


def line_of(method: str, width: float = 2) -> dict[str, Any]:
    """The fixed line of a method in its colour."""
    return {"dash": look_of(method).dash, "width": width, "color": colour(method)}


def error_bars(rows: pd.DataFrame, column: str, ink: str, width: float, cap: float = 0) -> dict[str, Any]:
    """Error bars from ci_low to ci_high around a column."""
    above, below = rows["ci_high"] - rows[column], rows[column] - rows["ci_low"]
    ends = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return {**ends, "color": ink, "thickness": width, "width": cap}


def level_line(fig: go.Figure, y: float, text: str, dash: str, anchor: str = "middle") -> None:
    """A horizontal line, named at the right of the plot; `anchor`: which edge of the name is at the line."""
    fig.add_hline(y=y, line={"color": FAINT, "width": 1.3, "dash": dash}, layer="below")
    place = {"x": 1, "xref": "paper", "xanchor": "left", "y": y, "yanchor": anchor}
    fig.update_layout(margin={"r": 70})  # the name's room
    fig.add_annotation(text=f" {text}", showarrow=False, font={"size": 11, "color": FAINT}, **place)


def positions(tokens: Iterable[float]) -> tuple[dict[int, float], list[str]]:
    """Place on a log2 axis for every token count; 0 (no CT) one step left of the smallest."""
    unique = sorted({int(t) for t in tokens})
    logs = {t: float(np.log2(t)) for t in unique if t > 0}
    step = min(np.diff(sorted(logs.values())), default=2.0)
    if 0 in unique:
        logs = {0: min(logs.values(), default=1.0) - float(step), **logs}
    return logs, [budget_name(t) if t else "0" for t in logs]


def token_axis(fig: go.Figure, tokens: pd.Series, **where: int) -> pd.Series:
    """Log axis of token counts with the budgets as ticks; returns the place of every count.

    A single count stands in the middle of a doubling either way, so that what is drawn beside it stays near.
    """
    logs, names = positions(tokens)
    if len(logs) == 1:
        (place,) = logs.values()
        fig.update_xaxes(range=[place - 1, place + 1], **where)
    fig.update_xaxes(tickvals=list(logs.values()), ticktext=names, **where)
    return tokens.astype(int).map(logs)


def counted(rows: pd.DataFrame, what: str) -> str:
    """ "n = 28,000 weights" for a title: the n of the first row."""
    return f"n = {int(rows['n'].iloc[0]) if len(rows) else 0:,} {what}"


def task_name(task: str) -> str:
    """A task as a reader sees it: mean -> "Mean of the tasks", topic_en -> "topic, English"."""
    names = {"mean": "Mean of the tasks", "mean_en": "Mean of the English tasks"}
    plain = task.removesuffix("_en").replace("_", " ") + (", English" if task.endswith("_en") else "")
    return names.get(task, escape(plain))


def model_name(model: str) -> str:
    """A model as a reader sees it: ct_then_sft@16k -> "CT-then-SFT 16k"."""
    method, _, budget = model.partition("@")
    return f"{label(method)} {escape(budget)}".strip()


def shade(place: int, of: int, shades: Sequence[str] = BUDGET_SHADES) -> str:
    """The colour of budget (or density) number `place` of `of`, light to dark."""
    last = len(shades) - 1
    return shades[min(place + (of < last), last) if of <= last else round(place * last / (of - 1))]
