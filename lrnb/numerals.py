"""The number in a generated answer, whatever digits it is written in.

Any Unicode decimal digits count (Bengali ৭, Tibetan ༧, Mongolian ᠗, ...). Which number of a text is the
answer is the task's rule: `last`, as MGSM's flexible-extract in the harness, or `first`.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

RULES = ("last", "first")
# A minus counts where no digit or letter stands before it: in "5-3" it is none. Groups of a thousand may be
# split as in the West (1,000,000) or in India (10,00,000), and by an Arabic separator (U+066C).
_NUMBER = re.compile(
    r"(?:(?<![\w])[-\u2212\u2013])?"
    r"(?:\d{1,3}(?:[,\u066c]\d{2,3})*[,\u066c]\d{3}(?!\d)|\d+)"
    r"(?:[.\u066b]\d+)?"
)


def number(text: str, rule: str = "last") -> str:
    """The first or last number of a text in ASCII digits without separators; "" where there is none.

    "৳ ১,২০০.৫০।" -> "1200.5"; equal numbers give equal strings.
    """
    found = _NUMBER.findall(text)
    return canonical(found[-1 if rule == "last" else 0]) if found else ""


def canonical(written: str) -> str:
    """A number as `number` returns it."""
    ascii_digits = "".join(_ascii(character) for character in written)
    value = Decimal(ascii_digits)
    return format(value.normalize(), "f") if value else "0"


def _ascii(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    return {"\u2212": "-", "\u2013": "-", "-": "-", ".": ".", "\u066b": "."}.get(character, "")
