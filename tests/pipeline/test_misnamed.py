"""Own text and rows under a name that nothing reads are pointed out, with the name that they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrnb.pipeline import checkup, preflight
from lrnb.study.files import write_text
from lrnb.study.languages import says_language
from lrnb.study.parameters import ROOT, Study, load_study

ROW = '{"text": "a farm", "label": "travel"}\n'
FILES = {
    "corpus/or.txt": "ନଦୀ ଗାଁ\nଘର ଗଛ\n",
    "corpus/en.txt": "a b\nc d\n",
    **{
        f"eval/topic/{lang}/{split}.jsonl": ROW for lang in ("or", "en") for split in ("dev", "test", "train")
    },
    "sft/topic.jsonl": ROW,
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that an Odia study of topics can use as it is; no base of this machine's user."""
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    for name, text in FILES.items():
        write_text(tmp_path / name, text)
    return tmp_path


def study_of(root: Path) -> Study:
    tasks = {"tasks": ["topic"], "tasks_en": ["topic"], "sft_mix": {"topic": 1}, "heldout_bytes": 1}
    return load_study(ROOT / "params/or.yaml", "smol", tasks | {"data_root": str(root)})


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("corpus/or.txt", "corpus/odia.txt", "call it or.txt"),
        ("corpus/or.txt", "corpus/ory_Orya.jsonl", "call it or.jsonl"),
        ("corpus/or.txt", "corpus/or.text", "make it or.jsonl.gz or or.jsonl or or.txt"),
        ("corpus/en.txt", "corpus/English.TXT", "call it en.txt"),
        ("eval/topic/or", "eval/topic/ory_Orya", "call it eval/topic/or"),
        ("eval/topic/or", "eval/topic/Odia", "call it eval/topic/or"),
        ("eval/topic/or", "eval/SIB-200/or", "call it eval/topic/or"),
        ("eval/topic/or/test.jsonl", "eval/topic/or/ory_Orya.jsonl", "call it test.jsonl"),
        ("eval/topic/en", "eval/topic/eng_Latn", "call it eval/topic/en"),
        ("eval/topic/en/dev.jsonl", "eval/topic/en/validation.jsonl", "call it dev.jsonl"),
        ("eval/topic/or/test.jsonl", "eval/topic/or/test.csv", "make it test.jsonl or test.json or test.tsv"),
        ("eval/topic/or/train.jsonl", "eval/topic/or/training.jsonl", "call it train.jsonl"),
    ],
)
def test_what_is_not_read_is_named(root: Path, old: str, new: str, remedy: str) -> None:
    assert preflight.faults(study_of(root), hub=False) == []
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)
    told = preflight.faults(study_of(root), hub=False)
    assert sum(one.startswith(f"{root / new}: is not read; {remedy}") for one in told) == 1, told


def test_rows_of_sft_under_another_name(root: Path) -> None:
    (root / "eval/topic/en/train.jsonl").unlink()
    (root / "sft/topic.jsonl").rename(root / "sft/topic_classification.jsonl")
    (told,) = preflight.faults(study_of(root), hub=False)  # the Hub's would be taken
    assert told.endswith("topic_classification.jsonl: is not read; call it sft/topic.jsonl")


def test_what_else_lies_there_is_left_alone(root: Path) -> None:
    others = ("corpus/bn.txt", "corpus/._or.txt", "eval/topic/bn/test.jsonl", "eval/topic/ory_Arab/old.jsonl",
              "eval/topic/ory_Orya/old.jsonl", "eval/milic_topic/or/test.json", "eval/topic/or/notes.md",
              "sft/milic_topic.jsonl", "README.md")  # fmt: skip
    for name in others:
        write_text(root / name, "[]")
    faults = preflight.faults(study_of(root).model_copy(update={"base_prune": False}), hub=False)
    assert faults == []


def test_splits_of_two_sources_are_noted(root: Path) -> None:
    (root / "eval/topic/en/dev.jsonl").unlink()
    study = study_of(root)
    assert preflight.faults(study, hub=False) == []
    notes = checkup.stops_nothing(study, [], checkup.task_table(study))
    assert sum(note.startswith("topic_en: dev rows are the Hub's, others local") for note in notes) == 1


def test_text_that_nobody_can_tell_is_listed(root: Path) -> None:
    (root / "corpus/or.txt").rename(root / "corpus/mytext.txt")
    (told,) = preflight.faults(study_of(root), hub=False)
    assert told.endswith("or.txt, or.parquet there; not read: mytext.txt")


@pytest.mark.parametrize(
    ("name", "lang", "script", "said"),
    [
        ("kaz_Cyrl", "kk", "Cyrillic", True),
        ("kaz_Arab", "kk", "Cyrillic", False),
        ("KAZAKH-news.txt", "kk", "Cyrillic", True),
        ("IndicCorp.v2.or.txt", "or", "Oriya", True),
        ("corpus.txt", "or", "Oriya", False),
        ("khk_Cyrl.tsv", "mn", "Cyrillic", True),
        ("eng_Latn", "en", "", True),
        ("GREENLAND", "en", "", False),
    ],
)
def test_which_language_a_name_says(name: str, lang: str, script: str, said: bool) -> None:
    assert says_language(name, lang, script) == said
