"""Rows of all kinds, as people have them in files, with what an independent reading says of each."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from hypothesis import strategies as st
from support import strategies  # noqa: F401  # its settings: no deadline, the same examples each time

# Ends of lines for str.splitlines and for Python's universal newlines, but not for JSON Lines.
SEPARATORS = "\u2028\u2029\x85\r\x0b\x0c\x1c\x1d\x1e"
TYPED = "ড়\u09dfe\u0301"  # not NFC: Bengali as keyboards type it (U+09DF), a letter with its accent apart
SURROGATE = "half \ud83d"
texts = st.text(st.sampled_from(f"aক{TYPED}བ་ \t\ufeff\u200d\"\\{{}}'{SEPARATORS}"), max_size=12)
numbers = st.one_of(st.integers(-5, 10**25), st.floats(), st.booleans())
odd = st.sampled_from([SURROGATE, TYPED, None, math.nan, math.inf, 7, True, ["a"], {"bn": "a"}, " "])
values = st.recursive(
    st.one_of(texts, odd, numbers),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner)),
    max_leaves=5,
)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and not any(0xD800 <= ord(c) <= 0xDFFF for c in value)


def is_seen(value: Any) -> bool:
    """Whether anything of a text is on a page: read from the kinds of characters above."""
    return is_text(value) and bool(value.strip(f" \t\n\ufeff\u200d\x85{SEPARATORS}"))


def as_bytes(rows: list[Any], end: str, mark: bool, ascii_only: bool) -> bytes:
    """JSON Lines; half characters stand as escapes, since UTF-8 cannot hold them."""
    lines = (json.dumps(row, ensure_ascii=ascii_only or "\ud83d" in repr_of(row)) for row in rows)
    return ("\ufeff" * mark + "".join(line + end for line in lines)).encode()


def repr_of(value: Any) -> str:
    """Every text in a value, put together."""
    if isinstance(value, dict):
        return "".join(k + repr_of(v) for k, v in value.items())
    return (
        "".join(map(repr_of, value)) if isinstance(value, list) else value if isinstance(value, str) else ""
    )


def single(value: Any) -> list[Any]:
    """The single values in lists and objects, at any depth."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [found for part in parts for found in single(part)]
    return [value]


def is_unfit(value: Any) -> bool:
    """What no row of a task may hold anywhere: half a character, NaN, infinity."""
    half = isinstance(value, str) and not is_text(value)
    return half or (isinstance(value, float) and not math.isfinite(value))


def is_nfc(value: Any) -> bool:
    return all(unicodedata.is_normalized("NFC", v) for v in single(value) if isinstance(v, str))
