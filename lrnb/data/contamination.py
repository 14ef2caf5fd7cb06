"""Evaluation items in text to train on: found by long stretches of letters that both have.

The rule is that of GPT-4's report (OpenAI 2023, arXiv 2303.08774, appendix C): only letters and digits are
compared, without spaces and marks, and STRETCH of them in a row are an overlap. There three stretches of an
item are drawn, here all count. It needs no words, so it holds for scripts without spaces. Fifty letters are
8 to 10 words of Bengali or English, as long as the n-grams of other reports (8 in PaLM, 13 in GPT-3).

Shorter texts are common turns too often to tell by themselves: down to BLOCK letters they count where they
are found whole and make up half of the document or more; still shorter ones (labels, single words) never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

import numpy as np
import regex

from lrnb.data import mongolian
from lrnb.data.character_kinds import ASSIGNED, CODE_POINTS, as_text, code_points, members
from lrnb.data.normal_form import nfc_tables
from lrnb.data.unicode_form import nfc

STRETCH, BLOCK = 50, 25  # letters; a stretch of 2 * BLOCK - 1 holds a whole block of the item's text
ADDRESS = regex.compile(r"https?://\S+")
COMPARED_LETTERS = r"(?!\p{Variation_Selector})[\p{L}\p{M}\p{N}]"


def letters(text: str) -> str:
    """The letters, vowel signs and digits of a text but of web addresses, case folded, in NFC."""
    points = code_points(ADDRESS.sub("", nfc(nfc(text).casefold())))
    return as_text(points[members(COMPARED_LETTERS)[points]])


class Items:
    """Texts of evaluation items by task, to be found again in other text."""

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        self.tasks = tuple(texts)
        self._blocks: dict[str, list[tuple[str, str, int]]] = defaultdict(list)  # task, its text, place
        for task, own in texts.items():
            for text in dict.fromkeys(map(letters, own)):
                for place in range(0, len(text) - BLOCK + 1, BLOCK):
                    self._blocks[text[place : place + BLOCK]].append((task, text, place))
        self._table = np.zeros(4 << len(self._blocks).bit_length(), np.uint64)  # at least half stays empty
        _put_blocks(self._blocks, self._table)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def may_be_in(self, points: np.ndarray, ends: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Which of the wanted texts in NFC, that end at `ends` of the code points, `held_by` has to look at.

        By hashes of their letters, so a rare text that holds no item is among them; by any thread.
        """
        from lrnb.data.text_loops import may_hold

        return may_hold(points, ends, wanted, BLOCK, self._table, *_folding(), *nfc_tables())

    def held_by(self, document: str) -> str:
        """The first task of which a document holds an item; "" where it holds none."""
        from lrnb.data.text_loops import holds_any, stretches

        found, short = letters(document), {}
        if not self or not found or not holds_any(stretches(code_points(found), BLOCK), self._table):
            return ""
        for start in range(len(found) - BLOCK + 1):
            for task, text, place in self._blocks.get(found[start : start + BLOCK], ()):
                common = _common(found, start, text, place)
                if common >= STRETCH:
                    return task
                if common == len(text):
                    short[text] = task
        return next(iter(short.values())) if 2 * sum(map(len, short)) >= len(found) > 0 and short else ""


def _put_blocks(blocks: Collection[str], table: np.ndarray) -> None:
    """Hashes of the blocks, by which texts that hold none are told at once."""
    from lrnb.data.text_loops import put_in, stretches

    for block in blocks:
        put_in(stretches(code_points(block), BLOCK), table)


@lru_cache
def _folding() -> tuple[np.ndarray, np.ndarray]:
    """By code point: its case folded, or LARGEST where `letters` has to look; COMPARED and SPACE."""
    from lrnb.data.text_loops import COMPARED, LARGEST, SPACE

    folded = np.arange(CODE_POINTS, dtype=np.uint32)
    for point in (x for part in ASSIGNED for x in part):
        fold = chr(point).casefold()
        folded[point] = ord(fold) if len(fold) == 1 else LARGEST
    if mongolian.mongol_norm is not None:
        folded[0x1800:0x18B0] = LARGEST
    return folded, members(COMPARED_LETTERS) * np.uint8(COMPARED) + members(r"\s") * np.uint8(SPACE)


def _common(a: str, i: int, b: str, j: int) -> int:
    """Length, as far as STRETCH around it matters, of the stretch around a[i] and b[j] that is the same."""
    before = after = 0
    while before < min(i, j, STRETCH) and a[i - before - 1] == b[j - before - 1]:
        before += 1
    while after < min(len(a) - i, len(b) - j, STRETCH) and a[i + after] == b[j + after]:
        after += 1
    return before + after
