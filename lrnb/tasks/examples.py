"""Solved examples before an item: drawn as the harness draws them, but never the item itself or its twin.

Published sets repeat rows, within a split and across splits, and where a task has test rows alone they are
the examples as well: an answer would stand in the prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from lrnb.data.unicode_form import nfc

Doc = dict[str, Any]
Mark = tuple[Any, str]  # the training set and the text of a row


def level(text: str) -> str:
    """A text with what does not make two rows different taken out: NFC, words apart by one space."""
    return " ".join(nfc(text).split())


class Examples:
    """A sampler of the harness that leaves out what may not stand before the item that is `asked`.

    of_item, of_example: the text of each, equal for twins. Docs with `set` stand before items of that set
    alone.
    """

    def __init__(self, sampler: Any, of_item: Callable[[Doc], str], of_example: Callable[[Doc], str]) -> None:
        self.sampler, self.of_item, self.of_example, self.asked = sampler, of_item, of_example, Doc()
        self.pool = list(sampler.fewshot_docs())
        sampler.fewshot_indices = None  # they have picked the pool
        sampler.replace_df(self.pool)

    def set_rnd(self, seed: int | None) -> None:
        """Called by the harness."""
        self.sampler.set_rnd(seed)

    def sample(self, n: int, eval_doc: Doc | None = None) -> list[Doc]:
        """`n` examples: the harness's own draw if it is free of twins, else `n` of what may stand there."""
        own, drawn = _mark(self.asked, self.of_item), list(self.sampler.sample(n, eval_doc=eval_doc))
        if all(self._may(doc, own) for doc in drawn):
            return drawn
        try:
            return list(self.sampler.replace_df([d for d in self.pool if self._may(d, own)]).sample(n))
        finally:
            self.sampler.replace_df(self.pool)

    def _may(self, doc: Doc, own: Mark) -> bool:
        number, text = _mark(doc, self.of_example)
        return number == own[0] and text != own[1]

    def counts(self, items: Iterable[Doc]) -> tuple[int, int]:
        """How many examples every item has at least, and how many items stand among the examples."""
        marks = [_mark(doc, self.of_example) for doc in self.pool]
        sizes, twins = Counter(number for number, _ in marks), Counter(marks)
        own = [_mark(doc, self.of_item) for doc in items]
        return min(sizes[mark[0]] - twins[mark] for mark in own), sum(twins[mark] > 0 for mark in own)


def _mark(doc: Doc, text: Callable[[Doc], str]) -> Mark:
    return doc.get("set"), level(text(doc))
