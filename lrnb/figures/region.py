"""The map of a claim: a surface over CT tokens and SFT examples, a plot a share of X in the base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import label
from lrnb.figures.style import INK, blank, finish
from lrnb.study.parameters import budget_name

COLOURS = "PuOr_r"  # told apart with any kind of colour vision; white is zero


def lead_map(cells: pd.DataFrame, surface: pd.DataFrame) -> go.Figure:
    """Leads of one method (`region.cell_leads`) and where the fitted lead is zero (`region.surface`).

    Solid: lead zero. Dashed: where its 95% band ends; between the dashed lines the sign is not known.
    """
    cells = cells.assign(value=cells["difference"], half=(cells["ci_high"] - cells["ci_low"]) / 2)
    cells["text"] = cells["value"].map("{:+.1f}".format) + "<br>±" + cells["half"].map("{:.1f}".format)
    most = float(cells["value"].abs().max())
    fig = _panels(cells, (-most, most), COLOURS, "points")
    for place, share in enumerate(sorted(surface["x_share"].unique()), 1):
        for column, dash in (("mean", "solid"), ("low", "dash"), ("high", "dash")):
            _zero_line(fig, surface[surface["x_share"] == share], column, dash, place)
    name, seeds = label(cells["method"].iloc[0]), int(cells["seeds"].min())
    title = f"Lead of {name} over CT-then-SFT, points ± 95%, {seeds} seeds a cell; lines: lead zero, its band"
    return finish(fig, title, "CT tokens", height=440)


def beside_map(points: pd.DataFrame, column: str, what: str) -> go.Figure:
    """The mean over the seeds of another column of `region.seed_points` in every cell."""
    keys = ["ct_tokens", "sft_examples", "x_share"]
    cells = points.groupby(keys)[column].mean().rename("value").reset_index()
    cells["text"] = cells["value"].map("{:.3g}".format)
    ends = (float(cells["value"].min()), float(cells["value"].max()))
    return finish(_panels(cells, ends, "Viridis", ""), what, "CT tokens", height=400)


def _panels(cells: pd.DataFrame, ends: tuple[float, float], colours: str, unit: str) -> go.Figure:
    shares = sorted(cells["x_share"].unique())
    titles = [f"{share:.0%} of the base's text has X" for share in shares]
    fig = blank(rows=1, cols=len(shares), subplot_titles=titles, shared_yaxes=True,
        horizontal_spacing=0.03)  # fmt: skip
    scale = {"colorscale": colours, "cmin": ends[0], "cmax": ends[1], "colorbar": {"title": {"text": unit}}}
    fig.update_layout(coloraxis=scale, margin={"t": 84}).update_annotations(font={"size": 13})
    for place, share in enumerate(shares, 1):
        _heat(fig, cells[cells["x_share"] == share], place)
    return fig.update_yaxes(title_text="SFT examples", row=1, col=1)


def _heat(fig: go.Figure, cells: pd.DataFrame, place: int) -> None:
    x, y = np.log2(cells["ct_tokens"]), np.log2(cells["sft_examples"])
    hover = "%{customdata[0]:,} CT tokens, %{customdata[1]:,} SFT examples<br>%{text}<extra></extra>"
    fig.add_heatmap(
        x=x, y=y, z=cells["value"], text=cells["text"], texttemplate="%{text}", coloraxis="coloraxis",
        customdata=cells[["ct_tokens", "sft_examples"]], hovertemplate=hover, row=1, col=place,
    )  # fmt: skip
    _ticks(fig, "x", cells["ct_tokens"].unique(), place)
    _ticks(fig, "y", cells["sft_examples"].unique(), place)


def _ticks(fig: go.Figure, axis: str, values: Sequence[int], place: int) -> None:
    names = [budget_name(int(value)) if axis == "x" else f"{int(value):,}" for value in values]
    set_axis = fig.update_xaxes if axis == "x" else fig.update_yaxes
    set_axis(tickvals=np.log2(np.asarray(values, float)), ticktext=names, showgrid=False, row=1, col=place)


def _zero_line(fig: go.Figure, surface: pd.DataFrame, column: str, dash: str, place: int) -> None:
    line = {"color": INK, "width": 2 if dash == "solid" else 1.2, "dash": dash}
    only_zero = {"start": 0, "end": 0, "size": 1, "coloring": "none"}
    hidden = {"showscale": False, "showlegend": False, "hoverinfo": "skip"}
    x, y = np.log2(surface["ct_tokens"]), np.log2(surface["sft_examples"])
    fig.add_contour(x=x, y=y, z=surface[column], contours=only_zero, line=line, row=1, col=place, **hidden)
