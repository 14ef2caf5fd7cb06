"""Figures of why answers fail, and examples of answers side by side as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import label
from lrnb.figures.style import (
    FAINT,
    INK,
    blank,
    colour,
    counted,
    error_bars,
    finish,
    level_line,
    marker_of,
    model_name,
    task_name,
)
from lrnb.figures.text import html_cell, html_table, text_html
from lrnb.study.parameters import budget_name

LONGEST = 420  # characters of an example's text that are shown


def nothing(title: str, why: str) -> go.Figure:
    """An empty figure that says why it is empty."""
    fig = blank().add_annotation(text=escape(why), showarrow=False, font={"size": 14, "color": FAINT})
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return finish(fig, title, height=160)


def shares_by_model(table: pd.DataFrame, column: str, task: str, title: str, what: str) -> go.Figure:
    """Percent `column` of every model on a task with its interval; the expected share as a bar, if any.

    table: of `lrnb.analysis.failures`; title: what is counted; what: the x axis.
    """
    rows = table[(table["task"] == task) & table[column].notna()]
    title = f"{task_name(task)}: {title}"
    if not len(rows):
        return nothing(title, "nothing to count here")
    fig, y = blank(), rows["model"].map(model_name)
    fig.add_scatter(
        x=rows[column],
        y=y,
        mode="markers",
        error_x=error_bars(rows, column, FAINT, 1.3),
        showlegend=False,
        marker={"size": 10, "color": rows["method"].map(colour)},
        customdata=rows[["n"]],
        hovertemplate="%{y}: %{x:.1f}% of n = %{customdata[0]}<extra></extra>",
    )
    if "expected" in rows:
        mark = {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": INK}}
        fig.add_scatter(x=rows["expected"], y=y, mode="markers", marker=mark, name="chance")
    fig.update_yaxes(autorange="reversed").update_xaxes(rangemode="tozero")
    few, many = int(rows["n"].min()), int(rows["n"].max())
    n = f"n = {few}" if few == many else f"n = {few} to {many}"
    finish(fig, f"{title} ({n}, 95% intervals)", what, "", 150 + 24 * len(rows), rows=True)
    return fig.update_layout(showlegend="expected" in rows)


def shares_across_languages(table: pd.DataFrame, column: str, title: str, what: str) -> go.Figure:
    """Percent `column` by language and task, one mark a method; table: of `failures.across`."""
    title = f"Across languages: {title}"
    rows = table[table[column].notna()] if column in table else table
    if not len(rows):
        return nothing(title, "no language here has written answers")
    places = rows["lang"] + ", " + rows["task"].map(task_name) + " (n = " + rows["n"].astype(str) + ")"
    at, names = pd.factorize(places)
    beside, methods = pd.factorize(rows["method"])
    rows = rows.assign(place=places, y=at + 0.7 * ((beside + 0.5) / len(methods) - 0.5))
    fig = blank()
    for method, own in rows.groupby("method", sort=False):
        fig.add_scatter(
            x=own[column],
            y=own["y"],
            error_x=error_bars(own, column, colour(str(method)), 1.3),
            mode="markers",
            name=label(str(method)),
            marker=marker_of(str(method)),
            customdata=own["place"],
            hovertemplate="%{customdata}: %{x:.1f}%<extra>%{fullData.name}</extra>",
        )
    finish(fig, f"{title} (95% intervals)", what, "", 150 + 110 * len(names), rows=True)
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(names)}
    return fig.update_yaxes(**ticks, range=[len(names) - 0.5, -0.5]).update_xaxes(rangemode="tozero")


def scores_against_kept(points: pd.DataFrame, slopes: pd.DataFrame, task: str) -> go.Figure:
    """Score of a task against the percent of SFT's entries that the election kept, and the fitted line.

    points: of `failures.against_kept`; slopes: of `failures.fragility`.
    """
    rows = points[points["task"] == task]
    if not len(rows):
        return nothing(task_name(task), "no TIES merge was scored here")
    fig = blank()
    for method, own in rows.groupby("method", sort=False):
        fig.add_scatter(
            x=own["kept"],
            y=own["value"],
            error_y=error_bars(own, "value", colour(str(method)), 1.3),
            mode="markers+text",
            name=label(str(method)),
            text=[budget_name(int(t)) for t in own["ct_tokens"]],
            textposition="top right",
            textfont={"size": 11, "color": FAINT},
            marker=marker_of(str(method), 10),
            hovertemplate="%{x:.1f}% kept: %{y:.1f}% right<extra>%{fullData.name}</extra>",
        )
    said = _fitted(fig, rows, slopes[slopes["task"] == task])
    level_line(fig, float(rows["chance"].iloc[0]), "chance", "dash")
    title = f"{task_name(task)}: {said} ({counted(rows, 'items')})"
    finish(fig, title, "SFT's trimmed entries that the election keeps (%)", "correct (%)", 360)
    return fig.update_layout(margin={"r": 70})


def _fitted(fig: go.Figure, rows: pd.DataFrame, slope: pd.DataFrame) -> str:
    """Draws the fitted line; says the slope, or that there is none."""
    if not len(slope) or np.isnan(slope["slope"].iloc[0]):
        return f"{rows['ct_tokens'].nunique()} budgets, too few for a slope"
    own = slope.iloc[0]
    x = np.array([rows["kept"].min(), rows["kept"].max()])
    y = rows["value"].mean() + own["slope"] / 10 * (x - rows["kept"].mean())
    line = {"color": INK, "width": 1.2}
    fig.add_scatter(x=x, y=y, mode="lines", line=line, name="fitted", hoverinfo="skip")
    ends = "" if np.isnan(own["ci_low"]) else f", 95% {own['ci_low']:+.1f} to {own['ci_high']:+.1f}"
    return f"{own['slope']:+.1f} points per 10% kept{ends}".replace("-", "−")


def examples_html(rows: Sequence[dict[str, Any]], lang: str = "", script: str = "") -> str:
    """Examples as an HTML table: context, right answer, the answer of each model; everything escaped.

    rows: of `failures.examples`. lang, script: of X. A note where there are no rows.
    """
    if not rows:
        return "<p><i>No such example in this study.</i></p>"
    models = list(rows[0]["answers"])
    widths = [f"width:{percent}%" for percent in (44, 16, *[40 // len(models)] * len(models))]
    titles = ["context", "right", *map(model_name, models)]
    heads = [html_cell(title, "th", width) for title, width in zip(titles, widths, strict=True)]
    return html_table([heads, *(_example(row, models, lang, script) for row in rows)])


def _example(row: dict[str, Any], models: Sequence[str], lang: str, script: str) -> list[str]:
    own = ("en", "Latin") if str(row["task"]).endswith("_en") else (lang, script)
    texts = [row["context"], row["gold"], *(row["answers"].get(model, "") for model in models)]
    marks = ["", "", *(f"<b>{'✓' if row['right'].get(model) else '✗'}</b>" for model in models)]
    shown = [text_html(text, *own, longest=LONGEST) for text in texts]
    return [html_cell(mark + text) for mark, text in zip(marks, shown, strict=True)]
