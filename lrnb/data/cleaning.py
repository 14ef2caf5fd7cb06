"""Which documents of a corpus are kept: one Unicode form, script, duplicates, language, evaluation items.

What a document tells by itself (its form, letters, hash, language, items, sketch) is found by the study's
threads, part by part; what depends on earlier documents is decided in their order, so that the same documents
are kept for every number of threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lrnb.data.ahead import ahead, parts
from lrnb.data.character_kinds import code_points_of, members
from lrnb.data.contamination import Items
from lrnb.data.exact_duplicates import ExactDuplicates
from lrnb.data.language_check import LanguageCheck
from lrnb.data.unicode_form import each_nfc
from lrnb.errors import UserError
from lrnb.study.environment import threads_used

OTHER_LANGUAGE = "other language"  # why a document is dropped
#: by the numbers of `text_loops`; items have a reason for each task
REASONS = ("", "empty", "other script", "duplicate", OTHER_LANGUAGE, "", "near duplicate")


def clean(
    documents: Iterable[str], script: str, min_share: float, near: float, dropped: Counter[str],
    items: Items | None = None, language: LanguageCheck | None = None,
) -> Iterator[str]:  # fmt: skip
    """NFC, script filter, exact deduplication, language, no items of an evaluation, near deduplication.

    By as many threads as the study has where items are looked for; the rest is too little work for a second
    one to be of use. What is dropped is counted by reason in `dropped`, of `items` by
    task. UserError at the end where there were documents and none is left.
    """
    cleaner, left = Cleaner(script, min_share, near, items, language), False
    dropped.update({_of_items(task): 0 for task in items.tasks} if items else {})
    for part in ahead(cleaner.look, parts(documents), threads_used() if items else 1):
        for text, reason in cleaner.decide(part):
            if reason:
                dropped[reason] += 1
            else:
                left = True
                yield text
    if dropped.total() and not left:
        raise UserError(_all_dropped(script, min_share, dropped))


@dataclass(frozen=True)
class Looked:
    """What documents tell by themselves. fates: numbers of `text_loops`, 0 where nothing is against them."""

    texts: list[str]
    fates: np.ndarray  # uint8
    hashes: np.ndarray  # uint64
    sketches: np.ndarray | None  # uint16 of shape (documents, hash functions)
    labels: dict[int, str]  # of a language, by place
    tasks: dict[int, str]  # that an item is of, by place


class Cleaner:
    """Decides on documents one part after the other: `look` by any thread, `decide` in their order."""

    def __init__(
        self, script: str, min_share: float, near: float, items: Items | None, language: LanguageCheck | None
    ) -> None:
        from lrnb.data.near_duplicates import NearDuplicates

        self._kinds, self._min_share = _letter_kinds(script), min_share if script else 0
        self._seen, self._known = ExactDuplicates(), NearDuplicates(near) if near < 1 else None
        self._items, self._language = items or None, language

    def look(self, documents: list[str]) -> Looked:
        """What does not depend on other documents; left out where an earlier one is known to be the same."""
        from lrnb.data.text_loops import summaries

        texts = [text.strip() for text in each_nfc(documents)]
        points, ends = code_points_of(texts)
        hashes, letters = summaries(points, ends, self._kinds)
        fates = self._by_letters(ends, letters)
        wanted = (fates == 0) & ~self._seen.known(hashes)
        labels = self._labels(texts, fates, wanted)
        tasks = self._tasks(texts, points, ends, fates, wanted)
        sketches = self._known.sketches(points, ends, wanted & (fates == 0)) if self._known else None
        return Looked(texts, fates, hashes, sketches, labels, tasks)

    def _by_letters(self, ends: np.ndarray, letters: np.ndarray) -> np.ndarray:
        """The first fates: of texts without a character, and of those in another script."""
        from lrnb.data.text_loops import EMPTY, OTHER_SCRIPT

        share = letters[:, 1] / np.maximum(letters[:, 0], 1)
        fates = np.where(share < self._min_share, OTHER_SCRIPT, 0).astype(np.uint8)
        fates[np.diff(ends, prepend=0) == 0] = EMPTY
        return fates

    def _labels(self, texts: list[str], fates: np.ndarray, wanted: np.ndarray) -> dict[int, str]:
        """The languages of wanted texts; those in another one are marked."""
        from lrnb.data.text_loops import OTHER_LANGUAGE as OTHER

        if self._language is None:
            return {}
        found = {place: self._language.label(texts[place]) for place in np.flatnonzero(wanted).tolist()}
        for place, label in found.items():
            fates[place] = OTHER if self._language.is_other(label) else 0
        return found

    def _tasks(
        self, texts: list[str], points: np.ndarray, ends: np.ndarray, fates: np.ndarray, wanted: np.ndarray
    ) -> dict[int, str]:
        """The tasks of which texts that are left hold an item; they are marked."""
        from lrnb.data.text_loops import OF_ITEMS

        if self._items is None:
            return {}
        held = self._items.may_be_in(points, ends, wanted & (fates == 0))
        places: list[int] = np.flatnonzero(held).tolist()
        found = {place: task for place in places if (task := self._items.held_by(texts[place]))}
        fates[[*found]] = OF_ITEMS
        return found

    def decide(self, part: Looked) -> Iterator[tuple[str, str]]:
        """Each text with the reason to drop it, "" for none."""
        from lrnb.data.text_loops import DUPLICATE

        self._seen.mark(part.fates, part.hashes)
        if self._known and part.sketches is not None:
            self._known.mark(part.fates, part.sketches)
        for place, (text, fate) in enumerate(zip(part.texts, part.fates.tolist(), strict=True)):
            if self._language and fate != DUPLICATE and place in part.labels:
                self._language.found[part.labels[place]] += 1
            yield text, REASONS[fate] or _of_items(part.tasks[place]) if fate else ""


def _letter_kinds(script: str) -> np.ndarray:
    """By code point: LETTER and OWN_LETTER of `text_loops`, of a script of Unicode; "" for none."""
    from lrnb.data.text_loops import LETTER, OWN_LETTER

    kinds = members(r"\p{L}") * np.uint8(LETTER)
    if script:
        kinds |= members(rf"(?=\p{{Script={script}}})\p{{L}}") * np.uint8(OWN_LETTER)
    return kinds


def _of_items(task: str) -> str:
    return f"holds items of {task}"


def told_counts(dropped: Counter[str]) -> str:
    """What was dropped, for a message."""
    return ", ".join(f"{reason}: {n:,}" for reason, n in dropped.items() if n)


def _all_dropped(script: str, min_share: float, dropped: Counter[str]) -> str:
    return (
        f"cleaning left no text ({told_counts(dropped)}). Documents need {min_share:.0%} of their letters in "
        f"the script {script or 'any'}, and hold no item of an evaluation: give such text, or check "
        "script in the language's file in params/ and script_min_share"
    )
