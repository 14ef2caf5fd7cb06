"""Codes of languages and scripts: what Unicode's CLDR (in babel) and data sets of many languages call them.

A study has a language of ISO 639 (`kk`, `sat`) and a script by its name in Unicode (`Cyrillic`); data sets
have configurations such as `kaz_Cyrl`: a language of ISO 639-3 with a script of ISO 15924.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import regex
from babel import Locale
from babel.core import get_global

#: scripts of ISO 15924 that are several of Unicode's, or a part of one
COMPOSED = {
    "Hans": ("Hani",), "Hant": ("Hani",), "Jpan": ("Hani", "Hira", "Kana"), "Kore": ("Hang", "Hani"),
    "Aran": ("Arab",),
}  # fmt: skip


#: family of the languages that ship (Glottolog 5); a set of one family is marked in figures
FAMILIES = {
    "bn": "Indo-Aryan", "or": "Indo-Aryan", "ta": "Dravidian", "te": "Dravidian", "bo": "Tibetic",
    "mn": "Mongolic", "ug": "Turkic", "kk": "Turkic", "km": "Austroasiatic",
}  # fmt: skip


def common_family(langs: Iterable[str]) -> str:
    """The family that all of these are of; "" where they are of several, or one is not known."""
    found = {FAMILIES.get(lang, "") for lang in langs}
    return found.pop() if len(found) == 1 else ""


def cldr_name(lang: str) -> str:
    """The English name of a language in CLDR: kk -> Kazakh; "" for one that it has no name for."""
    names = Locale("en").languages
    return str(names.get(lang) or names.get(canonical(lang), ""))


def known_languages() -> dict[str, str]:
    """English name -> code of ISO 639 of every language that CLDR names."""
    return {str(name): code for code, name in Locale("en").languages.items() if code.isalpha()}


def canonical(lang: str) -> str:
    """The code that CLDR prefers: kaz -> kk, khk -> mn; one that it knows no other for stays."""
    found = str(get_global("language_aliases").get(lang, lang))
    return found if found.isalpha() else lang


def three_letters(lang: str) -> str:
    """The code of ISO 639-3 of a language: itself, or the one that CLDR knows; "" where it knows several."""
    found = [code for code, other in get_global("language_aliases").items() if other == lang]
    long = [code for code in (lang, *found) if len(code) == 3]
    return long[0] if len(long) == 1 or lang in long else ""


@functools.cache
def script_code(script: str) -> str:
    """The code in ISO 15924 of a script of Unicode: Cyrillic -> Cyrl; "" where there is none."""
    codes = [code for code in map(str, Locale("en").scripts) if _same_script(code, script)]
    return codes[0] if codes else ""


def _same_script(code: str, script: str) -> bool:
    """Whether two names of a script stand for the same letters; regex knows names and codes."""
    try:
        sample = _letter(script)
        return bool(sample and regex.match(rf"\p{{Script={code}}}", sample))
    except regex.error:
        return False


@functools.cache
def _letter(script: str) -> str:
    """The first letter of a script."""
    pattern = regex.compile(rf"(?=\p{{L}})\p{{Script={script}}}")
    return next((chr(code) for code in range(0x20000) if pattern.match(chr(code))), "")


def configuration(names: Iterable[str], lang: str, script: str = "") -> str:
    """The name among `names`, such as kaz_Cyrl, that is language `lang` in `script`; "" where none is.

    Of several the script is the one that CLDR takes for usual, and the language the one that is spelt most
    like `lang`.
    """
    code = script_code(script) if script else ""
    fitting = [name for name in names if _fits(name, lang, code)]
    usual = _usual_script(lang)

    def likeness(name: str) -> tuple[bool, bool, bool, str]:
        own, _, written = name.partition("_")
        return own != lang, written.title() != usual, not own.startswith(lang), name

    return min(fitting, key=likeness, default="")


def says_language(name: str, lang: str, script: str = "", called: str = "") -> bool:
    """Whether the name of a file or folder says this language: its codes, its English names, or kaz_Cyrl.

    One that says another script is another's: kaz_Arab where `script` is Cyrillic.
    """
    plain = name.casefold()
    if whole := regex.findall(r"(?<!\p{L})[a-z]{3}_[a-z]{4}(?!\p{L})", plain):
        return bool(configuration(whole, lang, script))
    names = [one.casefold() for one in (cldr_name(lang), called) if one]
    words = regex.findall(r"\p{L}+", plain)
    return any(one in plain for one in names) or canonical(lang) in map(canonical, words)


def says_label(label: str, lang: str, script: str = "") -> bool:
    """Whether what a language identifier says, bn or ben_Beng, is this language in this script.

    A label without a script stands for the one that CLDR takes for usual.
    """
    code = script_code(script) if script else ""
    usual = _usual_script(lang)
    name = label if "_" in label else f"{label}_{usual or code}"
    return _fits(name, lang, code)


def _fits(name: str, lang: str, code: str) -> bool:
    own, _, written = name.partition("_")
    script = written.title()  # some data sets write it in small letters
    return canonical(own) == canonical(lang) and (not code or code in (script, *COMPOSED.get(script, ())))


def _usual_script(lang: str) -> str:
    """The script that a language is mostly written in by CLDR: zh -> Hans; "" where it says none."""
    found = str(get_global("likely_subtags").get(canonical(lang), "")).split("_")
    return found[1] if len(found) > 1 else ""
