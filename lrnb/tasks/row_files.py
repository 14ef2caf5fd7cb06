"""Rows of local eval/ and sft/ files: read, checked, and in NFC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lrnb.data.lines import json_lines
from lrnb.data.placeholders import refuse_example
from lrnb.data.unicode_form import has_surrogate, is_nan, nfc
from lrnb.errors import UserError

FEW = 3  # rows that may share a text in any file: a passage with several questions


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl file with `item`, the zero-based line number. UserError names file:line."""
    rows = [{**checked_row(row, f"{path}:{number}"), "item": number - 1} for number, row in json_lines(path)]
    if not rows:
        raise UserError(f"{path} is empty; give it at least one row, or leave the task out")
    return rows


def checked_row(row: Any, where: str) -> dict[str, Any]:
    """A row in NFC. UserError where it is no object, holds what is neither text nor a value of JSON, or is an
    example that `lrnb new` wrote.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is expected, not {type(row).__name__}; mend or remove it")
    for field, value in row.items():
        for part in leaves([field, value]):
            if isinstance(part, str) and has_surrogate(part):
                raise UserError(
                    f"{where}: {field!a} holds half a character (a lone surrogate, as of a text that was cut "
                    "in UTF-16); mend the text, or remove the row"
                )
            refuse_example(part, where)
            if is_nan(part):
                raise UserError(
                    f"{where}: {field!r} is {part}, which JSON does not have; give a value, or remove the row"
                )
    return nfc(row)


def texts_in(row: Any) -> Iterator[str]:
    """Every text in a row, at any depth."""
    return (part for part in leaves(row) if isinstance(part, str))


def item_texts(rows: Iterable[Any]) -> Iterator[str]:
    """The texts of rows that tell them apart: not those that most rows share, as a licence or a question."""
    rows = list(rows)
    count = Counter(text for row in rows for text in set(texts_in(row)))
    return (text for text, n in count.items() if n < FEW or 2 * n <= len(rows))


def leaves(value: Any) -> Iterator[Any]:
    """The single values in lists and objects, and names of fields of inner objects, at any depth."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value
