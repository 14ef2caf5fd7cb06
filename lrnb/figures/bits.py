"""What a model knows of X and of English after each training: bits per byte of held-out text."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import label, ordered
from lrnb.figures.style import FAINT, blank, colour, finish, marker_of
from lrnb.study.parameters import ENGLISH, budget_name

PLOTS = ("X", "English")


def forgetting(bits: pd.DataFrame, lang: str, budget: int) -> go.Figure:
    """Bits per byte in X and in English of every model at a CT budget, beside the base's (dashed).

    bits: of `lrnb.analysis.bits_by_model`. Left of the dashed line a model predicts the text better than the
    base does, right of it worse.
    """
    rows = bits[bits["ct_tokens"].isin([0, budget])].set_index("method")
    rows = rows.loc[ordered(rows.index)]
    fig = blank(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=PLOTS)
    for col, column in enumerate((lang, ENGLISH), 1):
        base = rows.loc["base", column]
        for method, value in rows[column].items():
            _stem(fig, str(method), base, value, col)
        look = {"color": FAINT, "width": 1.3, "dash": "dash"}
        fig.add_vline(x=base, line=look, layer="below", row=1, col=col)
        room = 0.22 * (rows[column].max() - rows[column].min())  # for the numbers beside the markers
        fig.update_xaxes(range=[rows[column].min() - room, rows[column].max() + room], row=1, col=col)
    title = f"Bits per byte of held-out text at {budget_name(budget)} CT tokens; dashed: the base"
    finish(fig, title, "bits per byte: less is better", "model", 130 + 34 * len(rows))
    return fig.update_yaxes(autorange="reversed").update_layout(showlegend=False, margin={"t": 80})


def _stem(fig: go.Figure, method: str, base: float, value: float, col: int) -> None:
    """A line from the base's value to the model's, with its marker and number."""
    look = {"mode": "lines+markers+text", "line": {"color": colour(method), "width": 3}}
    marker = marker_of(method, 11) | {"size": [0, 11], "line": {"color": colour(method), "width": 2}}
    fig.add_scatter(
        x=[base, value], y=[label(method)] * 2, marker=marker, text=["", f"{value:.3f}"],
        textposition="middle left" if value < base else "middle right", cliponaxis=False, row=1, col=col,
        hovertemplate=f"{label(method)}: %{{x:.3f}} bits per byte<extra></extra>", **look,
    )  # fmt: skip


def bits_along(table: pd.DataFrame, x: str, levels: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Bits per byte in X and in English of a merge along one of its options; the parents' as levels.

    table: columns x, X and English, a row a merge; levels: {method: {X and English: bits per byte}}.
    """
    fig = blank(rows=1, cols=2, horizontal_spacing=0.12, subplot_titles=PLOTS)
    for col, column in enumerate(PLOTS, 1):
        look = {"mode": "lines+markers", "showlegend": col == 1, "legendgroup": "merge", "name": "merge"}
        line = {"color": colour("task_arithmetic"), "width": 2.5}
        fig.add_scatter(x=table[x], y=table[column], line=line, row=1, col=col, **look)
        for method, own in levels.items():
            ends = [table[x].min(), table[x].max()]
            look = {"mode": "lines", "showlegend": col == 1, "legendgroup": method, "name": label(method)}
            line = {"color": colour(method), "dash": "dash", "width": 2}
            fig.add_scatter(x=ends, y=[own[column]] * 2, line=line, row=1, col=col, **look)
    finish(fig, f"Bits per byte of held-out text along {x}", x, "bits per byte")
    return fig.update_layout(margin={"t": 80})
