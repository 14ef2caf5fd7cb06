"""ScoreBoard: the scores of a study by task, methods and budget, as figure, table and CSV."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from html import escape, unescape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.kinds import KINDS, label
from lrnb.analysis.trust import NOT_ABOVE
from lrnb.figures.scores import scores_by_budget
from lrnb.figures.style import task_name
from lrnb.merging.methods import METHODS
from lrnb.statistics import above_chance
from lrnb.study.parameters import budget_name
from lrnb.widgets.explorer import Choice, explore, headless, html_part

SUBSETS = {
    "all": tuple(KINDS),
    "merges and CT-then-SFT": ("ct_then_sft", *METHODS),
    "merges": tuple(METHODS),
    "base, CT and SFT-en": ("base", "ct", "sft"),
}
ALL = 0  # the budget that stands for all of them
HINT = "Try: one budget at a time. Which intervals lie wholly above the chance line, and do they overlap?"
CELL = "padding:2px 10px;border-bottom:1px solid rgba(128,128,128,.35);text-align:"


def score_board(
    scores: pd.DataFrame,
    *,
    levels: Mapping[str, float] | None = None,
    fallen: Collection[tuple[str, str]] = (),
) -> Any:
    """Scores with 95% intervals and the chance level; table and CSV of what is shown.

    scores: rows of scores.csv; levels, fallen: of `summary`. Headless: the figure of the first task.
    """
    table = None if headless() else html_part("", "lrnb-table")

    def draw(task: str, methods: str, budget: int) -> go.Figure:
        rows = rows_shown(scores, task, methods, budget)
        if table is not None:
            table.value = score_table(rows, fallen) + csv_link(rows)
        return scores_by_budget(rows, task, levels=levels, fallen=fallen)

    def numbers(**state: Any) -> dict[str, Any]:
        rows = rows_shown(scores, **state)
        above = int(above_chance(rows["ci_low"], rows["chance"]).sum())
        return {"models shown": len(rows), "above chance": above}

    tasks = sorted(dict.fromkeys(scores["task"]), key=lambda task: not task.startswith("mean"))
    budgets = sorted({int(t) for t in scores["ct_tokens"] if t > 0})
    controls = {
        "task": Choice("task", tasks[0], [(_plain(task), task) for task in tasks]),
        "methods": Choice("methods", "all", list(SUBSETS)),
        "budget": Choice("CT tokens", ALL, [("all", ALL), *((budget_name(b), b) for b in budgets)]),
    }
    below = () if table is None else (table,)
    return explore("score-board", HINT, draw, controls, numbers=numbers, below=below)


def rows_shown(scores: pd.DataFrame, task: str, methods: str = "all", budget: int = ALL) -> pd.DataFrame:
    """The rows of a task, a subset of methods (SUBSETS) and a budget; models without CT stay."""
    own = scores["method"].isin(SUBSETS[methods]) | (methods == "all")  # all: models made elsewhere, too
    rows = scores[(scores["task"] == task) & own]
    return rows if budget == ALL else rows[rows["ct_tokens"].isin([0, budget])]


def score_table(rows: pd.DataFrame, fallen: Collection[tuple[str, str]] = ()) -> str:
    """One row a model as HTML: score, interval, chance, items; what is not above chance is faint, with °."""
    names = ("model", "CT tokens", "score (%)", "95% interval", "chance (%)", "items", "")
    heads = "".join(f'<th style="{CELL}{_side(i)}">{name}</th>' for i, name in enumerate(names))
    body = "".join(_line(row, fallen) for row in rows.itertuples())
    note = f"{NOT_ABOVE} not above chance: the interval reaches down to it"
    return (
        '<div class="lrnb-scores" style="line-height:1.45"><table style="border-collapse:collapse">'
        f"<tr>{heads}</tr>{body}</table>"
        f'<div style="opacity:.8;padding:4px 10px">{note if NOT_ABOVE in body else ""}</div></div>'
    )


def _line(row: Any, fallen: Collection[tuple[str, str]]) -> str:
    above = above_chance(row.ci_low, row.chance)
    cells = (
        label(row.method),
        escape(budget_name(int(row.ct_tokens)) if row.ct_tokens else "none"),
        f"{row.value:.1f}{'' if above else NOT_ABOVE}",
        f"{row.ci_low:.1f} to {row.ci_high:.1f}",
        f"{row.chance:.1f}",
        f"{row.n:,}",
        "collapsed" if (row.model, row.task) in fallen else "",
    )
    tds = "".join(f'<td style="{CELL}{_side(i)}">{cell}</td>' for i, cell in enumerate(cells))
    faint = "" if above else ' style="opacity:.65"'
    return f'<tr data-model="{escape(row.model)}"{faint}>{tds}</tr>'


def _side(place: int) -> str:
    return "left" if place in (0, 6) else "right"


def csv_link(rows: pd.DataFrame) -> str:
    """A link that saves `rows` as they stand in scores.csv. The file is inside the link: no network."""
    held = base64.b64encode(rows.to_csv(index=False).encode()).decode()
    name = "-".join(["scores", *rows[["preset", "lang", "task"]].head(1).astype(str).to_numpy().ravel()])
    return (
        f'<a class="lrnb-csv jupyter-button" download="{escape(name)}.csv" '
        f'style="display:inline-block;line-height:28px" href="data:text/csv;base64,{held}">'
        f"Save these {len(rows)} rows as CSV</a>"
    )


def _plain(task: str) -> str:
    return unescape(task_name(task))
