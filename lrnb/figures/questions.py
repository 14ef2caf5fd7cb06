"""The paper's open questions 1 and 4 over a pool of seeds. Tables in, plotly Figures out."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.question_merges import Asked, shown_name
from lrnb.figures.style import (
    CLASS_COLOURS,
    DASHES,
    INK,
    blank,
    colour,
    error_bars,
    finish,
    line_of,
    marker_of,
    token_axis,
)
from lrnb.study.parameters import budget_name

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
APART = 0.007  # between the selectors' error bars, on the axis of shares
EVENED_DASH = {"none": "solid", "norm": "dash", "share": "dot"}


def selectors_by_share(points: pd.DataFrame) -> go.Figure:
    """Score in X against the share won back, one line a selector; a row a density, a column a CT budget.

    points: of `lrnb.analysis.questions.selector_points`. Zero is the score without slack. Bars: 95% over
    seeds and items.
    """
    densities, budgets = sorted(points["density"].unique()), sorted(points["ct_tokens"].unique())
    titles = [_title(points, d, b) for d in densities for b in budgets]
    fig = blank(rows=len(densities), cols=len(budgets), subplot_titles=titles, shared_xaxes=True,
        shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.1)  # fmt: skip
    for row, density in enumerate(densities, 1):
        for col, budget in enumerate(budgets, 1):
            own = points[(points["density"] == density) & (points["ct_tokens"] == budget)]
            for place, (selector, rows) in enumerate(own.groupby("selector", sort=False)):
                _selector(fig, str(selector), rows, place, row, col)
            fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below", row=row, col=col)
    title = (
        f"Score in X by the share of lost entries won back, minus no slack; n = {_seeds(points)} seeds, 95%"
    )
    fig = finish(fig, title, height=220 + 230 * len(densities))
    fig.update_annotations(font={"size": 12})
    fig.update_xaxes(title_text="share won back", row=len(densities))
    return fig.update_yaxes(title_text="points", col=1).update_layout(legend={"y": -0.16}, margin={"t": 84})


def _title(points: pd.DataFrame, density: float, budget: int) -> str:
    own = points[(points["density"] == density) & (points["ct_tokens"] == budget)]
    return f"density {density:g}, {budget_name(int(budget))} CT tokens (no slack {own['start'].iloc[0]:.1f})"


def _selector(fig: go.Figure, name: str, rows: pd.DataFrame, place: int, row: int, col: int) -> None:
    ink, middle = CLASS_COLOURS[place], (len(SYMBOLS) - 1) / 2
    between = ~rows["share"].isin([0, 1])
    look = {"line": {"color": ink, "dash": DASHES[place], "width": 1.6},
            "marker": {"color": ink, "symbol": SYMBOLS[place], "size": 6}}  # fmt: skip
    hover = "%{y:+.1f} points [%{customdata[0]:+.1f}, %{customdata[1]:+.1f}]<br>%{customdata[2]:,} entries, "
    fig.add_scatter(
        x=rows["share"] + APART * (place - middle) * between, y=rows["difference"], name=name,
        mode="lines+markers",
        error_y=error_bars(rows, "difference", ink, 1), legendgroup=name, showlegend=row == col == 1,
        customdata=rows[["ci_low", "ci_high", "reserved", "ceded_share"]], row=row, col=col,
        hovertemplate=f"{name}, {hover}%{{customdata[3]:.2f}}% of CT's mass given up<extra></extra>", **look,
    )  # fmt: skip


def discarded_by_evening(points: pd.DataFrame) -> go.Figure:
    """SFT's discarded share along CT tokens, by how weights are evened out; bars: 95% over seeds.

    points: of `lrnb.analysis.questions.discarded_points`.
    """
    fig = blank()
    points = points.assign(x=token_axis(fig, points["ct_tokens"]))
    for place, (how, rows) in enumerate(points.groupby("how", sort=False)):
        name = "weights as they are" if how == "none" else f"evened by {how}"
        ink = colour("ties")
        fig.add_scatter(
            x=rows["x"], y=rows["difference"], name=name,
        mode="lines+markers",
            error_y=error_bars(rows, "difference", ink, 1.5), 
            line={"color": ink, "dash": EVENED_DASH[str(how)]},
            marker={"color": ink, "symbol": SYMBOLS[place], "size": 8},
            hovertemplate=f"{name}: %{{y:.1f}}%<extra></extra>",
        )  # fmt: skip
    title = f"Entries of SFT that the election discards, density 0.5; n = {_seeds(points)} seeds, 95%"
    return finish(fig, title, "CT tokens (log scale)", "of SFT's kept entries (%)", 380)


def gains_by_budget(points: pd.DataFrame) -> go.Figure:
    """What each method of question 4 gains in X from the first CT budget on; bars: 95% over seeds and items.

    points: of `lrnb.analysis.questions.plateau_points`.
    """
    fig = blank()
    points = points.assign(x=token_axis(fig, points["ct_tokens"]))
    merges: list[Asked] = list(dict.fromkeys(points["merge"]))
    for place, one in enumerate(merges):
        _gain(fig, one, points[[m == one for m in points["merge"]]], 0.05 * (place - (len(merges) - 1) / 2))
    fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below")
    title = f"Score in X along CT tokens minus that at the first budget; n = {_seeds(points)} seeds, 95%"
    return finish(fig, title, "CT tokens (log scale)", "points", 440)


def _gain(fig: go.Figure, one: Asked, rows: pd.DataFrame, shift: float) -> None:
    how, name = dict(one.options).get("equalise", "none"), shown_name(one)
    look = line_of(one.method, 1.6) | {"dash": EVENED_DASH[str(how)]}
    fig.add_scatter(
        x=rows["x"] + shift, y=rows["difference"], name=name,
        mode="lines+markers", line=look,
        marker=marker_of(one.method, 7), error_y=error_bars(rows, "difference", look["color"], 1),
        customdata=rows[["score", "english"]],
        hovertemplate=f"{name}: %{{y:+.1f}} points<br>%{{customdata[0]:.1f}} in X, "
        "%{customdata[1]:.1f} in English<extra></extra>",
    )  # fmt: skip


def _seeds(points: pd.DataFrame) -> int:
    return int(points["seeds"].max())
