"""The table of scores for a paper: one row a model, as text for a spreadsheet and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrnb.analysis.kinds import model_label
from lrnb.analysis.trust import FALLEN, NOT_ABOVE, NOT_CLEAR
from lrnb.study.parameters import budget_name

TEX_MARKS = {NOT_ABOVE: r"$^{\circ}$", NOT_CLEAR: r"$^{m}$", "": ""}
TEX_FALLEN = r"$^{\times}$"
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # others in pdfTeX's usual font
SPECIAL |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
FIT = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"  # no wider than the text
KEY = (
    r"Percent right on test items; in small type the 95\% bootstrap interval, items only. "
    r"$^{\circ}$~not above chance, $^{m}$~not above always giving the most frequent answer, "
    r"$^{\times}$~one answer takes more than 60\% of the items. Bold: the highest of its block that is "
    r"none of these; not a test."
)


def wide_scores(table: Mapping[str, Any]) -> pd.DataFrame:
    """One of `page.score_tables` with a row a model: method, CT tokens, of each task score and interval."""
    rows = []
    for budget, models in table["groups"].items():
        for method, cells in models.items():
            row: dict[str, Any] = {"method": _method(method), "CT tokens": budget}
            for task in table["columns"]:
                row |= _wide_cell(task, cells.get(task))
            rows.append(row)
    for level in ("chance", "majority"):
        known = {task: table["levels"][task][level] for task in table["columns"]}
        rows.append({"method": level, "CT tokens": "", **{task: _percent(x) for task, x in known.items()}})
    return pd.DataFrame(rows).fillna("")


def _wide_cell(task: str, cell: Mapping[str, Any] | None) -> dict[str, str]:
    if cell is None:
        return {task: "", f"{task} 95%": ""}
    mark = cell["mark"] + (FALLEN if cell["collapsed"] else "")
    return {task: f"{_percent(cell['value'])}{mark}", f"{task} 95%": _ends(cell, "to")}


def _percent(value: float) -> str:
    return "" if value != value else f"{value:.1f}"


def _ends(cell: Mapping[str, Any], word: str) -> str:
    return f"{cell['ci_low']:.1f}{word.join('  ') if word == 'to' else word}{cell['ci_high']:.1f}"


def _method(method: str) -> str:
    return model_label(method, 0)


def latex_scores(table: Mapping[str, Any], who: str, label: str) -> str:
    """One of `page.score_tables` as a LaTeX table that \\input takes; it needs booktabs and graphicx."""
    tasks = table["columns"]
    heads = [_head(task.removesuffix("_en")) for task in tasks]
    lines = [
        r"\begin{table*}[t]", r"\centering\small", FIT,
        rf"\begin{{tabular}}{{l{'r' * len(tasks)}}}", r"\toprule",
        " & ".join(["model", *heads]) + r" \\",
        " & ".join(["", *(rf"{{\scriptsize $n={table['levels'][task]['n']}$}}" for task in tasks)]) + r" \\",
    ]  # fmt: skip
    for budget, models in table["groups"].items():
        name = f"{budget_name(budget)} CT tokens" if budget else "no CT"
        lines += [r"\midrule", rf"\multicolumn{{{len(tasks) + 1}}}{{l}}{{\emph{{{name}}}}} \\"]
        lines += [_latex_row(method, [cells.get(task) for task in tasks]) for method, cells in models.items()]
    lines += [r"\midrule", *_latex_levels(table, tasks), r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\caption{{{tex(who)}. {KEY}}}", rf"\label{{{label}}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _head(task: str) -> str:
    """The name of a task, a word a line."""
    words = [tex(word) for word in task.split("_") if word] or [tex(task)]
    lines = r" \\ ".join(words)
    return lines if len(words) == 1 else rf"\shortstack[r]{{{lines}}}"


def _latex_row(method: str, cells: list[Any]) -> str:
    return " & ".join([tex(_method(method)), *map(_latex_cell, cells)]) + r" \\"


def _latex_cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "--"
    value = rf"\textbf{{{_percent(cell['value'])}}}" if cell["best"] else _percent(cell["value"])
    mark = TEX_MARKS[cell["mark"]] + (TEX_FALLEN if cell["collapsed"] else "")
    return rf"{value}{mark} {{\tiny {_ends(cell, '--')}}}"


def _latex_levels(table: Mapping[str, Any], tasks: list[str]) -> list[str]:
    lines = []
    for name, words in (("chance", "chance"), ("majority", "majority class")):
        found = [_percent(table["levels"][task][name]) for task in tasks]
        if any(found):
            lines.append(" & ".join([words, *(text or "--" for text in found)]) + r" \\")
    return lines


def tex(text: str) -> str:
    """Text as LaTeX shows it; other scripts as they are (XeLaTeX or LuaLaTeX with a font)."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)
