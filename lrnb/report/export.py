"""The report as files for a paper: every table as CSV, the main one as LaTeX, every figure as SVG and PNG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lrnb.figures.images import caption_of, save_images
from lrnb.report import page
from lrnb.report.main_table import latex_scores, wide_scores
from lrnb.study.files import atomic_folder, full_disk_message
from lrnb.study.parameters import Study
from lrnb.study.run_folder import study_of
from lrnb.study.stages import RunPaths

MAIN = "main.tex"  # in every export


def export_report(folder: Path, out: Path) -> str:
    """Write tables/*.csv, main.csv, main.tex, figures/*.svg and *.png, captions.csv into `out`, atomically.

    folder: a run. Returns "" or a sentence on what is missing for the figures; the tables are written anyway.
    UserError names what the run lacks.
    """
    study = study_of(Path(folder))
    content = page.page_content(study)
    figures = dict(named_figures(content))
    with full_disk_message(out), atomic_folder(out) as made:
        (made / "tables").mkdir()
        (made / "figures").mkdir()
        for name, table in _tables_of(study, content).items():
            table.to_csv(made / "tables" / f"{name}.csv", index=False)
        _main(made, study, content["tables"])
        captions = pd.DataFrame({"figure": list(figures), "caption": map(caption_of, figures.values())})
        captions.to_csv(made / "captions.csv", index=False)
        return save_images(figures, made / "figures")


def _main(made: Path, study: Study, tables: list[dict[str, Any]]) -> None:
    who = f"{study.lang_name or study.lang}, preset {study.preset}, seed {study.seed}"
    wide_scores(tables[0]).to_csv(made / "main.csv", index=False)
    (made / MAIN).write_text(latex_scores(tables[0], who, f"tab:{study.lang}"), encoding="utf-8")


def _tables_of(study: Study, content: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """All tables of the page, and those of the stages behind its figures."""
    found = {name: table for name, table in content["frames"].items() if len(table)}
    found["parameters"] = pd.DataFrame({"parameter": content["parameters"]}).rename_axis("name").reset_index()
    found["over_seeds"] = _over_seeds(content["seeds"])
    for path in sorted((RunPaths(study).lang / "failures").glob("*.csv")):
        found[f"failures_{path.stem}"] = pd.read_csv(path)
    return {name: table for name, table in found.items() if len(table)}


def _over_seeds(tables: Iterable[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {"where": "this folder" if one["live"] else "stored pool", **cell}
        for one in tables
        for cells in one["rows"].values()
        for cell in cells
        if cell is not None
    ]
    return pd.DataFrame(rows)


def named_figures(content: dict[str, Any]) -> Iterable[tuple[str, go.Figure]]:
    """(name, figure) of every figure on the page; of several by their place, as tasks-1."""
    found = content["figures"] | {
        "answer": content["answer"]["figure"],
        "failures": content["failures"]["figures"],
        "rows_in_x": [*content["in_x"].get("scored", {}).values(), *content["in_x"].get("differences", [])],
    }
    for name, figures in found.items():
        several = isinstance(figures, list)
        for place, fig in enumerate(figures if several else [figures], 1):
            if fig is not None:
                yield (f"{name}-{place}" if several else name), fig
