"""Codes of languages and scripts, by CLDR and by the lists of data sets."""

from __future__ import annotations

import pytest

from lrnb.study import languages
from lrnb.study.parameters import LANGUAGES, SYNTHETIC

NAMES = "arb_Arab arb_Latn kas_Arab kas_Deva kaz_Cyrl khk_Cyrl jpn_Jpan twi_Latn aka_Latn".split()
NAMES += ["zho_Hans", "zho_Hant"]


@pytest.mark.parametrize(
    ("lang", "script", "found"),
    [
        ("kk", "Cyrillic", "kaz_Cyrl"),
        ("kaz", "Cyrillic", "kaz_Cyrl"),
        ("kk", "Arabic", ""),  # never in another script than the study's
        ("mn", "Cyrillic", "khk_Cyrl"),
        ("mn", "Mongolian", ""),
        ("ks", "Devanagari", "kas_Deva"),
        ("ks", "Arabic", "kas_Arab"),
        ("ks", "", "kas_Arab"),  # the usual one
        ("ar", "", "arb_Arab"),
        ("zh", "Han", "zho_Hans"),
        ("ja", "Hiragana", "jpn_Jpan"),
        ("tw", "Latin", "twi_Latn"),
        ("ak", "Latin", "aka_Latn"),
        ("xx", "Latin", ""),
    ],
)
def test_a_configuration_by_language_and_script(lang: str, script: str, found: str) -> None:
    assert languages.configuration(NAMES, lang, script) == found


def test_scripts_by_their_codes() -> None:
    for script, code in (("Cyrillic", "Cyrl"), ("Oriya", "Orya"), ("Ol_Chiki", "Olck"), ("Han", "Hani")):
        assert languages.script_code(script) == code
    assert languages.script_code("Klingon") == ""


def test_names_of_the_languages_that_ship_are_those_of_cldr() -> None:
    real = {code: name for code, name in LANGUAGES.items() if code not in SYNTHETIC}
    assert {code: languages.cldr_name(code) for code in real} == {**real, "bn": "Bangla"}
    assert languages.cldr_name("khk") == "Mongolian"
    assert languages.cldr_name("qaa") == languages.cldr_name("xyz") == ""
