"""What a pool of seeds says, and where one run lies in it. Tables in, plotly Figures out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import KINDS, label
from lrnb.analysis.published import LARGEST_LEAD
from lrnb.figures.style import (
    AXIS,
    FAINT,
    INK,
    OUTCOMES,
    PAPER,
    blank,
    colour,
    error_bars,
    finish,
    level_line,
    line_of,
    marker_of,
    positions,
    token_axis,
)

WIDTH = 0.13  # between the methods of one budget, on the log2 axis


def pooled_leads_by_budget(rows: pd.DataFrame) -> go.Figure:
    """Lead over CT-then-SFT of every merge at each CT budget, over the seeds of a pool, and this run's.

    rows: of `lrnb.analysis.pool_answers.answer`, of one baseline. Thick bars: 95% interval over seeds and
    items; thin ones: where 95% of single runs lie; the ring: this run. Of `languages.leads_over_languages`
    the thin bars are where 95% of single languages lie.
    """
    fig, methods = blank(), [method for method in KINDS if method in set(rows["method"])]
    places = token_axis(fig, rows["ct_tokens"])
    shift = {method: (place - (len(methods) - 1) / 2) * WIDTH for place, method in enumerate(methods)}
    rows = rows.assign(x=places + rows["method"].map(shift).astype(float))
    for method in methods:
        _single_runs(fig, rows[rows["method"] == method])
        _pooled(fig, rows[rows["method"] == method])
    _this_run(fig, rows[rows["own"].notna()])
    fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below")
    seeds = int(rows["seeds"].max()) if len(rows) else 0
    name, what, one = "CT-then-SFT", f"{seeds} seed{'s' * (seeds != 1)}", "runs"
    if "languages" in rows:
        name, one = label(rows["baseline"].iloc[0]), "languages"
        what = f"{rows['languages'].max()} languages, {what}"
    title = f"Lead over {name}, n = {what}: 95% interval (thick), 95% of single {one} (thin)"
    if rows["low"].isna().all():
        title = f"Lead over {name} in this run: 95% interval of its items"
    scale = " (log scale)" if rows["ct_tokens"].nunique() > 1 else ""
    return finish(fig, title, f"CT tokens{scale}", "lead (percentage points)", 400)


def leads_and_discarded(rows: pd.DataFrame, discarded: Mapping[int, float]) -> go.Figure:
    """`pooled_leads_by_budget` beside the paper's largest lead, and below it, on the same axis, a share.

    discarded: CT tokens to the share of SFT's kept entries that the election discards, in [0, 1].
    """
    fig = pooled_leads_by_budget(rows)
    level_line(fig, LARGEST_LEAD, f"{LARGEST_LEAD}, largest lead<br> in Tao et al.", "dot")
    places, _ = positions(discarded)
    shown = [100 * discarded[tokens] for tokens in places]
    text = [f"{share:.0f}%" for share in shown]
    fig.add_scatter(
        x=[*places.values()], y=shown, yaxis="y2", text=text,
        mode="lines+markers+text", textposition="top center",
        marker={"symbol": "square", "size": 8}, line={"color": OUTCOMES["discarded"]}, cliponaxis=False,
        showlegend=False, hovertemplate="%{y:.1f}% of SFT's entries discarded<extra></extra>",
    )  # fmt: skip
    below = {"domain": [0, 0.2], "range": [0, max(shown, default=0.0) * 1.5 or 1], "nticks": 3}
    fig.update_layout(
        yaxis={"domain": [0.36, 1]}, yaxis2=AXIS | below | {"title": {"text": "SFT discarded<br>(%)"}},
        xaxis={"anchor": "y2"}, margin={"r": 96, "t": 84}, legend={"y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return fig


def _single_runs(fig: go.Figure, rows: pd.DataFrame) -> None:
    middle = (rows["low"] + rows["high"]) / 2
    ends = rows.assign(middle=middle, ci_low=rows["low"], ci_high=rows["high"])
    ink = colour(rows["method"].iloc[0])
    bars = error_bars(ends, "middle", ink, 1, cap=4)
    look = {"mode": "markers", "marker": {"size": 0.1, "color": ink}, "opacity": 0.55}
    fig.add_scatter(x=rows["x"], y=middle, error_y=bars, showlegend=False, hoverinfo="skip", **look)


def _pooled(fig: go.Figure, rows: pd.DataFrame) -> None:
    method = rows["method"].iloc[0]
    ink = colour(method)
    hover = "%{customdata[0]:,} CT tokens<br>%{y:+.1f} points [%{customdata[1]:+.1f}, %{customdata[2]:+.1f}]"
    fig.add_scatter(
        x=rows["x"],
        y=rows["difference"],
        error_y=error_bars(rows, "difference", ink, 4),
        name=label(method),
        mode="lines+markers",
        line=line_of(method, 1),
        marker=marker_of(method) | {"line": {"color": ink, "width": 1.5}},
        customdata=rows[["ct_tokens", "ci_low", "ci_high"]],
        hovertemplate=f"{label(method)}, {hover}<extra></extra>",
    )


def _this_run(fig: go.Figure, rows: pd.DataFrame) -> None:
    if len(rows):
        edge = [INK if outside else FAINT for outside in rows["outside"]]
        mark = {"symbol": "circle", "size": 9, "color": PAPER, "line": {"color": edge, "width": 2}}
        hover = "this run: %{y:+.1f} points<extra></extra>"
        fig.add_scatter(
            x=rows["x"] + 0.3 * WIDTH, y=rows["own"], name="this run", mode="markers", marker=mark,
            hovertemplate=hover,
        )  # fmt: skip
