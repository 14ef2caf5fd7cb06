"""The forms in which published sets write a row, brought to the one that `rows` knows.

MiLiC-Eval (Zhang et al. 2025) writes a context as a list of turns, an answer as a letter, and a label and a
worked solution in several languages: {"en": ..., "zh": ...}. Its files are JSON lists. SIB-200 is
tables with tabs; what its fields and Belebele's are called is in the task files (`hub.from_published`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any

from lrnb.data.lines import json_lines, json_value, numbered_lines
from lrnb.errors import UserError
from lrnb.tasks.row_files import checked_row, read_rows
from lrnb.tasks.row_tables import parquet_rows, tsv_rows
from lrnb.tasks.written_answers import number_in

SUFFIXES = (".jsonl", ".json", ".tsv", ".parquet")


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .json file, a list of objects, with `item`, their place in it. UserError names the file."""
    text = "\n".join(line for _, line in numbered_lines(path))
    found = json_value(text, str(path), "mend the file, or fetch it again")
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: a JSON list of one row or more is expected; one object a line is .jsonl")
    return _numbered((f"{path}:{place}", row) for place, row in enumerate(found, 1))


def _numbered(rows: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{**checked_row(row, where), "item": place} for place, (where, row) in enumerate(rows)]


def file_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines, a JSON list, a table with tabs or parquet, with `item`, their place.

    UserError with file and line, or row, for what cannot be read, and where there is none.
    """
    if path.suffix not in (".tsv", ".parquet"):
        return json_rows(path) if path.suffix == ".json" else read_rows(path)
    found = tsv_rows(path) if path.suffix == ".tsv" else enumerate(parquet_rows(path), 1)
    if not (rows := _numbered((f"{path}:{number}", row) for number, row in found)):
        raise UserError(f"{path} has no rows; give it at least one, or leave the task out")
    return rows


def place_of(where: str, row: dict[str, Any]) -> str:
    """A file and the line of a row in it, or its number; tables have a line of names first."""
    return f"{where}:{row['item'] + 1 + where.endswith('.tsv')}"


def any_rows(path: Path) -> Iterable[Any]:
    """What a file of rows holds, whatever it is; there may be nothing in .jsonl."""
    if path.suffix == ".jsonl":
        return (row for _, row in json_lines(path))
    if path.suffix == ".json":
        return json_rows(path)
    return (row for _, row in tsv_rows(path)) if path.suffix == ".tsv" else parquet_rows(path)


def known_form(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row with one text as `context`, an index as `answer`, English `label` and `cot`.

    UserError where turns are no texts, or an English one is missing.
    """
    changed: dict[str, Any] = {}
    if isinstance(turns := row.get("context"), list):
        changed["context"] = _joined(turns, where)
    if "options" in row and row.get("answer") in list(LETTERS):
        changed["answer"] = LETTERS.index(row["answer"])
    for key in ("label", "cot"):
        if isinstance(row.get(key), dict):
            changed[key] = _english(row[key], key, where)
    return row | changed


def _joined(turns: list[Any], where: str) -> str:
    if not turns or not all(isinstance(turn, str) for turn in turns):
        raise UserError(f"{where}: 'context' is a list, but not of texts; correct the row, or leave it out")
    return "\n".join(turns)


def _english(texts: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(text := texts.get("en"), str) or not text.strip():
        raise UserError(f"{where}: {key!r} has no text under 'en', but {sorted(texts)}; correct the row")
    return text


def worked(row: dict[str, Any], answer: str, rule: str) -> str:
    """What an example shows as its answer: the row's worked solution on one line, else the answer alone.

    The answer ends a solution that does not end with it; only where the last number counts are there any.
    """
    if rule != "last" or not isinstance(row.get("cot"), str) or not row["cot"].strip():
        return answer
    solution = " ".join(row["cot"].split())  # a written answer ends with its line
    return solution if number_in(solution) == answer else f"{solution} The answer is {answer}."
