"""Lead of merging against size of model. Tables of `lrnb.analysis.sizes` in, plotly Figures out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import label, ordered
from lrnb.figures.style import INK, colour, error_bars, finish_panels, line_of, marker_of, panels
from lrnb.study.parameters import budget_name

APART = 0.05  # between the methods of one size, on the log2 axis


def leads_by_model_size(leads: pd.DataFrame) -> go.Figure:
    """Lead over CT-then-SFT against the model's parameters, a panel a CT budget; bars: 95%, seeds and items.

    leads: of `lrnb.analysis.leads_by_size`.
    """
    budgets, sizes = sorted(leads["ct_tokens"].unique()), sorted(leads["parameters"].unique())
    fig, places = panels([f"{budget_name(int(b))} CT tokens" for b in budgets], 270)
    for budget, where in zip(budgets, places, strict=True):
        own = leads[leads["ct_tokens"] == budget]
        fig.add_hline(y=0, line={"color": INK, "width": 1}, layer="below", **where)
        for place, method in enumerate(ordered(own["method"])):
            rows = own[own["method"] == method].sort_values("parameters")
            fig.add_scatter(
                x=np.log2(rows["parameters"]) + APART * place, y=rows["difference"], name=label(method),
                mode="lines+markers", line=line_of(method, 1.2), marker=marker_of(method, 7),
                error_y=error_bars(rows, "difference", colour(method), 1), legendgroup=method,
                showlegend=where == places[0], customdata=rows["parameters"],
                hovertemplate=f"{label(method)}, %{{customdata:,}} parameters: %{{y:+.1f}}<extra></extra>",
                **where,
            )  # fmt: skip
        names = [f"{size / 1e6:.2g}M" for size in sizes]
        fig.update_xaxes(tickvals=np.log2(sizes), ticktext=names, **where)
    title = f"Lead over CT-then-SFT by size of model (n = {int(leads['seeds'].max())} seeds, 95%)"
    return finish_panels(fig, places, title, "parameters (log scale)", "lead (percentage points)")
