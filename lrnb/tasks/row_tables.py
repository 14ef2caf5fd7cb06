"""Rows of tables: tab-separated with a line of names, as SIB-200 is published, and parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrnb.data.lines import numbered_lines
from lrnb.errors import UserError

QUOTES = "put a cell that has quotes in it into quotes, with each of them doubled, or write JSON lines"


def tsv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with the numbers of their lines; cells may be quoted as pandas and spreadsheets do it.

    UserError with file and line where a line has more or fewer cells than the first one has names, or a
    quote is not closed.
    """
    lines = numbered_lines(path)
    names = next((_cells(line, f"{path}:{number}") for number, line in lines), [])
    for number, line in lines:
        cells = _cells(line, f"{path}:{number}")
        if len(cells) != len(names):
            raise UserError(
                f"{path}:{number}: has {len(cells)} cells, the first line names {len(names)} "
                f"({', '.join(names)}); mend the line, with one tab between cells"
            )
        yield number, dict(zip(names, cells, strict=True))


def _cells(line: str, where: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error as error:
        raise UserError(f"{where}: the cells cannot be told apart ({error}); {QUOTES}") from None


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a parquet file. UserError where it cannot be read."""
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as parquet ({reason}); write, copy or download the file again"
        ) from None
