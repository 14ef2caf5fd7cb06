"""Reading comprehension from running text: a word of what follows a passage is blanked, and stands in it.

In the manner of the Children's Book Test (Hill et al. 2016). A row has a passage (`context`), `options`,
and the index (`answer`) of the option that follows the passage. An item has the passage or its end, as
question a sentence of what follows with one word blanked, and as options four words of the passage: the
blanked one and three that stand beside the same words, end alike and are of similar length. Items are made
one after the other, each so that RULES that look at no meaning are right on a quarter of the items so far.

Words are runs of letters with their marks, so languages written without spaces have no items.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import regex

from lrnb.data.character_kinds import UNSPACED
from lrnb.errors import UserError

BLANK = "____"
OF = "of_rows"  # field of an item: how many lines the file has
WINDOW = 600  # characters of the passage that are shown, if an item can be made of them
SHARE = 0.2  # of the file's passages: words that occur in more are taken for function words
NEAREST = 7  # of the words that could be wrong options, those most like the right one
WORD = regex.compile(r"\p{L}[\p{L}\p{M}\u200c\u200d]*(?:['’_-][\p{L}\p{M}\u200c\u200d]+)*")
PLAIN = regex.compile(rf"[\p{{L}}\p{{M}}\u200c\u200d--[{UNSPACED}]]{{3,}}", regex.V1)
SENTENCE_END = regex.compile(r"""(?<=[.!?।॥؟۔…]["'”’»)]*)\s+""")
KIND, RARE = 16.0, 4.0  # how much likeness and rarity count beside the rules
#: what an option is compared by; the rules pick the option with the most, or the least, of one
RULES = ("count", "first", "last", "length", "passages", "beside", "likeness")


@dataclass(frozen=True)
class Word:
    """A word at a place of a text: its form, the word before and after ("" at a mark or an end)."""

    form: str
    start: int
    end: int
    before: str = ""
    after: str = ""


class Book:
    """What is counted over all passages of a file."""

    def __init__(self, passages: Sequence[str]) -> None:
        self.small = {m.group() for text in passages for m in WORD.finditer(text) if m.group().islower()}
        self.inner: set[str] = set()  # words that somewhere follow another, not a mark
        self.passages: Counter[str] = Counter()  # how many hold the word
        self.features: dict[str, set[str]] = {}  # words beside it, and its ending
        for text in passages:
            found = self.words(text)
            self.passages.update({word.form for word in found})
            self.inner.update(word.form for word in found if word.before)
            for word in found:
                beside = {f"<{word.before}", f">{word.after}"}
                self.features.setdefault(word.form, set()).update(beside, _endings(word.form))
        self.most = max(3, SHARE * len(passages))

    def words(self, text: str) -> list[Word]:
        """The words of a text in order; a capital that only starts a sentence is made small."""
        found = [(self._form(m.group()), m.start(), m.end()) for m in WORD.finditer(text)]
        joined = [text[a[2] : b[1]].isspace() for a, b in pairwise(found)]
        before = ["", *(w[0] if near else "" for w, near in zip(found, joined, strict=False))]
        after = [*(w[0] if near else "" for w, near in zip(found[1:], joined, strict=True)), ""]
        return [Word(*w, before[i], after[i]) for i, w in enumerate(found)]

    def _form(self, word: str) -> str:
        return word.lower() if word.lower() in self.small else word

    def fit(self, form: str) -> bool:
        """Whether a word can be an option: letters alone, in few passages; with a capital only a name."""
        named = form[0] == form[0].lower() or form in self.inner
        return bool(PLAIN.fullmatch(form)) and self.passages[form] <= self.most and named

    def strain(self, options: Sequence[str]) -> float:
        """What speaks against four options, the right one first: unlike it, or in many passages."""
        kin = sum(self.likeness(options[0], wrong) for wrong in options[1:]) / 3
        return KIND * (1 - kin) + RARE * self.passages[options[0]] / self.most

    def likeness(self, a: str, b: str) -> float:
        """0 to 1: how many of the words beside two words, and of their last letters, are shared."""
        one, two = self.features[a], self.features[b]
        return len(one & two) / (len(one) * len(two)) ** 0.5


def cloze_items(rows: Sequence[dict[str, Any]], where: str, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with `passage`, `question`, `options`, `answer` (an index), `item` (the line, from 0) and OF.

    At most one for each row given: rows of which no item can be made are left out. The same rows and seed
    give the same items. UserError names the line of a row without its fields, or the file (`where`) where
    no row gives an item.
    """
    texts = [_texts(row, f"{where}:{row['item'] + 1}") for row in rows]
    book, made = Book([passage for passage, _ in texts]), list[dict[str, Any]]()
    right = np.zeros(2 * len(RULES))  # so far, of each rule
    for row, (passage, follows) in zip(rows, texts, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(b"cloze"), row["item"]])
        if found := _best(book, passage, follows, right, len(made), rng):
            made.append({**found[0], "item": row["item"], OF: rows[-1]["item"] + 1})
            right += found[1]
    if not made:
        raise UserError(
            f"{where}: no cloze item can be made: no sentence that follows a passage shares a rarer word "
            "with it, or the language is written without spaces between words; leave the task out"
        )
    return made


def _texts(row: dict[str, Any], where: str) -> tuple[str, str]:
    passage, options, answer = (row.get(key) for key in ("context", "options", "answer"))
    if not isinstance(passage, str) or not isinstance(options, list) or type(answer) is not int:
        raise UserError(f"{where}: a cloze item needs 'context', 'options' and 'answer' (an index): add them")
    if not 0 <= answer < len(options) or not isinstance(options[answer], str):
        raise UserError(f"{where}: 'answer' must be the index of a text among the {len(options)} options")
    return passage, options[answer]


def _best(
    book: Book, passage: str, follows: str, right: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[dict[str, Any], np.ndarray] | None:
    """The item that leaves the rules nearest to a quarter, and which rules are right on it."""
    best, least = None, np.inf
    for shown in dict.fromkeys((_end(passage), passage)):
        for question, chosen, hits in _possible(book, shown, follows, rng):
            off = float(((right + hits - (n + 1) / 4) ** 2).sum()) + book.strain(chosen)
            if off < least - 1e-9:
                item = {"passage": shown, "question": question, "options": sorted(chosen)}
                best, least = (item | {"answer": sorted(chosen).index(chosen[0])}, hits), off
        if best:
            return best
    return None


def _end(passage: str) -> str:
    """The last sentences of a passage, WINDOW characters of them or one."""
    starts = [0, *(mark.end() for mark in SENTENCE_END.finditer(passage))]
    return passage[next((s for s in starts if len(passage) - s <= WINDOW), starts[-1]) :]


def _possible(
    book: Book, passage: str, follows: str, rng: np.random.Generator
) -> Iterator[tuple[str, tuple[str, ...], np.ndarray]]:
    """Questions with four options, the right one first, and the rules that are right on them."""
    inside = book.words(passage)
    for sentence in SENTENCE_END.split(follows):
        asked = book.words(sentence)
        for word in asked if len(asked) >= 4 and sentence not in passage else ():
            wrong = _wrong(book, word, inside, {w.form for w in asked}, rng)
            if [w.form for w in asked].count(word.form) == 1 and len(wrong) >= 3:
                question = sentence[: word.start] + BLANK + sentence[word.end :]
                table = _table(book, word, inside, (word.form, *wrong))
                for three in combinations(range(1, len(wrong) + 1), 3):
                    four = (0, *three)
                    yield question, tuple([word.form, *wrong][i] for i in four), _hits(table, four)


def _wrong(
    book: Book, word: Word, inside: list[Word], asked: set[str], rng: np.random.Generator
) -> list[str]:
    """Wrong options: the words of the passage that are most like the right one; [] if it is not there."""
    form = word.form
    copied = {(w.before, w.after) for w in inside if w.form == form}
    if not copied or (word.before, word.after) in copied or not book.fit(form):
        return []
    kin = [w for w in dict.fromkeys(w.form for w in inside) if w not in asked and _alike(form, w)]
    kin = [w for w in kin if book.fit(w)]
    order = [kin[i] for i in rng.permutation(len(kin))]
    return sorted(order, key=lambda w: -book.likeness(form, w))[:NEAREST]


def _alike(right: str, wrong: str) -> bool:
    """Same case and similar length, but no other form of the same word."""
    near = abs(len(right) - len(wrong)) <= max(2, len(right) // 3)
    stem = max(3, min(len(right), len(wrong)) // 2 + 1)
    return near and right[:stem].lower() != wrong[:stem].lower() and right.istitle() == wrong.istitle()


def _endings(form: str) -> set[str]:
    return {f"-{form[-n:]}" for n in (1, 2, 3)}


def _table(book: Book, blank: Word, inside: list[Word], options: Sequence[str]) -> np.ndarray:
    """options x what RULES compare, without likeness, and then the likeness to every option."""
    rows = []
    for option in options:
        found = [i for i, word in enumerate(inside) if word.form == option]
        beside = max(
            (blank.before != "" and inside[i].before == blank.before)
            + (blank.after != "" and inside[i].after == blank.after)
            for i in found
        )
        facts = [len(found), found[0], found[-1], len(option), book.passages[option], beside]
        rows.append(facts + [book.likeness(option, other) for other in options])
    return np.array(rows, dtype=float)


def _hits(table: np.ndarray, four: Sequence[int]) -> np.ndarray:
    """How far each rule is right where the first of four options is: 1, or a share of it if they tie."""
    own, likeness = (
        table[list(four), : len(RULES) - 1],
        table[list(four)][:, [len(RULES) - 1 + i for i in four]],
    )
    values = np.column_stack([own, likeness.sum(axis=1)]).round(9)
    both = np.column_stack([values, -values])
    top = both == both.max(axis=0)
    return top[0] / top.sum(axis=0)
