"""The number in a generated answer, whatever digits it is written in.

Any Unicode decimal digits count (Bengali ৭, Tibetan ༧, Mongolian ᠗, ...). Which number of a text is the
answer is the task's rule: `last`, as MGSM's flexible-extract in the harness, or `first`. docs/tasks.md
says which forms are read and which are refused.
"""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from typing import Any

import regex

RULES = ("last", "first")
_SPACES = r" \u00a0\u2009\u202f"
_FRACTIONS = r"[\u00bc-\u00be\u2150-\u215f\u2189\u09f4-\u09f9\u0b72-\u0b77\u0f2a-\u0f33]"


def _grouped(signs: str, name: str) -> str:
    """Groups of three (1,000,000) or Indian ones (10,00,000), all split by the same sign."""
    three, indian = name, name + "_indian"
    return (
        rf"[1-9]\d{{0,2}}(?P<{three}>[{signs}])\d{{3}}(?:(?P={three})\d{{3}})*(?!\d)"
        rf"|[1-9]\d?(?P<{indian}>[{signs}])\d{{2}}(?:(?P={indian})\d{{2}})*(?P={indian})\d{{3}}(?!\d)"
    )


# What stands together as one number, readable or not, in ASCII digits. A minus counts where no letter,
# vowel sign or digit stands before it: in "5-3" and "কোভিড-19" it is none.
_WRITTEN = regex.compile(
    r"(?:(?<![\p{L}\p{M}\p{N}_])[-\u2212\u2013])?"
    rf"(?:{_grouped(_SPACES, 's')}|\d+)(?:[.,\u066b\u066c\u060c]\d+)*"
    rf"(?: ?[/\u2044] ?\d+| \d+[/\u2044]\d+| ?{_FRACTIONS})*"
    rf"|{_FRACTIONS}"
)
_READABLE = regex.compile(
    rf"(?P<sign>-?)(?:(?P<whole>{_grouped(_SPACES, 's')}|{_grouped(',', 'c')}|\d+)(?:\.(?P<part>\d+))?"
    r"|(?P<dotted>[1-9]\d{0,2}(?:\.\d{3}){2,}))"
)
_ASCII = str.maketrans("\u2212\u2013\u066b\u066c\u060c", "--.,,")


def number(text: str, rule: str = "last") -> str:
    """The first or last number of a text in ASCII digits without separators; "" where there is none.

    "৳ ১,২০০.৫০।" -> "1200.5"; equal numbers give equal strings. Where that number is written in a form
    that cannot be read for certain ("1,5", "3/4", "½") it is "" as well, not a part or another number.
    """
    found = _written(text)
    return _read(found[-1 if rule == "last" else 0]) if found else ""


def exact(value: Any) -> str:
    """A right answer as `number` returns it: a number, or a text with one number; "" where it is neither."""
    if isinstance(value, str):
        return number(value) if len(_written(value)) == 1 else ""
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
    digits = regex.sub(r"\D", "", match["whole"] or match["dotted"])
    whole, part = digits.lstrip("0"), (match["part"] or "").rstrip("0")
    if len(digits) > 1 and not whole + part and match["part"] is None:
        return ""  # "000" is the end of a number whose groups are not understood
    value = (whole or "0") + ("." + part if part else "")
    return match["sign"] + value if value != "0" else "0"
