"""Written answers: the right one of a row, what a generated text says, whether they are the same.

Which part of a text counts is the task's rule: the `last` or the `first` number in it, or `text`: all of it.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from lrnb import numerals
from lrnb.params import UserError

TEXT = "text"
RULES = (*numerals.RULES, TEXT)


def right(row: dict[str, Any], rule: str, where: str) -> str:
    """The right answer of a row: its right option, else its `answer`. UserError where there is none."""
    named = "options" in row and "answer" not in row and "label" in row
    answer = row["label"] if named else _option(row, where) if "options" in row else row.get("answer")
    if rule != TEXT:
        return _number(answer, where)
    if not isinstance(answer, str) or not level(answer):
        raise UserError(
            f"{where}: 'answer' is {answer!r}; a written answer needs a text that is not empty: correct the "
            "row, or leave it out"
        )
    return answer


def _option(row: dict[str, Any], where: str) -> Any:
    options: Any = row["options"]
    answer: Any = row.get("answer")
    if not isinstance(options, list) or type(answer) is not int or not 0 <= answer < len(options):
        raise UserError(f"{where}: 'answer' must be an index into 'options', a list; correct the row")
    return options[answer]


def _number(answer: Any, where: str) -> str:
    if not (found := numerals.exact(answer)):
        raise UserError(
            f"{where}: 'answer' is {answer!r}; a written answer needs one number, as 1200 or 1.5: "
            "correct the row, or leave it out"
        )
    return found


def said(text: str, rule: str) -> str:
    """The answer that a generated text gives; "" where there is none."""
    return text.strip() if rule == TEXT else numerals.number(text, rule)


def same(text: str, answer: str, rule: str) -> bool:
    """Whether a generated text gives the right answer; of texts the `level` forms count."""
    found = said(text, rule)
    return level(found) == level(answer) if rule == TEXT else found == answer


def level(text: str) -> str:
    """NFC, case folded, words apart by one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
