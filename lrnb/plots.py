"""Figures of the study. Every function returns a plotly Figure and changes nothing.

Colours and markers are those of `lrnb.style`, the figures of merging those of `lrnb.plots_merge`;
both are names of this module too. Units stand on the axes, the number of items or weights in the
titles, and names that come from models or data are escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrnb.params import budget_name
from lrnb.plots_merge import candidates, fates, shares_by, shares_by_budget
from lrnb.stats import above_chance
from lrnb.style import (
    CLASS_COLOURS,
    FAINT,
    INK,
    MERGED,
    METHODS,
    colour,
    finish,
    label,
    level,
    task_name,
    token_axis,
)
from lrnb.trust import NOT_ABOVE

__all__ = [
    "MERGED",
    "METHODS",
    "candidates",
    "colour",
    "differences",
    "fates",
    "label",
    "predicted_classes",
    "scores_by_budget",
    "shares_by",
    "shares_by_budget",
    "training_history",
]
PLAIN = ("base", "sft")  # models that saw no CT tokens


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
    fallen: of `summary`; a point of a model that collapsed on the task, or a task of it, is crossed,
    one that is not above chance carries the ° of the tables.
    """
    rows = scores[scores["task"] == task]
    fig, crossed = go.Figure(), []
    logs = token_axis(fig, rows["ct_tokens"].fillna(0))
    width = 0.06 * min(np.diff(sorted(logs.values())), default=2.0)
    for names in (
        [m for m in METHODS if m in set(rows["method"]) and (m in PLAIN) == plain] for plain in (True, False)
    ):
        for place, method in enumerate(names):
            shift = (place - (len(names) - 1) / 2) * width
            own = rows[rows["method"] == method].sort_values("ct_tokens")
            _method_line(fig, own, logs, shift)
            _degrees(fig, own[~above_chance(own["ci_low"], own["chance"])], logs, shift)
            crossed += [
                (logs[int(r.ct_tokens)] + shift, r.value)
                for r in own.itertuples()
                if (r.model, task) in fallen
            ]
    _crosses(fig, crossed, "collapse" + (" on a task" if task.startswith("mean") else ""))
    both = bool(levels and task in levels)  # the two lines may lie close together, their names must not
    if len(rows):
        level(fig, float(rows["chance"].iloc[0]), "chance", "dash", "top" if both else "middle")
    if levels and task in levels:
        level(fig, levels[task], "majority", "dashdot", "bottom")
    n = int(rows["n"].iloc[0]) if len(rows) else 0
    name = task_name(task)
    finish(
        fig,
        f"{name}: score against CT tokens (n = {n} items, 95% intervals; {NOT_ABOVE} not above chance)",
        "CT tokens (log scale)",
        "correct (%)",
        460 if legend else 340,
    )
    return fig.update_layout(showlegend=legend, margin={"r": 70})


def _degrees(fig: go.Figure, rows: pd.DataFrame, logs: dict[int, float], shift: float) -> None:
    """The mark of a score that is not above chance, beside its point."""
    for row in rows.itertuples():
        fig.add_annotation(
            x=logs[int(row.ct_tokens)] + shift,
            y=row.value,
            text=NOT_ABOVE,
            showarrow=False,
            xshift=9,
            yshift=5,
            font={"size": 15, "color": FAINT},
        )


def _crosses(fig: go.Figure, points: Sequence[tuple[float, float]], name: str) -> None:
    """A cross over every point of a collapsed model."""
    if points:
        x, y = zip(*points, strict=True)
        mark = {"symbol": "x-thin", "size": 13, "line": {"color": INK, "width": 1.6}}
        fig.add_scatter(x=x, y=y, name=name, mode="markers", marker=mark, hoverinfo="skip")


def _method_line(fig: go.Figure, rows: pd.DataFrame, logs: dict[int, float], shift: float) -> None:
    name, ink, symbol, dash = METHODS[rows["method"].iloc[0]]
    tokens = rows["ct_tokens"].fillna(0).astype(int)
    spread = {
        "type": "data",
        "symmetric": False,
        "thickness": 1.1,
        "width": 3,
        "color": ink,
        "array": rows["ci_high"] - rows["value"],
        "arrayminus": rows["value"] - rows["ci_low"],
    }
    fig.add_scatter(
        x=[logs[t] + shift for t in tokens],
        y=rows["value"],
        error_y=spread,
        name=name,
        mode="lines+markers",
        line={"color": ink, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 9, "color": ink, "line": {"color": ink, "width": 1.5}},
        customdata=np.stack([tokens, rows["ci_low"], rows["ci_high"]], -1),
        hovertemplate=f"{name}, %{{customdata[0]:,}} CT tokens<br>%{{y:.1f}}% "
        "[%{customdata[1]:.1f}, %{customdata[2]:.1f}]<extra></extra>",
    )


def differences(table: pd.DataFrame, task: str = "mean", baseline: str = "") -> go.Figure:
    """Paired difference of every method to `baseline`, in points, with 95% intervals.

    Baseline "": CT-then-SFT, or where it is absent SFT-en. Right of zero the method is better. A full
    marker: p after Holm's correction under 0.05.
    """
    there = set(table["baseline"])
    baseline = baseline or next((b for b in ("ct_then_sft", "sft") if b in there), "ct_then_sft")
    rows = table[(table["task"] == task) & (table["baseline"] == baseline)]
    fig = go.Figure()
    order = [
        (t, m)
        for t in sorted(rows["ct_tokens"].unique())
        for m in METHODS
        if ((rows["ct_tokens"] == t) & (rows["method"] == m)).any()
    ]
    for method in [m for m in METHODS if m in set(rows["method"])]:
        _difference_marks(fig, rows[rows["method"] == method], order)
    fig.update_yaxes(
        tickvals=list(range(len(order))),
        autorange="reversed",
        ticktext=[f"{budget_name(int(t))}  {label(m)}" for t, m in order],
    )
    fig.add_vline(x=0, line={"color": INK, "width": 1})
    n = int(rows["n"].iloc[0]) if len(rows) else 0
    finish(
        fig,
        f"{task_name(task)}: difference to {label(baseline)} on the same items (n = {n} items)",
        "difference (percentage points), 95% interval",
        "",
        140 + 30 * len(order),
    )
    return fig.update_layout(showlegend=False)


def _difference_marks(fig: go.Figure, rows: pd.DataFrame, order: list[tuple[int, str]]) -> None:
    method = rows["method"].iloc[0]
    sure = rows["p_holm"] < 0.05
    fig.add_scatter(
        x=rows["difference"],
        y=[order.index((t, method)) for t in rows["ct_tokens"]],
        mode="markers",
        name=label(method),
        marker={
            "size": 10,
            "line": {"color": colour(method), "width": 2},
            "color": [colour(method) if s else "white" for s in sure],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "color": colour(method),
            "thickness": 2,
            "width": 0,
            "array": rows["ci_high"] - rows["difference"],
            "arrayminus": rows["difference"] - rows["ci_low"],
        },
        customdata=rows[["p", "p_holm"]],
        hovertemplate=f"{label(method)}: %{{x:+.1f}} points<br>p = %{{customdata[0]:.3f}}, "
        "Holm %{customdata[1]:.3f}<extra></extra>",
    )


def predicted_classes(counts: pd.DataFrame, task: str) -> go.Figure:
    """Share of the items that each model puts into each class, the gold shares as first bar.

    counts: one row per model, one column per class, whole numbers. One full colour is a collapse.
    """
    share = 100 * counts.div(counts.sum(axis=1), axis=0)
    names = [_model_name(str(name)) for name in counts.index]
    fig = go.Figure()
    for place, answer in enumerate(counts.columns):
        fig.add_bar(
            y=names,
            x=share[answer],
            orientation="h",
            name=escape(str(answer)[:28]),
            marker={
                "color": CLASS_COLOURS[place % len(CLASS_COLOURS)],
                "line": {"color": "white", "width": 1},
            },
            customdata=counts[answer],
            hovertemplate="%{y}: %{customdata} items, %{x:.0f}%<extra>%{fullData.name}</extra>",
        )
    fig.update_layout(barmode="stack")
    fig.update_yaxes(autorange="reversed")
    n = int(counts.sum(axis=1).iloc[0]) if len(counts) else 0
    finish(
        fig,
        f"{task_name(task)}: what the models answer (n = {n} items)",
        "share of the items (%)",
        "",
        150 + 24 * len(counts),
    )
    return fig.update_layout(legend={"y": -70 / (94 + 24 * len(counts)), "traceorder": "normal"})


def _model_name(model: str) -> str:
    """ct_then_sft@16k -> CT-then-SFT 16k."""
    method, _, budget = model.partition("@")
    return f"{label(method)} {escape(budget)}".strip()


def training_history(history: pd.DataFrame | str | Path, budgets: Sequence[int] = ()) -> go.Figure:
    """Training loss and held-out bits per byte against CT tokens; the budgets as thin lines.

    history: the table of ct/history.csv, or its path.
    """
    table = history if isinstance(history, pd.DataFrame) else pd.read_csv(history)
    fig = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
    lines = (
        ("loss", "training loss", "ct", 1),
        ("bits_per_byte_x", "held-out X", "average", 2),
        ("bits_per_byte_en", "held-out English", "task_arithmetic", 2),
    )
    for column, name, method, col in lines:
        if column in table and table[column].notna().any():
            seen = table.dropna(subset=[column])
            fig.add_scatter(
                x=seen["tokens"],
                y=seen[column],
                name=name,
                row=1,
                col=col,
                mode="lines" if col == 1 else "lines+markers",
                line={"color": colour(method), "width": 2},
            )
    for budget in budgets:
        fig.add_vline(x=budget, line={"color": FAINT, "width": 1, "dash": "dot"})
    last = int(table["tokens"].max()) if len(table) else 0
    finish(fig, f"Continual pre-training (n = {last:,} tokens)", "CT tokens")
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(title_text="loss (nats per token)", row=1, col=1)
    return fig.update_yaxes(title_text="bits per byte", row=1, col=2)
