"""The quick check of NFC never passes what is not in NFC, and real text of every script passes it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnb.data.character_kinds import ASSIGNED, as_text, code_points, members, script_share
from lrnb.data.normal_form import LONG, surely_nfc, to_nfc

JOINING = [chr(x) for part in ASSIGNED for x in part if unicodedata.decomposition(chr(x))]
PARTS = [chr(int(x, 16)) for c in JOINING for x in unicodedata.decomposition(c).split() if "<" not in x]
MARKS = [chr(x) for part in ASSIGNED for x in part if unicodedata.combining(chr(x))]
JAMO = [chr(x) for x in [*range(0x1100, 0x1200), *range(0xAC00, 0xAC40)]]
texts = st.lists(st.sampled_from([JOINING, PARTS, MARKS, JAMO]).flatmap(st.sampled_from), max_size=6).map(
    "".join
)


@settings(max_examples=2000, deadline=None)
@given(texts)
def test_what_passes_is_in_nfc(text: str) -> None:
    assert not surely_nfc(text) or unicodedata.is_normalized("NFC", text)


def test_no_character_alone_passes_that_is_not_in_nfc() -> None:
    for part in ASSIGNED:
        for text in (chr(point) for point in part):
            assert not surely_nfc(text) or unicodedata.is_normalized("NFC", text)


@settings(deadline=None)
@given(texts, st.sampled_from(["NFC", "NFD"]))
def test_long_texts_are_normalised_as_the_standard_library_does(text: str, form: str) -> None:
    long = unicodedata.normalize(form, text) + "কো" * LONG  # type: ignore[arg-type]
    assert to_nfc(long) == unicodedata.normalize("NFC", long)


@pytest.mark.parametrize(
    "text", ["আমি বাংলায় গান গাই", "བོད་ཀྱི་སྐད་ཡིག", "தமிழ் மொழி", "తెలుగు", "ئۇيغۇر تىلى", "한국어"]
)
def test_text_of_many_scripts_passes(text: str) -> None:
    assert surely_nfc(unicodedata.normalize("NFC", text))


@given(st.text())
def test_code_points_and_back(text: str) -> None:
    assert as_text(code_points(text)) == text


def test_a_kind_is_what_the_pattern_matches() -> None:
    import regex

    table = members(r"\p{L}")
    assert all(table[x] == bool(regex.match(r"\p{L}", chr(x))) for x in range(0, 0xD800, 7))
    assert table[ord("𐐷")] and not table[0x10FFFF]


def test_script_share() -> None:
    assert script_share("বাংলা text", "Bengali") == pytest.approx(2 / 6)  # vowel signs are no letters
    assert script_share("123 !", "Bengali") == 0
    assert script_share("Монгол хэл", "Cyrillic") == 1
