"""Widgets: thin wrappers over the figures of `lrnb.plots`, for a person in JupyterLab.

The only module that imports ipywidgets. A widget shows nothing that a figure does not show too:
headless runs (LRNB_PROGRESS is set) get the figure.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from lrnb.plots import slack_histogram


def slack_explorer(counts: np.ndarray, edges: np.ndarray, n_kept: int, slack: float = 0.3) -> Any:
    """A slider for slack ρ over the histogram of SFT's defeats.

    counts, edges, n_kept: as `summary.margins` returns. Try: how little slack wins back half of the
    defeats that are lost by the least? Headless: the figure at `slack`.
    """
    if os.environ.get("LRNB_PROGRESS"):
        return slack_histogram(counts, edges, slack, n_kept)
    import ipywidgets as widgets
    import plotly.graph_objects as go

    figure = go.FigureWidget(slack_histogram(counts, edges, slack, n_kept))
    slider = widgets.FloatSlider(slack, min=0, max=1, step=0.01, description="slack ρ")

    def redraw(change: Any) -> None:
        new = slack_histogram(counts, edges, change["new"], n_kept)
        with figure.batch_update():
            figure.data[0].marker.color = new.data[0].marker.color
            figure.layout.shapes, figure.layout.annotations = new.layout.shapes, new.layout.annotations
            figure.layout.title.text = new.layout.title.text

    slider.observe(redraw, "value")
    return widgets.VBox([slider, figure])
