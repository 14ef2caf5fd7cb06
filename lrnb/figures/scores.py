"""Figures of scores, of what models answer, and of training. Tables in, plotly Figures out.

Units stand on the axes, the number of items in the titles, and names that come from models or data are
escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.comparisons import ITEMS_ONLY
from lrnb.analysis.english import fronts
from lrnb.analysis.kinds import kind_and_rows, label, ordered
from lrnb.analysis.trust import NOT_ABOVE
from lrnb.figures.style import (
    CLASS_COLOURS,
    FAINT,
    INK,
    PAPER,
    blank,
    colour,
    counted,
    error_bars,
    finish,
    finish_panels,
    level_line,
    line_of,
    marker_of,
    model_name,
    panels,
    task_name,
    token_axis,
)
from lrnb.statistics import above_chance
from lrnb.study.parameters import budget_name

PLAIN = ("base", "sft")  # kinds of models that saw no CT tokens


def scores_by_budget(
    scores: pd.DataFrame,
    task: str = "mean",
    *,
    levels: Mapping[str, float] | None = None,
    fallen: Collection[tuple[str, str]] = (),
    legend: bool = True,
) -> go.Figure:
    """Score in percent of every method against CT tokens, 95% intervals, chance and majority.

    `scores` has the columns of scores.csv; base and SFT-en saw no CT tokens and stand at 0. levels,
    fallen: of `lrnb.analysis.results`; a point of a model that collapsed on the task, or a task of it, is
    crossed, one that is not above chance carries the ° of the tables.
    """
    rows, fig = scores[scores["task"] == task].fillna({"ct_tokens": 0}), blank()
    rows = rows.assign(x=_beside(rows, token_axis(fig, rows["ct_tokens"])))
    for method in sorted(_methods(rows), key=lambda method: not _is_plain(method)):
        _method_line(fig, rows[rows["method"] == method].sort_values("ct_tokens"))
    _degrees(fig, rows[~above_chance(rows["ci_low"], rows["chance"])])
    crossed = rows[[(model, task) in fallen for model in rows["model"]]]
    _crosses(fig, crossed, "collapse" + (" on a task" if task.startswith("mean") else ""))
    both = bool(levels and task in levels)  # the two lines may lie close together, their names must not
    if len(rows):
        level_line(fig, float(rows["chance"].iloc[0]), "chance", "dash", "top" if both else "middle")
    if levels and task in levels:
        level_line(fig, levels[task], "majority", "dashdot", "bottom")
    said = f"{counted(rows, 'items')}, 95% intervals, items only; {NOT_ABOVE} not above chance"
    title = f"{task_name(task)}: score against CT tokens ({said})"
    finish(fig, title, "CT tokens (log scale)", "correct (%)", 460 if legend else 340)
    return fig.update_layout(showlegend=legend)


def _methods(rows: pd.DataFrame) -> list[str]:
    """The methods that are there, in the order of every table and legend."""
    return ordered(rows["method"])


def _is_plain(method: str) -> bool:
    return kind_and_rows(method)[0] in PLAIN


def _beside(rows: pd.DataFrame, places: pd.Series) -> pd.Series:
    """`places` moved a little for every method, so that the points of one budget lie side by side."""
    width = 0.06 * min(np.diff(sorted(set(places))), default=2.0)
    shift: dict[str, float] = {}
    for plain in (True, False):
        names = [method for method in _methods(rows) if _is_plain(method) == plain]
        shift |= {name: (place - (len(names) - 1) / 2) * width for place, name in enumerate(names)}
    return places + rows["method"].map(shift).astype(float)


def _method_line(fig: go.Figure, rows: pd.DataFrame) -> None:
    method = rows["method"].iloc[0]
    ink = colour(method)
    hover = "%{customdata[0]:,} CT tokens<br>%{y:.1f}% [%{customdata[1]:.1f}, %{customdata[2]:.1f}]"
    fig.add_scatter(
        x=rows["x"],
        y=rows["value"],
        error_y=error_bars(rows, "value", ink, 1.1, cap=3),
        name=label(method),
        mode="lines+markers",
        line=line_of(method),
        marker=marker_of(method) | {"line": {"color": ink, "width": 1.5}},
        customdata=rows[["ct_tokens", "ci_low", "ci_high"]],
        hovertemplate=f"{label(method)}, {hover}<extra></extra>",
    )


def _degrees(fig: go.Figure, rows: pd.DataFrame) -> None:
    """The mark of a score that is not above chance, beside its point."""
    look = {"showarrow": False, "xshift": 9, "yshift": 5, "font": {"size": 15, "color": FAINT}}
    for x, y in zip(rows["x"], rows["value"], strict=True):
        fig.add_annotation(x=x, y=y, text=NOT_ABOVE, **look)


def _crosses(fig: go.Figure, rows: pd.DataFrame, name: str) -> None:
    """A cross over every point of a collapsed model."""
    if len(rows):
        mark = {"symbol": "x-thin", "size": 13, "line": {"color": INK, "width": 1.6}}
        fig.add_scatter(
            x=rows["x"], y=rows["value"], name=name, mode="markers", marker=mark, hoverinfo="skip"
        )


def differences_to_baseline(table: pd.DataFrame, task: str = "mean", baseline: str = "") -> go.Figure:
    """Paired difference of every method to `baseline`, in points, with 95% intervals.

    Baseline "": CT-then-SFT, or where it is absent SFT-en. Right of zero the method is better. A full
    marker: p after Holm's correction under 0.05.
    """
    there = set(table["baseline"])
    baseline = baseline or next((b for b in ("ct_then_sft", "sft") if b in there), "ct_then_sft")
    rows = table[(table["task"] == task) & (table["baseline"] == baseline)]
    rows = rows.sort_values("method", key=lambda names: names.map(_methods(rows).index), kind="stable")
    rows = rows.sort_values("ct_tokens", kind="stable").assign(place=range(len(rows)))
    fig = blank()
    for method in _methods(rows):
        _difference_marks(fig, rows[rows["method"] == method])
    fig.add_vline(x=0, line={"color": INK, "width": 1})
    title = f"{task_name(task)}: difference to {label(baseline)} on the same items ({counted(rows, 'items')})"
    noise = " or ".join(dict.fromkeys(rows["noise"])) if "noise" in rows else ITEMS_ONLY
    finish(
        fig,
        title,
        f"difference (percentage points), 95% interval, {noise}",
        "CT tokens, merge",
        140 + 30 * len(rows),
    )
    names = [f"{budget_name(int(t))}  {label(m)}" for t, m in rows[["ct_tokens", "method"]].to_numpy()]
    fig.update_yaxes(tickvals=rows["place"].tolist(), ticktext=names, autorange="reversed")
    return fig.update_layout(showlegend=False)


def _difference_marks(fig: go.Figure, rows: pd.DataFrame) -> None:
    method = rows["method"].iloc[0]
    ink, hover = colour(method), "%{x:+.1f} points<br>p = %{customdata[0]:.3f}, Holm %{customdata[1]:.3f}"
    fills = [ink if sure else PAPER for sure in rows["p_holm"] < 0.05]
    fig.add_scatter(
        x=rows["difference"],
        y=rows["place"],
        mode="markers",
        name=label(method),
        marker={"size": 10, "line": {"color": ink, "width": 2}, "color": fills},
        error_x=error_bars(rows, "difference", ink, 2),
        customdata=rows[["p", "p_holm"]],
        hovertemplate=f"{label(method)}: {hover}<extra></extra>",
    )


def front(table: pd.DataFrame) -> go.Figure:
    """Mean in X against mean in English, a plot a CT budget, a marker an arm, 95% intervals, chance, front.

    table: of `lrnb.analysis.english.in_both`. Models that saw no CT tokens stand in every plot. The dotted
    line is the front: left of it and below it a model is beaten in one language, and not better in the other.
    """
    found = fronts(table)
    names = [f"{budget_name(budget)} CT tokens" if budget else "no CT" for budget in found]
    fig, places = panels(names or ["no CT"], 270, shared_xaxes="all")
    for where, (budget, ahead) in zip(places, found.items(), strict=False):
        there = table[table["ct_tokens"].isin([0, budget])]
        _front_line(fig, ahead, table, where, first=where == places[0])
        for method in _methods(there):
            new = method not in {trace.legendgroup for trace in fig.data}
            _arm(fig, there[there["method"] == method], where, first=new)
    items = f"n = {table['n'].max():,} and {table['n_en'].max():,} items, 95% intervals" if len(table) else ""
    fig.update_xaxes(range=_room(table, "_en")).update_yaxes(range=_room(table, ""))
    title = f"X against English at each CT budget ({items})"
    return finish_panels(fig, places, title, "correct in English (%)", "correct in X (%)")


def _room(table: pd.DataFrame, which: str) -> list[float]:
    """From the lowest to the highest end of an interval, chance included."""
    low = table[[f"ci_low{which}", f"chance{which}"]].min(axis=None)
    return [low - 2, table[f"ci_high{which}"].max() + 2]


def _front_line(
    fig: go.Figure, rows: pd.DataFrame, table: pd.DataFrame, where: dict[str, int], first: bool
) -> None:
    """A step a model, from the plot's left edge down to its lower one; and both chance levels."""
    left, low = table["ci_low_en"].min(), table["ci_low"].min()
    x = [left, *rows["value_en"], rows["value_en"].iloc[-1]]
    y = [rows["value"].iloc[0], *rows["value"], low]
    look: dict[str, Any] = {"color": FAINT, "width": 1.3, "dash": "dash"}
    place = where | {"layer": "below", "exclude_empty_subplots": False}
    fig.add_hline(y=table["chance"].iloc[0], line=look, **place)
    fig.add_vline(x=table["chance_en"].iloc[0], line=look, **place)
    if first:  # a line that is named in the legend
        fig.add_scatter(x=[None], y=[None], name="chance", mode="lines", line=look, **where)
    line = {"color": INK, "width": 1.5, "dash": "dot", "shape": "vh"}
    look = {"mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": first}
    fig.add_scatter(x=x, y=y, name="front", legendgroup="front", **look, **where)


def _arm(fig: go.Figure, rows: pd.DataFrame, where: dict[str, int], first: bool) -> None:
    method, one = rows["method"].iloc[0], rows.iloc[0]
    ink = colour(method)
    hover = f"X %{{y:.1f}}% [{one['ci_low']:.1f}, {one['ci_high']:.1f}]<br>"
    hover += f"English %{{x:.1f}}% [{one['ci_low_en']:.1f}, {one['ci_high_en']:.1f}]"
    english = rows[["value_en", "ci_low_en", "ci_high_en"]].rename(columns=lambda c: c.removesuffix("_en"))
    fig.add_scatter(
        x=rows["value_en"],
        y=rows["value"],
        error_x=error_bars(english, "value", ink, 0.7),
        error_y=error_bars(rows, "value", ink, 0.7),
        name=label(method),
        legendgroup=method,
        showlegend=first,
        mode="markers",
        marker=marker_of(method, 11) | {"line": {"color": ink, "width": 1.5}},
        hovertemplate=f"{model_name(one['model'])}<br>{hover}<extra></extra>",
        **where,
    )


def predicted_classes(counts: pd.DataFrame, task: str) -> go.Figure:
    """Share of the items that each model puts into each class, the gold shares as first bar.

    counts: one row per model, one column per class, whole numbers. One full colour is a collapse.
    """
    totals, fig = counts.sum(axis=1), blank()
    for place, answer in enumerate(counts.columns):
        ink = CLASS_COLOURS[place % len(CLASS_COLOURS)]
        fig.add_bar(
            y=[model_name(str(name)) for name in counts.index],
            x=100 * counts[answer] / totals,
            orientation="h",
            name=escape(str(answer)[:28]),
            marker={"color": ink, "line": {"color": PAPER, "width": 1}},
            customdata=counts[answer],
            hovertemplate="%{y}: %{customdata} items, %{x:.0f}%<extra>%{fullData.name}</extra>",
        )
    fig.update_yaxes(autorange="reversed")
    title = f"{task_name(task)}: what the models answer ({counted(totals.to_frame('n'), 'items')})"
    finish(fig, title, "share of the items (%)", "model", 150 + 24 * len(counts), rows=True)
    return fig.update_layout(barmode="stack", legend={"traceorder": "normal"})


def training_history(history: pd.DataFrame, budgets: Sequence[int] = ()) -> go.Figure:
    """Training loss and held-out bits per byte against CT tokens; the budgets as thin lines.

    history: the table of ct/history.csv.
    """
    fig = blank(rows=1, cols=2, horizontal_spacing=0.14)
    lines = (
        ("loss", "training loss", "solid", 1),
        ("bits_per_byte_x", "held-out X", "solid", 2),
        ("bits_per_byte_en", "held-out English", "dot", 2),
    )
    for column, name, dash, col in lines:
        if column in history and history[column].notna().any():
            seen = history.dropna(subset=[column])
            look = {"mode": "lines" if col == 1 else "lines+markers", "row": 1, "col": col}
            ink = {"color": colour("ct"), "width": 2, "dash": dash}
            fig.add_scatter(x=seen["tokens"], y=seen[column], name=name, line=ink, cliponaxis=False, **look)
    for budget in budgets:
        fig.add_vline(x=budget, line={"color": FAINT, "width": 1, "dash": "dot"})
    last = int(history["tokens"].max()) if len(history) else 0
    finish(fig, f"Continual pre-training (n = {last:,} tokens)", "CT tokens")
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(title_text="loss (nats per token)", row=1, col=1)
    return fig.update_yaxes(title_text="bits per byte", row=1, col=2)
