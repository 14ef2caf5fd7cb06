"""Tables and numbers of docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from lrnb.analysis.pool_lines import Line

WORDS = ("model", "verdict", "selector", "against", "weights", "what", "where")  # columns of words


def made_with(line: Line) -> str:
    """Recipe, instruction set and versions of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    return f"Recipe {line['recipe']}, {line['isa']}, {versions}"


def told_ends(table: pd.DataFrame, low: str, high: str, form: str) -> pd.Series:
    """Both ends of an interval in words."""
    return table[low].map(form.format) + " to " + table[high].map(form.format)


def told_p(p: float) -> str:
    """A p-value as it is printed."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown_table(table: pd.DataFrame) -> Iterator[str]:
    """A Markdown table: words to the left, numbers to the right."""
    yield _row(str(name).removeprefix("world_") for name in table)
    yield _row("---" if name in WORDS else "---:" for name in table)
    yield from (_row(row) for row in table.itertuples(index=False))
    yield ""


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
