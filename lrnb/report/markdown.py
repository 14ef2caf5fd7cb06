"""Tables and numbers of docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from lrnb.analysis.pool_lines import Line, told_sets

# columns of words
WORDS = ("model", "verdict", "selector", "against", "weights", "what", "where", "language", "interval of")


def made_with(lines: Sequence[Line]) -> str:
    """Recipe, instruction sets and, of the first, versions of runs."""
    versions = ", ".join(f"{name} {version}" for name, version in lines[0]["versions"].items())
    return f"Recipe {lines[0]['recipe']}, {told_sets(lines)}, {versions}"


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
