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
    finish_panels,
    marker_of,
    model_name,
    panels,
    task_name,
)
from lrnb.figures.text import html_cell, html_table, text_html
from lrnb.study.parameters import budget_name

BESIDE_MARKS = 8  # pixels from a model's name to the axis, where marks stand at zero
LONGEST = 420  # characters of an example's text that are shown


def nothing(title: str, why: str) -> go.Figure:
    """An empty figure that says why it is empty."""
    fig = blank().add_annotation(text=escape(why), showarrow=False, font={"size": 14, "color": FAINT})
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return finish(fig, title, height=160)


def shares_by_model(table: pd.DataFrame, column: str, title: str, what: str) -> go.Figure:
    """Percent `column` of every model with its interval, a panel a task; the expected share as a bar, if any.

    table: of `lrnb.analysis.failures`; title: what is counted; what: the x axis. A task in which the share
    is 0 for every model has no panel, the title names it.
    """
    rows = table[table[column].notna()]
    most = rows.groupby("task", sort=False)[column].max()
    tasks, said = list(most.index[most > 0]), _none_in(most.index[most == 0])
    if not tasks:
        return nothing(title.capitalize(), said or "nothing to count here")
    rows = rows[rows["task"].isin(tasks)].assign(place=rows["model"].map(model_name))
    models = list(dict.fromkeys(rows["place"]))
    fig, places = panels([_counted_task(rows, task) for task in tasks], 30 + 18 * len(models))
    for task, where in zip(tasks, places, strict=True):
        _share_marks(fig, rows[rows["task"] == task], column, where)
    order = {"categoryorder": "array", "categoryarray": models, "range": [len(models) - 0.5, -0.5]}
    fig.update_yaxes(**order, ticklabelstandoff=BESIDE_MARKS)
    fig.update_xaxes(rangemode="tozero")
    title = f"{title.capitalize()}, 95% intervals{'. ' if said else ''}{said}"
    return finish_panels(fig, places, title, what, "model").update_layout(showlegend="expected" in rows)


def _none_in(tasks: Sequence[str]) -> str:
    return f"0% in every model: {'; '.join(map(task_name, tasks))}" if len(tasks) else ""


def _counted_task(rows: pd.DataFrame, task: str) -> str:
    n = rows.loc[rows["task"] == task, "n"]
    few, many = int(n.min()), int(n.max())
    return f"{task_name(task)}<br>n = {few if few == many else f'{few} to {many}'}"


def _share_marks(fig: go.Figure, rows: pd.DataFrame, column: str, where: dict[str, int]) -> None:
    fig.add_scatter(
        x=rows[column],
        y=rows["place"],
        mode="markers",
        error_x=error_bars(rows, column, FAINT, 1.3),
        showlegend=False,
        cliponaxis=False,
        marker={"size": 9, "color": rows["method"].map(colour)},
        customdata=rows[["n"]],
        hovertemplate="%{y}: %{x:.1f}% of n = %{customdata[0]}<extra></extra>",
        **where,
    )
    if "expected" in rows:
        mark = {"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": INK}}
        look = {"mode": "markers", "marker": mark, "name": "at random", "legendgroup": "at random"}
        first = where == {"row": 1, "col": 1}
        fig.add_scatter(x=rows["expected"], y=rows["place"], showlegend=first, **look, **where)


def shares_across_languages(table: pd.DataFrame, column: str, title: str, what: str) -> go.Figure:
    """Percent `column` by language and task, one mark a method; table: of `failures.across`."""
    title = f"Across languages: {title}"
    rows = table[table[column].notna()] if column in table else table
    if not len(rows):
        return nothing(title, "no language here has written answers")
    if not rows[column].any():
        return nothing(title, f"0% in every language and model (n = {rows['n'].sum():,} answers)")
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
    finish(fig, f"{title} (95% intervals)", what, "language, task", 150 + 110 * len(names), rows=True)
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "ticklabelstandoff": BESIDE_MARKS}
    return fig.update_yaxes(**ticks, range=[len(names) - 0.5, -0.5]).update_xaxes(rangemode="tozero")


def scores_against_kept(points: pd.DataFrame, slopes: pd.DataFrame) -> go.Figure:
    """Score against the percent of SFT's entries that the election kept, a panel a task, and the fitted line.

    points: of `failures.against_kept`; slopes: of `failures.fragility`, whose tasks are shown.
    """
    tasks = [task for task in slopes["task"] if (points["task"] == task).any()]
    title = "Scores against what the election keeps of SFT"
    if not tasks:
        return nothing(title, "no TIES merge was scored here")
    if points["ct_tokens"].nunique() == 1:
        return nothing(title, "one CT budget: nothing to hold against each other")
    names = [f"{task_name(task)}<br>{_slope_told(slopes, points, task)}" for task in tasks]
    fig, places = panels(names, 190)
    for task, where in zip(tasks, places, strict=True):
        rows = points[points["task"] == task]
        _kept_marks(fig, rows, where)
        _fitted(fig, rows, slopes[slopes["task"] == task], where)
        level = {"y": float(rows["chance"].iloc[0]), "line": {"color": FAINT, "dash": "dash", "width": 1.3}}
        fig.add_hline(**level, layer="below", **where)
    line = {"color": FAINT, "dash": "dash", "width": 1.3}
    fig.add_scatter(x=[None], y=[None], name="chance", mode="lines", line=line, row=1, col=1)
    title = f"{title} ({counted(points, 'items')}, 95% intervals; slope: points per 10%)"
    return finish_panels(fig, places, title, "SFT's trimmed entries kept (%)", "correct (%)")


def _kept_marks(fig: go.Figure, rows: pd.DataFrame, where: dict[str, int]) -> None:
    for method, own in rows.groupby("method", sort=False):
        fig.add_scatter(
            x=own["kept"],
            y=own["value"],
            error_y=error_bars(own, "value", colour(str(method)), 1.3),
            mode="markers",
            name=label(str(method)),
            legendgroup=str(method),
            showlegend=where == {"row": 1, "col": 1},
            customdata=[budget_name(int(t)) for t in own["ct_tokens"]],
            marker=marker_of(str(method), 9),
            hovertemplate="%{customdata} CT tokens, %{x:.1f}% kept: %{y:.1f}% right"
            "<extra>%{fullData.name}</extra>",
            **where,
        )


def _slope_told(slopes: pd.DataFrame, points: pd.DataFrame, task: str) -> str:
    """The slope with its interval, or that there is none."""
    own = slopes[slopes["task"] == task].iloc[0]
    if np.isnan(own["slope"]):
        budgets = points.loc[points["task"] == task, "ct_tokens"].nunique()
        return f"{budgets} budgets, too few for a slope"
    ends = "" if np.isnan(own["ci_low"]) else f" ({own['ci_low']:+.1f} to {own['ci_high']:+.1f})"
    return f"slope {own['slope']:+.1f}{ends}".replace("-", "−")


def _fitted(fig: go.Figure, rows: pd.DataFrame, slope: pd.DataFrame, where: dict[str, int]) -> None:
    own = slope.iloc[0]
    if np.isnan(own["slope"]):
        return
    x = np.array([rows["kept"].min(), rows["kept"].max()])
    y = rows["value"].mean() + own["slope"] / 10 * (x - rows["kept"].mean())
    look = {"line": {"color": INK, "width": 1.2}, "legendgroup": "fitted", "hoverinfo": "skip"}
    first = where == {"row": 1, "col": 1}
    fig.add_scatter(x=x, y=y, mode="lines", name="fitted", showlegend=first, **look, **where)


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
