"""Written answers: the right one of a row, what a generated text says, whether they are the same.

Which part of a text counts is the task's rule: its `last` number, as MGSM's flexible-extract in the
harness, its `first`, or `text`: all of it. Any Unicode decimal digits count (Bengali ৭, Tibetan ༧,
Mongolian ᠗, ...); docs/tasks.md says which forms of numbers are read and which are refused.
"""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from typing import Any

import regex

from lrnb.data.unicode_form import nfc
from lrnb.errors import UserError

TEXT = "text"
RULES = ("last", "first", TEXT)
_NO_BREAK = r"\u00a0\u2009\u202f"
_FRACTIONS = r"[\u00bc-\u00be\u2150-\u215f\u2189\u09f4-\u09f9\u0b72-\u0b77\u0f2a-\u0f33]"
_POINT = r"[.\u066b]"
_MINUS = r"[-\u2212\u2013]"
_POWERS = r"[\u00b2\u00b3\u00b9\u2070\u2074-\u207b]"


def _grouped(signs: str, name: str) -> str:
    """Groups of three (1,000,000) or Indian ones (10,00,000), all split by the same sign."""
    three, indian = name, name + "_indian"
    return (
        rf"[1-9]\d{{0,2}}(?P<{three}>[{signs}])\d{{3}}(?:(?P={three})\d{{3}})*(?!\d)"
        rf"|[1-9]\d?(?P<{indian}>[{signs}])\d{{2}}(?:(?P={indian})\d{{2}})*(?P={indian})\d{{3}}"
        rf"(?!\d|(?P={indian})\d{{3}}(?!\d))"  # in "10 20 30 400 500" it is "30 400 500" that may be one
    )


# Split by plain spaces, "10 200 300" may be a list. A group that begins with 0 is no number of a list.
_SPACED = r"[1-9]\d{0,2}(?: 0\d{2})+|[1-9]\d?(?: 0\d)+ 0\d{2}"
# What stands together as one number, readable or not, in ASCII digits. A minus, and a point before the
# first digit, count where no letter, vowel sign or digit stands before them: in "5-3", "কোভিড-19" and "No.5"
# they do not; nor does the last point of an ellipsis.
_WRITTEN = regex.compile(
    rf"(?:(?<![\p{{L}}\p{{M}}\p{{N}}_]){_MINUS})?"
    rf"(?:{_grouped(' ' + _NO_BREAK, 's')}|\d+|(?<![\p{{L}}\p{{M}}\p{{N}}_.\u066b]){_POINT}\d+)"
    rf"(?:[.,\u066b\u066c\u060c]\d+| {_POINT}\d+| ?[/\u2044] ?{_POINT}?\d+| \d+[/\u2044]\d+| ?{_FRACTIONS}"
    rf"|{_POINT}?[eE](?:{_MINUS}|\+)?\d+|(?:\^|\*\*){_MINUS}?\d+|{_POWERS}+)*"
    rf"|{_FRACTIONS}"
)
_READABLE = regex.compile(
    rf"(?P<sign>-?)(?:(?P<whole>{_grouped(_NO_BREAK, 's')}|{_SPACED}|{_grouped(',', 'c')}|\d+)?"
    r"(?:\.(?P<part>\d+))?|(?P<dotted>[1-9]\d{0,2}(?:\.\d{3}){2,}))"
)
_ASCII = str.maketrans("\u2212\u2013\u066b\u066c\u060c", "--.,,")


def right(row: dict[str, Any], rule: str, where: str) -> str:
    """The right answer of a row: its right option, else its `answer`. UserError where there is none."""
    named = "options" in row and "answer" not in row and "label" in row
    answer = row["label"] if named else _option(row, where) if "options" in row else row.get("answer")
    if rule != TEXT:
        return _number(answer, where)
    if not isinstance(answer, str) or not _level(answer):
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
    if not (found := exact(answer)):
        raise UserError(
            f"{where}: 'answer' is {answer!r}; a written answer needs one number, as 1200 or 1.5: "
            "correct the row, or leave it out"
        )
    return found


def said(text: str, rule: str) -> str:
    """The answer that a generated text gives; "" where there is none."""
    return text.strip() if rule == TEXT else number_in(text, rule)


def same(text: str, answer: str, rule: str) -> bool:
    """Whether a generated text gives the right answer; of texts the `level` forms count."""
    found = said(text, rule)
    return _level(found) == _level(answer) if rule == TEXT else found == answer


def _level(text: str) -> str:
    """NFC, case folded, words apart by one space."""
    return " ".join(nfc(text).casefold().split())


def number_in(text: str, rule: str = "last") -> str:
    """The first or last number of a text in ASCII digits without separators; "" where there is none.

    "৳ ১,২০০.৫০।" -> "1200.5"; equal numbers give equal strings. Where that number is written in a form
    that cannot be read for certain ("1,5", "3/4", "1e5", "10 200") it is "" as well, not a part of it or
    another number.
    """
    found = _written(text)
    return _read(found[-1 if rule == "last" else 0]) if found else ""


def exact(value: Any) -> str:
    """A right answer as `number_in` returns it: of a number, or a text with one; "" where it is neither."""
    if isinstance(value, str):
        return number_in(value) if len(_written(value)) == 1 else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return _read(format(Decimal(str(value)), "f"))


def _written(text: str) -> list[str]:
    text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    return [match[0] for match in _WRITTEN.finditer(text)]


def _read(written: str) -> str:
    match = _READABLE.fullmatch(written.translate(_ASCII))
    if match is None:
        return ""
    digits = regex.sub(r"\D", "", match["whole"] or match["dotted"] or "")
    whole, part = digits.lstrip("0"), (match["part"] or "").rstrip("0")
    if len(digits) > 1 and not whole + part and match["part"] is None:
        return ""  # "000" is the end of a number whose groups are not understood
    value = (whole or "0") + ("." + part if part else "")
    return match["sign"] + value if value != "0" else "0"
