"""Figures as files for a paper: SVG and PNG at the width of a page, drawn by kaleido in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from html import unescape
from importlib.util import find_spec
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio

PAGE_WIDTH = 605  # pixels of 1/96 inch: 6.3 inches, the text width of most templates
SCALES = {"svg": 1, "png": 3.125}  # of one such pixel: PNG has 300 an inch
WITHOUT = "Install kaleido, and Chromium or Chrome (BROWSER_PATH names another place), then do this again"


def save_images(figures: Mapping[str, go.Figure], folder: Path) -> str:
    """Write NAME.svg and NAME.png of every figure into `folder`; "" or, in a sentence, what is missing.

    Titles are left out: they are for the caption, see `caption_of`. Files that were begun are removed.
    """
    if find_spec("kaleido") is None:
        return f"No SVG and PNG: kaleido is not installed. {WITHOUT}"
    plain = {name: for_paper(fig) for name, fig in figures.items()}
    files = {folder / f"{name}.{kind}": (name, kind) for name in figures for kind in SCALES}
    drawn, scales = [plain[name] for name, _ in files.values()], [SCALES[kind] for _, kind in files.values()]
    size = {"width": PAGE_WIDTH, "height": [fig.layout.height for fig in drawn], "scale": scales}
    try:
        pio.write_images(fig=drawn, file=[*files], **size)
    except Exception as error:  # no browser, or one that does not start
        for file in files:
            file.unlink(missing_ok=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return f"No SVG and PNG: {reason}. {WITHOUT}"
    return ""


def for_paper(fig: go.Figure) -> go.Figure:
    """The figure without its title, on white, with a height."""
    plain = go.Figure(fig)
    margin = {"t": 40 if plain.layout.annotations else 12, "b": 48}
    plain.update_layout(title={"text": None}, margin=margin, height=plain.layout.height or 420)
    return plain.update_layout(paper_bgcolor="white", plot_bgcolor="white")


def caption_of(fig: go.Figure) -> str:
    """What stands above the figure on the page, as text."""
    return unescape(str(fig.layout.title.text or ""))
