"""Evaluation items are found again in other text, and nothing else is."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from support import strategies  # noqa: F401  # its settings

from lrnb.data.character_kinds import as_text, code_points
from lrnb.data.cleaning import clean
from lrnb.data.contamination import BLOCK, STRETCH, Items, _folding, letters
from lrnb.data.normal_form import nfc_tables
from lrnb.data.text_loops import compared_letters
from lrnb.data.unicode_form import nfc
from lrnb.errors import UserError

ENGLISH = "The river rose in the night, and by morning the lower field of the village was under water."
BENGALI = "নদীর ধারে একটি ছোট গ্রাম ছিল, সেখানে অনেক মানুষ বাস করত এবং বর্ষায় সবাই উঁচু জমিতে চলে য়েত।"
TIBETAN = "བོད་ཀྱི་སྐད་ཡིག་ནི་གངས་ལྗོངས་ཀྱི་མི་རིགས་ཀྱི་སྐད་ཡིག་ཡིན་ལ་དེ་ལ་ལོ་རྒྱུས་རིང་པོ་ཡོད།"
SHORT = "The forecast called for storms."


@pytest.mark.parametrize("item", [ENGLISH, BENGALI, TIBETAN])
def test_an_item_is_found_however_it_is_written(item: str) -> None:
    items = Items({"topic": [item]})
    around = "before it other words stand 12 " * 20
    spaced = item.replace(" ", "  \n").replace("་", " ་ ").replace(",", " –").upper()
    for form in (item, unicodedata.normalize("NFD", item), spaced, item[5:-5]):
        assert items.held_by(f"{around}{form} {around}") == "topic"
    assert items.held_by(around) == "" and not Items({}) and bool(items)


def test_a_stretch_is_an_overlap_from_fifty_letters_on() -> None:
    text = "".join(f"{a}{b}" for a in "cdefghijkl" for b in "ঙচছজঝঞ")
    items = Items({"topic": [text]})
    for start in range(0, len(text) - STRETCH, 7):
        assert items.held_by(f"12{text[start : start + STRETCH]}34") == "topic"
        assert items.held_by(f"12{text[start : start + STRETCH - 1]}34") == ""


def test_a_short_text_counts_where_it_is_half_of_the_document() -> None:
    items = Items({"causal_choice": [SHORT, "Yes."], "topic": ["sports", "science and technology"]})
    assert BLOCK <= len(letters(SHORT)) < STRETCH
    assert items.held_by(SHORT.lower()) == "causal_choice"
    assert items.held_by(f"So it was: {SHORT}") == "causal_choice"
    assert items.held_by(f"{SHORT} He took his umbrella and went to the station on foot.") == ""
    assert [items.held_by(text) for text in ("Yes.", "sports", "science and technology", "")] == [""] * 4


def test_web_addresses_are_no_text() -> None:
    address = "http://zw.example.net/news/update/2014-07/30/content_the_same_folder_for_all_pages"
    assert Items({"topic": [f"{ENGLISH} {address}1.htm"]}).held_by(f"{BENGALI} {address}2.htm") == ""


odd = st.sampled_from(
    ["http://", "HTTPS://", "ſ://a", "https", " ", "ß", "İ", "ŉ", "ᾳ\u0345", "K", "a\u0301", "\u2028", "ǅ"]
)


@given(st.lists(odd | st.text(max_size=8)).map("".join))
def test_compiled_letters_are_those_of_the_slow_way(text: str) -> None:
    """Where the tables do not tell, they say so; where they do, letter by letter the same."""
    points = code_points(nfc(text))
    found = np.empty(len(points), np.uint32)
    count = compared_letters(points, *_folding(), *nfc_tables(), found)
    assert count == -1 or as_text(found[:count]) == letters(text)
    assert count >= 0 or not text.isascii()


common = st.text("abক", min_size=STRETCH - 3, max_size=STRETCH + 3)
short = st.text("abক", max_size=STRETCH + 5)


@given(st.lists(st.tuples(short, common, short), min_size=1, max_size=3), short, st.integers(0, 2), short)
def test_the_quick_search_finds_what_a_slow_one_finds(
    parts: list[tuple[str, str, str]], before: str, which: int, after: str
) -> None:
    texts = ["".join(three) for three in parts]
    document = before + parts[which % len(parts)][1] + after
    assert bool(Items({"t": texts}).held_by(document)) == any_overlap(texts, document)


def any_overlap(texts: list[str], document: str) -> bool:
    starts = [(text, i) for text in texts for i in range(len(text) - STRETCH + 1)]
    whole = {text for text in texts if BLOCK <= len(text) < STRETCH and text in document}
    long = any(text[i : i + STRETCH] in document for text, i in starts)
    return long or (whole != set() and 2 * sum(map(len, whole)) >= len(document))


@given(st.text(max_size=30))
def test_letters_are_what_is_left_of_every_way_to_write_a_text(text: str) -> None:
    found = letters(text)
    assert not regex.search(r"[^\p{L}\p{M}\p{N}]", found)
    assert found == letters(found) == letters(unicodedata.normalize("NFD", text)) == letters(f" {text}! ")


def test_cleaning_counts_a_line_a_task_and_drops_by_default() -> None:
    items, dropped = Items({"topic": [ENGLISH], "math": [BENGALI], "cloze": [TIBETAN]}), Counter()
    texts = [f"{ENGLISH} more", f"more {ENGLISH}", f"{BENGALI} more", "clean text", ENGLISH, ENGLISH]
    assert list(clean(texts, "", 0, 1, dropped, items)) == ["clean text"]
    assert dropped == {
        "holds items of topic": 3, "holds items of math": 1, "holds items of cloze": 0, "duplicate": 1
    }  # fmt: skip


def test_a_corpus_of_nothing_but_items_is_refused() -> None:
    with pytest.raises(UserError, match=r"no text \(holds items of topic: 1\).*no item of an evaluation"):
        list(clean([ENGLISH], "", 0, 1, Counter(), Items({"topic": [ENGLISH], "math": [BENGALI]})))
