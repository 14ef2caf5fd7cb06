"""How the commands print: rows as a table, facts a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NUMBER = re.compile(r"$|[+-]?\d")


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", whole: str = "") -> None:
    """Rows with the same keys as a table; fractions with one decimal, counts as they are.

    whole: a column whose cells are never folded.
    """
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", title_style="", padding=(0, 1), box=None)
    columns = {name: [_cell(row[name]) for row in rows] for name in rows[0]}
    for name, cells in columns.items():
        numbers = all(map(NUMBER.match, cells))
        look: dict[str, Any] = {"justify": "right" if numbers else "left", "overflow": "fold"}
        grid.add_column(name, no_wrap=numbers or name == whole, **look)
    for row in zip(*columns.values(), strict=True):
        grid.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(grid)


def known_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts; what is not known is None."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if value != value else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """What it is, and the value, a line each."""
    for label, value in facts:
        print(f"{label + ':':<18}{value}")
