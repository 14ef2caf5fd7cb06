"""Which characters are of a kind, as a table by code point, so that whole texts are looked up at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex

CODE_POINTS = 0x110000
#: characters of scripts that put no spaces between words, for a regex's [...]: by Unicode's line breaking
#: Thai, Lao, Khmer, Burmese (SA), Javanese, Balinese, Batak (AK, AS), Han and Kana (ID, CJ), and Tibetan,
#: which parts syllables
UNSPACED = r"\p{Script=Tibetan}" + "".join(rf"\p{{Line_Break={kind}}}" for kind in "SA AK AS ID CJ".split())
ASSIGNED = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000))  # but for private use


@lru_cache
def members(pattern: str) -> np.ndarray:
    """A bool for each code point: whether the pattern, of one character, matches it."""
    found = np.zeros(CODE_POINTS, bool)
    for part in ASSIGNED:
        text = "".join(map(chr, part))
        found[[part[0] + match.start() for match in regex.finditer(pattern, text)]] = True
    return found


def code_points(text: str) -> np.ndarray:
    """The characters of a text as uint32."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def code_points_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The characters of texts one after the other as uint32, and where each text ends."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    points = np.array("".join(texts)).reshape(1).view(np.uint32)  # a third of the time that encoding takes
    return points[: ends[-1] if len(ends) else 0], ends


def as_text(points: np.ndarray) -> str:
    """The text of code points."""
    return points.tobytes().decode("utf-32-le")


def script_share(text: str, script: str) -> float:
    """Share of the letters of `text` that are in the Unicode script `script`; 0 for no letters."""
    points = code_points(text)
    letters = int(np.count_nonzero(members(r"\p{L}")[points]))
    own = int(np.count_nonzero(members(rf"(?=\p{{Script={script}}})\p{{L}}")[points]))
    return own / letters if letters else 0.0
