"""Scores against the share of SFT's entries that a merge keeps. Tables in, plotly Figures out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.retention import SLOPE
from lrnb.analysis.retention_merges import ABLATION, DEV, EVERYTHING, GRID
from lrnb.figures.style import (
    DENSITY_SHADES,
    FAINT,
    INK,
    blank,
    colour,
    counted,
    error_bars,
    finish,
    shade,
    task_name,
)

SYMBOLS = ("circle", "diamond", "square")  # of slack, ascending


def score_by_retention(points: pd.DataFrame, slopes: pd.DataFrame, task: str) -> go.Figure:
    """Score of one task against the share of SFT's entries in a merge, with the line fitted to the grid.

    points: of `lrnb.analysis.retention_points`; slopes: of `lrnb.analysis.retention_slopes`.
    """
    own = points[points["task"] == task].assign(x=100 * points["sft_share"])
    fig = blank()
    for place, (density, rows) in enumerate(own[own["kind"] == GRID].groupby("density")):
        _grid(fig, rows, float(density), shade(place, own["density"].nunique(), DENSITY_SHADES))
    _tried(fig, own[own["kind"] == DEV])
    _left_out(fig, own[own["kind"] == ABLATION])
    row = slopes[(slopes["task"] == task) & (slopes["what"] == SLOPE)].iloc[0]
    _line(fig, own[own["kind"] == GRID], float(row["slope"]))
    fig.add_hline(y=own["chance"].iloc[0], line={"color": FAINT, "dash": "dash", "width": 1.3}, layer="below")
    told = f"{row['slope']:+.1f} points [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}] for each 10%"
    title = f"{task_name(task)}: {told} ({counted(own, 'items')}; dashed: chance)"
    return finish(fig, title, "SFT's entries in the merge (%)", "correct (%)", 430)


def _grid(fig: go.Figure, rows: pd.DataFrame, density: float, ink: str) -> None:
    slacks = {slack: SYMBOLS[min(place, 2)] for place, slack in enumerate(sorted(rows["slack"].unique()))}
    fig.add_scatter(
        x=rows["x"], y=rows["value"], mode="markers", name=f"density {density:g}",
        error_y=error_bars(rows, "value", ink, 0.8),
        marker={"color": ink, "size": 7 + 2 * np.log2(rows["weight"]), "symbol": rows["slack"].map(slacks)},
        customdata=rows[["slack", "weight", "ct_share", "on_dev"]],
        hovertemplate=f"density {density:g}, slack %{{customdata[0]:g}}, weight %{{customdata[1]:g}}: "
        "%{y:.1f}% right<br>%{x:.1f}% of SFT's entries, %{customdata[2]:.1%} of CT's<extra></extra>",
    )  # fmt: skip


def _tried(fig: go.Figure, rows: pd.DataFrame) -> None:
    if len(rows):
        inks = [
            colour("ties" if m == "ties_sv" and not s else m)
            for m, s in zip(rows["method"], rows["slack"], strict=True)
        ]
        fig.add_scatter(
            x=rows["x"], y=rows["value"], mode="markers", name="tried on dev",
            marker={"symbol": "star-open", "size": 9, "color": inks}, text=rows["merge"],
            hovertemplate="%{text}: %{y:.1f}% right<extra></extra>",
        )  # fmt: skip


def _left_out(fig: go.Figure, rows: pd.DataFrame) -> None:
    whole = {EVERYTHING: "all of SFT"}  # modules lie close together: their names show on hovering
    names = [whole.get(part, "" if part.startswith("module") else part) for part in rows["left_out"]]
    fig.add_scatter(
        x=rows["x"], y=rows["value"], mode="markers+text", name="left out of SFT", text=names,
        textposition="middle right", textfont={"size": 10, "color": FAINT},
        marker={"symbol": "x-thin", "size": 8, "line": {"color": INK, "width": 1.5}},
        customdata=rows["left_out"], hovertemplate="without %{customdata}: %{y:.1f}% right<extra></extra>",
    )  # fmt: skip


def _line(fig: go.Figure, grid: pd.DataFrame, slope: float) -> None:
    ends = np.array([grid["x"].min(), grid["x"].max()])
    y = grid["value"].mean() + slope / 10 * (ends - grid["x"].mean())
    look = {"color": INK, "width": 1.5}
    fig.add_scatter(x=ends, y=y, mode="lines", name="fitted to the grid", line=look, hoverinfo="skip")


def losses_by_part(losses: pd.DataFrame) -> go.Figure:
    """What each task loses where SFT's entries of a part are left out; rows: parts, columns: tasks.

    losses: of `lrnb.analysis.ablation_losses`. In brackets: the share of SFT's entries that the part has.
    """
    tasks, parts = list(dict.fromkeys(losses["task"])), list(dict.fromkeys(losses["left_out"]))
    wide = losses.pivot(index="left_out", columns="task", values="loss").loc[parts, tasks]
    sure = (
        losses.assign(sure=losses["p_holm"] < 0.05)
        .pivot(index="left_out", columns="task", values="sure")
        .loc[parts, tasks]
    )
    shares = losses.drop_duplicates("left_out").set_index("left_out")["share"]
    names = [f"{'all of SFT' if part == EVERYTHING else part} ({shares[part]:.1%})" for part in parts]
    text = [
        [f"{x:+.1f}{'*' if s else ''}" for x, s in zip(*rows, strict=True)]
        for rows in zip(wide.to_numpy(), sure.to_numpy(), strict=True)
    ]
    fig = blank().add_heatmap(
        z=wide.to_numpy().tolist(), x=[task_name(task) for task in tasks], y=names, text=text,
        texttemplate="%{text}", colorscale="RdBu_r", zmid=0,
        colorbar={"title": {"text": "points lost", "side": "right"}},
        hovertemplate="%{x} without %{y}: %{z:+.1f} points lost<extra></extra>",
    )  # fmt: skip
    seeds = int(losses["seeds"].max())
    title = f"Points lost without a part of SFT (n = {seeds} seed{'s' * (seeds != 1)}; * p < 0.05, Holm)"
    finish(fig, title, "task", "left out (share of SFT's entries)", 160 + 26 * len(parts))
    fig.update_xaxes(type="category", showgrid=False)
    return fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
