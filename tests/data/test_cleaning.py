"""Cleaning by several threads keeps what a slow reading of the rules keeps, one document after the other."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from lrnb.data import cleaning
from lrnb.data.ahead import PART
from lrnb.data.contamination import Items
from lrnb.errors import UserError

WORDS = [f"{a}{b}" for a in "নরলমসকচটতপ" for b in ["ি", "ু", "ে", "", "\u09dc", "কা"]]
ITEM = unicodedata.normalize("NFC", "".join(WORDS[::3]) * 2)
DROPPED = {
    "empty",
    "other script",
    "duplicate",
    "near duplicate",
    "holds items of topic",
    "holds items of none",
}


def documents(count: int, seed: int = 0) -> Iterator[str]:
    """Texts with every reason to be dropped among them, some as typed and not in NFC."""
    draw, made = np.random.default_rng(seed), list[str]()
    for number in range(count):
        own = " ".join(draw.choice(WORDS, 60))
        chosen = made[int(draw.integers(len(made)))] if made else own
        kinds = [own, f" {chosen}\n", f"{chosen} {WORDS[number % 9]}", f"{own} {ITEM}", "Latin " * 9, " \n"]
        yield str(draw.choice(kinds, p=[0.5, 0.15, 0.15, 0.05, 0.1, 0.05]))
        made.append(own)


def test_the_made_text_is_not_all_in_nfc() -> None:
    changed = [text for text in documents(100) if not unicodedata.is_normalized("NFC", text)]
    assert 50 < len(changed) < 100


@pytest.fixture
def items() -> Items:
    return Items({"topic": [ITEM], "none": [ITEM[::-1]]})


def cleaned(monkeypatch: pytest.MonkeyPatch, threads: int, items: Items) -> tuple[list[str], Counter[str]]:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    dropped = Counter[str]()
    rules = ("Bengali", 0.5, 0.8, dropped, items)
    return list(cleaning.clean(documents(20 * PART + 5), *rules)), dropped


def test_threads_keep_the_same_documents_in_the_same_order(monkeypatch, items: Items) -> None:
    one, dropped = cleaned(monkeypatch, 1, items)
    assert {*dropped} == DROPPED and all(dropped[why] > 20 for why in DROPPED - {"holds items of none"})
    assert len(one) + dropped.total() == 20 * PART + 5
    for threads in (2, 3):
        found, counts = cleaned(monkeypatch, threads, items)
        assert "\n".join(found).encode() == "\n".join(one).encode() and counts == dropped


def test_what_is_kept_is_what_the_rules_say(monkeypatch, items: Items) -> None:
    """All rules but that of near duplicates, asked one after the other of one document after the other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    seen, kept, why = set[str](), list[str](), Counter({f"holds items of {task}": 0 for task in items.tasks})
    for raw in documents(6 * PART):
        text = unicodedata.normalize("NFC", raw).strip()
        letters = [x for x in text if unicodedata.category(x)[0] == "L"]
        own = [x for x in letters if "BENGALI" in unicodedata.name(x)]
        if not text:
            why["empty"] += 1
        elif len(own) < len(letters) / 2:
            why["other script"] += 1
        elif text in seen:
            why["duplicate"] += 1
        elif ITEM in text:
            why["holds items of topic"] += 1
        else:
            kept.append(text)
        seen |= {text} if 2 * len(own) >= len(letters) else set()
    dropped = Counter[str]()
    assert list(cleaning.clean(documents(6 * PART), "Bengali", 0.5, 1, dropped, items)) == kept
    assert dropped == why


@pytest.mark.parametrize("threads", [1, 2])
def test_what_stands_before_a_broken_line_is_there_before_its_error(monkeypatch, threads: int) -> None:
    def broken() -> Iterator[str]:
        yield from (f"text {number}" for number in range(PART + 3))
        raise UserError("line 68 is broken")

    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    found: list[str] = []
    with pytest.raises(UserError, match="line 68"):
        found.extend(cleaning.clean(broken(), "", 0, 1, Counter()))
    assert found == [f"text {number}" for number in range(PART + 3)]
