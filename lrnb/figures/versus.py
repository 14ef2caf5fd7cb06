"""Differences between models, task by task, whatever they are. Tables in, plotly Figures out."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from lrnb.figures.style import CLASS_COLOURS, INK, PAPER, blank, counted, error_bars, finish, task_name

MEANS = ("mean", "mean_en")


def versus_by_task(table: pd.DataFrame) -> go.Figure:
    """Difference to the baseline in points, with 95% intervals: a row a task, means first, a colour a model.

    table: of `lrnb.analysis.versus`. Right of zero the model is better. A full marker: p after Holm's
    correction under 0.05. Names come from outside and are escaped.
    """
    first = table["task"].isin(MEANS)
    rows = pd.concat([table[first], table[~first]])
    named = zip(rows["of"].map(escape), rows["task"].map(task_name), strict=True)
    names = [f"{of}  {task}".strip() for of, task in named]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    rows, models = rows.assign(place=[places[name] for name in names]), list(dict.fromkeys(rows["model"]))
    fig = blank()
    for number, model in enumerate(models):
        shift = 0.5 * ((number + 0.5) / len(models) - 0.5)
        _model_marks(fig, rows[rows["model"] == model], shift, CLASS_COLOURS[number % len(CLASS_COLOURS)])
    fig.add_vline(x=0, line={"color": INK, "width": 1})
    title = f"Difference to {escape(str(rows['baseline'].iloc[0]))} ({counted(rows, 'documents')})"
    noise = " or ".join(dict.fromkeys(rows["noise"]))
    what = f"difference (percentage points), 95% interval, {escape(noise)}"
    finish(fig, title, what, "task", 150 + (14 + 12 * len(models)) * len(places), rows=True)
    return fig.update_yaxes(tickvals=list(places.values()), ticktext=list(places), autorange="reversed")


def _model_marks(fig: go.Figure, rows: pd.DataFrame, shift: float, ink: str) -> None:
    fig.add_scatter(
        x=rows["difference"],
        y=rows["place"] + shift,
        mode="markers",
        name=escape(str(rows["model"].iloc[0])),
        showlegend=True,
        marker={
            "size": 9,
            "line": {"color": ink, "width": 2},
            "color": [ink if sure else PAPER for sure in rows["p_holm"] < 0.05],
        },
        error_x=error_bars(rows, "difference", ink, 2),
        customdata=rows[["p", "p_holm", "n"]],
        hovertemplate="%{x:+.1f} points, n = %{customdata[2]}<br>p = %{customdata[0]:.3f}, "
        "Holm %{customdata[1]:.3f}<extra>%{fullData.name}</extra>",
    )
