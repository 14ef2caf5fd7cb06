"""Widgets: thin wrappers over the figures of `lrnb.plots*`, for a person in JupyterLab.

Only `lrnb.widgets*` use ipywidgets and anywidget. A widget shows nothing that a figure does not show
too: headless runs (LRNB_PROGRESS is set) get the figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from lrnb.plots import slack_histogram
from lrnb.widgets_base import Check, Choice, Explorer, Slider, explore, headless
from lrnb.widgets_copy import copy_button
from lrnb.widgets_hand import elect_by_hand, merge_by_hand, slack_by_hand, trim_by_hand
from lrnb.widgets_playground import merge_playground
from lrnb.widgets_scores import csv_link, score_board, score_table

__all__ = [
    "Check",
    "Choice",
    "Explorer",
    "Slider",
    "copy_button",
    "csv_link",
    "elect_by_hand",
    "explore",
    "headless",
    "merge_by_hand",
    "merge_playground",
    "score_board",
    "score_table",
    "slack_by_hand",
    "slack_explorer",
    "trim_by_hand",
]


def slack_explorer(counts: np.ndarray, edges: np.ndarray, n_kept: int, slack: float = 0.3) -> Any:
    """A slider for slack ρ over the histogram of SFT's defeats.

    counts, edges, n_kept: as `summary.margins` returns. Headless: the figure at `slack`.
    """

    def draw(slack: float) -> go.Figure:
        return slack_histogram(counts, edges, slack, n_kept)

    def numbers(slack: float) -> dict[str, str]:
        lost = int(counts.sum())
        return {"discarded": f"{lost:,}", "won back": f"{round(slack * lost):,}"}

    hint = "Try: how little slack wins back half of the defeats that are lost by the least?"
    controls = {"slack": Slider("slack ρ", slack)}
    return explore("slack-explorer", hint, draw, controls, numbers=numbers)
