"""NFC of long texts at the speed of reading them: most are in it already, and tables tell.

The quick check of Unicode's annex 15, with one more look: Indic vowel signs may belong to the letter before
them, which leaves the standard library's check in doubt, but only few letters take one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lrnb.data.character_kinds import ASSIGNED, CODE_POINTS, code_points, code_points_of

NEVER, SECOND, FIRST = 1, 2, 4  # not in NFC; may join what is before it; may be joined by what comes after it
JAMO = (range(0x1100, 0x1113), range(0x1161, 0x1176), range(0x11A7, 0x11C3))  # their syllables go by rule
LONG = 200  # characters; shorter texts are not worth a table


def to_nfc(text: str) -> str:
    """`unicodedata.normalize("NFC", text)`."""
    return text if len(text) >= LONG and surely_nfc(text) else unicodedata.normalize("NFC", text)


def each_in_nfc(texts: Sequence[str]) -> list[str]:
    """`to_nfc` of many texts at once."""
    from lrnb.data.text_loops import are_settled

    settled = are_settled(*code_points_of(texts), *nfc_tables())
    both = zip(texts, settled, strict=True)
    return [text if sure else unicodedata.normalize("NFC", text) for text, sure in both]


def surely_nfc(text: str) -> bool:
    """Whether a text is in NFC, as far as its characters and their neighbours tell; False says nothing."""
    from lrnb.data.text_loops import is_settled

    return bool(is_settled(code_points(text), *nfc_tables()))


@lru_cache
def nfc_tables() -> tuple[np.ndarray, np.ndarray]:
    """By code point: how it takes part in NFC, and its combining class."""
    parts, classes = np.zeros(CODE_POINTS, np.uint8), np.zeros(CODE_POINTS, np.uint8)
    for point in (x for part in ASSIGNED for x in part):
        character = chr(point)
        classes[point] = unicodedata.combining(character)
        pair = unicodedata.decomposition(character).split()
        if unicodedata.normalize("NFC", character) != character:
            parts[point] |= NEVER
        elif len(pair) == 2 and "<" not in pair[0]:
            parts[int(pair[0], 16)] |= FIRST
            parts[int(pair[1], 16)] |= SECOND
            parts[point] |= FIRST  # what comes after it may belong to its first part
    for jamo in JAMO:
        parts[list(jamo)] |= FIRST | SECOND
    parts[0xAC00:0xD7A4] |= FIRST
    return parts, classes
