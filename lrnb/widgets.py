"""Widgets: thin wrappers over the figures of `lrnb.plots*`, for a person in JupyterLab.

Only `lrnb.widgets*` use ipywidgets and anywidget. A widget shows nothing that a figure does not show
too: headless runs (LRNB_HEADLESS is set) get the figure.
"""

from lrnb.widgets_atlas import budget_player, conflict_map, sign_explorer, slack_explorer, start
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
    "budget_player",
    "conflict_map",
    "copy_button",
    "csv_link",
    "elect_by_hand",
    "explore",
    "headless",
    "merge_by_hand",
    "merge_playground",
    "score_board",
    "score_table",
    "sign_explorer",
    "slack_by_hand",
    "slack_explorer",
    "start",
    "trim_by_hand",
]
