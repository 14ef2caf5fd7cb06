"""What sets of languages keep in one merge. Tables of `lrnb.analysis.sets_kept` in, plotly Figures out."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import label
from lrnb.figures.style import CLASS_COLOURS, FAINT, INK, blank, error_bars, finish, finish_panels, panels

ASKED = {"x": "mean over the set's languages", "en": "English"}


def kept_by_size(kept: pd.DataFrame, asked: str = "x") -> go.Figure:
    """Score minus that of the languages' own merges, against how many languages share the merge: a dot a set.

    kept: of `lrnb.analysis.kept_by_sets`. A colour a family where all languages of a set are of one.
    """
    own = kept[kept["asked"] == asked]
    arms = list(dict.fromkeys(zip(own["method"], own["way"], strict=True)))
    fig, places = panels([f"{label(method)}, {way}" for method, way in arms], 260)
    families = ["", *sorted(set(own["family"]) - {""})]
    for (method, way), where in zip(arms, places, strict=True):
        rows = own[(own["method"] == method) & (own["way"] == way)]
        for number, family in enumerate(families):
            _dots(fig, rows[rows["family"] == family], family, number, where, where == places[0])
        means = rows.groupby("size")["kept"].mean()
        fig.add_scatter(
            x=means.index, y=means, mode="lines", name="mean", line={"color": INK, "width": 1.5},
            legendgroup="mean", showlegend=where == places[0], hoverinfo="skip", **where,
        )  # fmt: skip
        fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below", **where)
    title = (
        f"Kept in one merge of several languages, {ASKED[asked]} (n = {own['languages'].nunique()} sets, 95%)"
    )
    return finish_panels(fig, places, title, "languages in the merge", "points against their own merges")


def _dots(
    fig: go.Figure, rows: pd.DataFrame, family: str, number: int, where: dict[str, int], legend: bool
) -> None:
    ink = CLASS_COLOURS[number - 1] if family else FAINT
    away = np.linspace(-0.25, 0.25, len(rows)) if len(rows) > 1 else 0.0
    fig.add_scatter(
        x=rows["size"] + away, y=rows["kept"], error_y=error_bars(rows, "kept", ink, 0.8), mode="markers",
        name=escape(family) or "several families", legendgroup=family or "several", showlegend=legend,
        marker={"color": ink, "size": 7, "symbol": "diamond" if family else "circle"},
        customdata=rows[["languages", "cosine", "conflict_share"]],
        hovertemplate="%{customdata[0]}: %{y:+.1f} points<br>cosine %{customdata[1]:.3f}, "
        "%{customdata[2]:.1%} in conflict<extra></extra>", **where,
    )  # fmt: skip


def kept_by_overlap(kept: pd.DataFrame, predictor: str) -> go.Figure:
    """What pairs keep in X against what was foretold of them, `cosine` or `conflict_share`; a dot a pair."""
    own = kept[(kept["asked"] == "x") & (kept["size"] == 2)]
    fig = blank()
    for number, ((method, way), rows) in enumerate(own.groupby(["method", "way"], sort=False)):
        ink = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        fig.add_scatter(
            x=rows[predictor], y=rows["kept"], error_y=error_bars(rows, "kept", ink, 0.8),
            text=rows["languages"], mode="markers", name=f"{label(str(method))}, {way}",
            marker={"color": ink, "size": 8},
            hovertemplate="%{text}: %{y:+.1f} points at %{x:.3f}<extra></extra>",
        )  # fmt: skip
    fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below")
    names = {
        "cosine": "cosine of the two task vectors",
        "conflict_share": "share of shared entries in conflict",
    }
    title = f"Two languages in one merge, against their overlap (n = {own['languages'].nunique()} pairs, 95%)"
    return finish(fig, title, names[predictor], "points against their own merges", 420)
