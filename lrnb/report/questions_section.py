"""The part of docs/results.md on the paper's open questions 1 and 4, from one pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from lrnb.analysis import question_findings, questions
from lrnb.analysis.pool_lines import Line
from lrnb.analysis.question_merges import shown_name
from lrnb.report.markdown import made_with, markdown_table, told_ends, told_p
from lrnb.study.parameters import budget_name

QUESTIONS = "questions"  # the folder


def questions_section(path: Path, margin: float) -> Iterator[str]:
    """Markdown lines: what was run, what it says in words, the tables. UserError with less than two seeds."""
    lines = questions.read_questions(path)
    yield f"## Two open questions, {path.stem.replace('-', ', ')}, {len(lines)} seeds\n"
    yield from _made(lines, path)
    for name, found in question_findings.findings_of_questions(lines, margin).items():
        yield f"{name.capitalize()}:\n"
        yield from (f"- **{finding['verdict']}**: {finding['text']}" for finding in found)
        yield ""
    yield "Each selector, mean over the cells: points and bits per byte (lower is better), 95%, Holm p:\n"
    yield from markdown_table(_selectors(questions.selector_contrasts(lines)))
    yield "What as many entries take and cost, means over seeds and cells:\n"
    yield from markdown_table(_price(questions.price_of_selectors(lines)))
    if len(questions.budgets_of(lines)) > 1:
        yield "SFT's kept entries that the election discards, density 0.5, percent (95% over seeds):\n"
        yield from markdown_table(_discarded(questions.discarded_points(lines)))
        yield "Question 4, percent right, options fixed; gain from the first to the last CT budget, points:\n"
        yield from markdown_table(_plateau(questions.plateau_points(lines)))


def _made(lines: Sequence[Line], path: Path) -> Iterator[str]:
    preset, _, lang = path.stem.partition("-")
    cells, planned = questions.cells_of(lines), len(questions.planned_cells(lines))
    places = "; ".join(f"{c.density:g}, {c.share:g}, {budget_name(c.ct_tokens)}" for c in cells)
    seeds = ", ".join(str(line["seed"]) for line in lines)
    command = f"lrnb questions params/{lang}.yaml --preset {preset} --seeds A-B"
    yield (
        f"`{command} --pool docs/results/{path.parent.name}` (`make questions`), seeds {seeds}; "
        f"`notebooks/03_analysis/07_questions.ipynb` draws it. {made_with(lines)}. Question 1 in "
        f"{len(cells)} of {planned} planned cells (density, share won back, CT tokens): {places}. In a cell "
        "all selectors win back as many entries. Intervals of scores are over seeds and items, of all else "
        "over seeds; Holm's correction within a question, for each measure.\n"
    )


def _selectors(table: pd.DataFrame) -> pd.DataFrame:
    """A row a selector and what it is held against, a column a measure."""
    forms = {m: "{:+.1f}" if m in (questions.X, questions.EN) else "{:+.4f}" for m in questions.MEASURES}
    told = pd.concat(
        _told(rows, forms[str(measure)]) for measure, rows in table.groupby("measure", sort=False)
    )
    wide = table.assign(told=told).pivot(index=["selector", "against"], columns="measure", values="told")
    order = table[["selector", "against"]].drop_duplicates().sort_values("against", kind="stable")
    return wide.loc[list(order.itertuples(index=False, name=None)), list(questions.MEASURES)].reset_index()


def _told(rows: pd.DataFrame, form: str) -> pd.Series:
    ends = told_ends(rows, "ci_low", "ci_high", form)
    return rows["difference"].map(form.format) + " (" + ends + "), p " + rows["p_holm"].map(told_p)


def _price(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "selector": table["selector"], "share won back": table["share"].map("{:g}".format),
        "entries": table["reserved"].map("{:,.0f}".format),
        "of SFT's mass, %": table["reserved_share"].map("{:.2f}".format),
        "CT gives up, % of its mass": table["ceded_share"].map("{:.2f}".format),
    })  # fmt: skip


def _discarded(points: pd.DataFrame) -> pd.DataFrame:
    ends = told_ends(points, "ci_low", "ci_high", "{:.1f}")
    told = points["difference"].map("{:.1f}".format) + " (" + ends + ")"
    wide = points.assign(told=told).pivot(index="how", columns="ct_tokens", values="told")
    wide = wide.loc[list(dict.fromkeys(points["how"]))].rename(columns=budget_name).reset_index()
    return wide.rename(columns={"how": "weights"}).replace({"weights": {"none": "as they are"}})


def _plateau(points: pd.DataFrame) -> pd.DataFrame:
    """A row a merge: its scores in X, its gain, its score in English at the last CT budget."""
    budgets, rows = sorted(points["ct_tokens"].unique()), []
    for one, own in points.groupby("merge", sort=False):
        last = own[own["ct_tokens"] == budgets[-1]]
        scores = {budget_name(int(row.ct_tokens)): f"{row.score:.1f}" for row in own.itertuples()}
        gain = (
            f"{last['difference'].iloc[0]:+.1f} ({told_ends(last, 'ci_low', 'ci_high', '{:+.1f}').iloc[0]})"
        )
        english = f"{last['english'].iloc[0]:.1f}"
        rows.append({"model": shown_name(one), **scores, "gain": gain, "English at the last": english})
    return pd.DataFrame(rows)
