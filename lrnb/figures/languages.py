"""Figures of several languages side by side. Tables of `lrnb.analysis.languages` in, plotly Figures out."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import label, ordered
from lrnb.analysis.results import FIXED_DENSITY
from lrnb.figures.region import COLOURS
from lrnb.figures.style import (
    CLASS_COLOURS,
    FAINT,
    INK,
    blank,
    colour,
    error_bars,
    finish,
    finish_panels,
    line_of,
    marker_of,
    panels,
    token_axis,
)
from lrnb.study.parameters import budget_name

SURE = "*"  # in a cell: p after Holm's correction is below 0.05


def leads_heatmap(leads: pd.DataFrame) -> go.Figure:
    """Lead of every merge at each CT budget (columns) in each language (rows), in points.

    leads: of `languages.leads_by_language`, of one baseline.
    """
    methods = [(m, b) for m in ordered(leads["method"]) for b in sorted(leads["ct_tokens"].unique())]
    keyed = leads.set_index(["lang", "method", "ct_tokens"])
    langs = list(dict.fromkeys(leads["lang"]))
    rows = [[keyed["difference"].get((lang, *model), np.nan) for model in methods] for lang in langs]
    sure = [[keyed["p_holm"].get((lang, *model), 1.0) < 0.05 for model in methods] for lang in langs]
    text = [[_cell(*pair) for pair in zip(*both, strict=True)] for both in zip(rows, sure, strict=True)]
    most = float(np.nanmax(np.abs(rows))) or 1.0
    fig = blank()
    fig.add_heatmap(
        x=[[label(m) for m, _ in methods], [budget_name(int(b)) for _, b in methods]],
        y=langs, z=rows, text=text, texttemplate="%{text}", colorscale=COLOURS, zmin=-most, zmax=most,
        colorbar={"title": {"text": "points"}}, xgap=2, ygap=2,
        hovertemplate="%{y}, %{x}: %{z:+.1f} points<extra></extra>",
    )  # fmt: skip
    title = f"Lead over {label(leads['baseline'].iloc[0])}, points; {SURE} Holm p < 0.05 in its language"
    finish(fig, title, "merge, CT tokens", "language", 190 + 42 * len(langs))
    return fig.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False)


def _cell(value: float, sure: bool) -> str:
    return "" if np.isnan(value) else f"{round(value, 1) + 0:+.1f}{SURE if sure else ''}".replace("-", "−")


def leads_by_knowledge(points: pd.DataFrame, slopes: pd.DataFrame) -> go.Figure:
    """Lead of every merge against the base's bits per byte in the language before CT, a plot a CT budget.

    points, slopes: of `languages.leads_against`. Bars: 95% interval of the lead in that language; the line:
    least squares over the languages, where there are three. Left the base knows the language best.
    """
    budgets = sorted(points["ct_tokens"].unique())
    names = [f"{budget_name(int(budget))} CT tokens" for budget in budgets]
    fig, places = panels(names, 270, shared_xaxes="all")
    for where, budget in zip(places, budgets, strict=True):
        own = points[points["ct_tokens"] == budget]
        fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below", **where)
        for number, method in enumerate(ordered(own["method"])):
            _knowledge_marks(fig, own[own["method"] == method], number, where, where == places[0])
            there = slopes if not len(slopes) else slopes[slopes["method"] == method]
            fitted = there if not len(there) else there[there["ct_tokens"] == budget]
            _knowledge_line(fig, own, method, fitted, where)
        _names_of_languages(fig, own, where)
    title = f"Lead against how well the base knows the language (n = {points['lang'].nunique()} languages)"
    x = "base: bits per byte in X before CT"
    return finish_panels(fig, places, title, x, "lead (percentage points)")


def _knowledge_marks(
    fig: go.Figure, own: pd.DataFrame, number: int, where: dict[str, int], first: bool
) -> None:
    method = str(own["method"].iloc[0])
    width = 0.012 * float(np.ptp(own["bits_per_byte"]) or 1)
    fig.add_scatter(
        x=own["bits_per_byte"] + number * width,
        y=own["difference"],
        error_y=error_bars(own, "difference", colour(method), 1),
        mode="markers",
        name=label(method),
        legendgroup=method,
        showlegend=first,
        marker=marker_of(method),
        customdata=own[["lang", "ct_tokens"]],
        hovertemplate="%{customdata[0]}: %{y:+.1f} points at %{x:.2f} bits<extra>%{fullData.name}</extra>",
        **where,
    )


def _knowledge_line(
    fig: go.Figure, own: pd.DataFrame, method: str, fitted: pd.DataFrame, where: dict[str, int]
) -> None:
    if len(fitted):
        one = fitted.iloc[0]
        x = np.array([own["bits_per_byte"].min(), own["bits_per_byte"].max()])
        y = one["lead"] + one["slope"] * (x - one["at"])
        look: dict[str, Any] = {"mode": "lines", "line": line_of(method, 1.2), "legendgroup": method}
        fig.add_scatter(x=x, y=y, showlegend=False, hoverinfo="skip", **look, **where)


def _names_of_languages(fig: go.Figure, own: pd.DataFrame, where: dict[str, int]) -> None:
    """The codes of the languages above the highest interval at their place."""
    top = own.groupby("lang", sort=False).agg(x=("bits_per_byte", "first"), y=("ci_high", "max"))
    look = {"showarrow": False, "yshift": 10, "font": {"size": 11, "color": FAINT}}
    for lang, x, y in top.itertuples():
        fig.add_annotation(x=x, y=y, text=escape(str(lang)), **look, **where)


def shares_of_languages(shares: pd.DataFrame) -> go.Figure:
    """Discarded share of SFT's entries, size of CT's task vector against SFT's, their cosine, by CT tokens.

    shares: of `languages.shares_by_language`; a line a language.
    """
    lines = (
        (100 * shares["sft_discarded_share"], "SFT: discarded of kept (%)"),
        (shares["ct_l2"] / shares["sft_l2"], "size of τ, CT over SFT (L2)"),
        (shares["cosine"], "cosine of the two τ"),
    )
    fig = blank(rows=1, cols=len(lines), horizontal_spacing=0.09)
    for col, (values, _) in enumerate(lines, 1):
        places = token_axis(fig, shares["ct_tokens"], row=1, col=col)
        for number, (lang, own) in enumerate(shares.groupby("lang", sort=False)):
            ink = CLASS_COLOURS[number % len(CLASS_COLOURS)]
            look: dict[str, Any] = {
                "line": {"color": ink, "width": 2},
                "marker": {"size": 7, "symbol": number},
            }
            fig.add_scatter(
                x=places[own.index], y=values[own.index], mode="lines+markers", name=escape(str(lang)),
                legendgroup=str(lang), showlegend=col == 1, row=1, col=col, **look,
            )  # fmt: skip
    told = f"density {FIXED_DENSITY:g} (n = {shares['lang'].nunique()} languages)"
    finish(fig, f"Task vectors and the election at {told}")
    for col, (_, name) in enumerate(lines, 1):
        fig.update_yaxes(title_text=name, row=1, col=col)
    return fig.update_xaxes(title_text="CT tokens (log scale)")
