"""A comparison of models as a folder: its table, its figure, what was asked."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lrnb.figures.images import save_images
from lrnb.figures.versus import versus_by_task
from lrnb.study.files import atomic_folder, full_disk_message

COMPARISON = "comparison.json"  # in every such folder


def write_comparison(out: Path, table: pd.DataFrame, facts: str) -> str:
    """Write differences.csv, .html, .svg and .png, and `facts` as comparison.json, into `out`, atomically.

    table: of `lrnb.analysis.versus`. Returns "" or what is missing for the images, see `save_images`.
    """
    fig = versus_by_task(table)
    with full_disk_message(out), atomic_folder(out) as folder:
        table.to_csv(folder / "differences.csv", index=False)
        fig.write_html(folder / "differences.html", include_plotlyjs=True)
        (folder / COMPARISON).write_text(facts, encoding="utf-8")
        return save_images({"differences": fig}, folder)
