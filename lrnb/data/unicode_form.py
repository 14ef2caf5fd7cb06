"""One Unicode form for all text, and what is no text: asked at every door through which text comes in."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from lrnb.data.mongolian import by_shape
from lrnb.data.normal_form import each_in_nfc, to_nfc

KINDS = {type(None): "null", bool: "true or false", int: "number", float: "number", dict: "object"}
KINDS |= {list: "list", tuple: "list"}
UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf"}


def nfc(value: Any) -> Any:
    """A value with every text in it in NFC; names of fields stay. Letters as typed (Bengali U+09DF) are not.

    Equal-looking text must be equal tokens: corpora, items, options, prompts and the pruned vocabulary. So
    with the extra `mongolian` words of traditional Mongolian are written by their shape (`mongolian`).
    """
    if isinstance(value, str):
        return by_shape(to_nfc(value))
    if isinstance(value, dict):
        return {key: nfc(part) for key, part in value.items()}
    return [nfc(part) for part in value] if isinstance(value, list | tuple) else value


def each_nfc(texts: Sequence[str]) -> list[str]:
    """`nfc` of many texts at once."""
    return [by_shape(text) for text in each_in_nfc(texts)]


def why_no_text(value: Any) -> str:
    """What a value is that is no text (null, number, NaN, list, ..., lone surrogate); "" for a text."""
    if isinstance(value, str):
        return "lone surrogate" if has_surrogate(value) else ""
    if is_nan(value):
        return "NaN"
    return KINDS.get(type(value), type(value).__name__)


def has_surrogate(text: str) -> bool:
    """Whether a text holds half of a UTF-16 pair, which is no character: UTF-8 cannot write it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def is_blank(text: str) -> bool:
    """Whether nothing of a text is seen: no character, or only spaces, controls and marks of format."""
    return all(unicodedata.category(sign) in UNSEEN for sign in text)


def is_nan(value: Any) -> bool:
    """Whether a number is NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)
