"""Which items are kept out of what a study trains on, and what that leaves of corpora and of SFT rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from support.task_rows import write_rows, write_task

from lrnb.data import cleaning, corpus
from lrnb.errors import UserError
from lrnb.study.parameters import Study
from lrnb.tasks import includes
from lrnb.tasks.evaluation_items import english_items, items_of_study
from lrnb.tasks.rows import sft_examples


def item(what: str, lang: str) -> str:
    """A text of an item, long enough to be known again."""
    return f"{what} {lang}: " + " ".join(f"{what}{lang}{i}" for i in range(12))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for lang in ("bn", "en", "ta"):
        for split in ("dev", "test", "train"):
            write_rows(
                tmp_path, [{"text": item(split, lang), "label": "red"}], f"eval/colour/{lang}/{split}.jsonl"
            )
    taught = ("own one", "own two", *(item(split, "en") for split in ("dev", "test", "train")))
    write_rows(tmp_path, [{"text": text, "label": "red"} for text in taught], "sft/colour.jsonl")
    return tmp_path


def study(root: Path, **values: object) -> Study:
    given = {"preset": "smol", "lang": "bn", "base_source": "gguf:gemma3-270m"}
    return Study.model_validate(given | ({} if "tasks" in values else {"tasks": [write_task(root)]}) | values)


@pytest.mark.parametrize("key", ["tasks", "tasks_en", "tasks_written", "dev_tasks"])
def test_items_are_those_of_dev_and_test_in_x_and_in_english(root: Path, key: str) -> None:
    items = items_of_study(study(root, **({"tasks": []} | {key: [write_task(root)]})), root)
    for split in ("dev", "test"):
        assert items.held_by(item(split, "bn")) == items.held_by(item(split, "en")) == "colour"
        assert items.held_by(item(split, "ta")) == ""
    assert items.held_by(item("train", "bn")) == items.held_by(item("train", "en")) == ""


def test_all_test_texts_in_a_corpus_are_dropped_and_told(root: Path) -> None:
    texts = [{"text": text} for text in (item("test", "bn"), "own text", f"x {item('test', 'en')}")]
    write_rows(root, texts, "corpus/bn.jsonl")
    dropped: Counter[str] = Counter()
    source, items = corpus.read_local(root, "bn", dropped), items_of_study(study(root), root)
    assert list(cleaning.clean(source, "", 0, 1, dropped, items)) == ["own text"]
    assert dropped == {"holds items of colour": 2}


def test_sft_rows_that_hold_items_in_english_are_left_out(root: Path) -> None:
    name, dropped = write_task(root), Counter[str]()
    items = english_items(study(root, sft_mix={name: 5}), root)
    found = sft_examples(name, 5, root, 0, items, dropped)
    assert {example["prompt"] for example in found} == {
        f"{text} in English?" for text in ("own one", "own two", item("train", "en"))
    }
    assert dropped == {"colour": 2}
    drawn = Counter[str]()  # of the first row alone, which is the same one without `items`
    (first,) = sft_examples(name, 1, root)
    assert len(sft_examples(name, 1, root, 0, items, drawn)) == 1
    assert drawn == ({} if first in found else {"colour": 1})
    everything = [example["prompt"] for example in sft_examples(name, 5, root)]
    assert [p for p in everything if p in {e["prompt"] for e in found}] == [e["prompt"] for e in found]
    assert len(everything) == 5
    with pytest.raises(UserError, match="has 5; ask for less"):
        sft_examples(name, 6, root, 0, items)
    write_rows(root, [{"text": item("test", "en"), "label": "red"}], "sft/colour.jsonl")
    with pytest.raises(UserError, match=r"colour\.jsonl: every row holds an item"):
        sft_examples(name, 1, root, 0, items)


def test_sft_is_the_same_for_every_language_of_a_study(root: Path) -> None:
    mix = {write_task(root): 5}
    both = [
        english_items(study(root, lang=lang, tasks=t, sft_mix=mix), root)
        for lang, t in (("bn", [*mix]), ("en", []))
    ]
    for text in (item("test", "en"), item("dev", "en")):
        assert [items.held_by(text) for items in both] == ["colour"] * 2
    assert [items.held_by(item("test", "bn")) for items in both] == [""] * 2


def test_items_of_the_hub_count_too(root: Path) -> None:
    hub = {"path": "a/b", "code": {"bn": "bn", "en": "en"}, "splits": {"test": "test"},
           "files": "{code}.jsonl", "fields": {"text": "words", "label": "'red'"}}  # fmt: skip
    for lang in ("bn", "en"):
        write_rows(root, [{"words": item("hub", lang)}], f"hub/a/b/{lang}.jsonl")
    meta = {"family": "text_classification", "metric": "acc", "data": "other", "labels": ["red", "blue"]}
    name = write_task(root, metadata=meta | {"hub": hub})
    items, without = (items_of_study(study(root, tasks=[name], tasks_en=en), root) for en in ([name], []))
    assert items.held_by(item("hub", "bn")) == items.held_by(item("hub", "en")) == "colour"
    assert without.held_by(item("hub", "bn")) == without.held_by(item("hub", "en")) == "colour"  # parallel
    assert not items_of_study(study(root, tasks=[name], tasks_en=[name]), root, hub=False)
    english = root / "hub/a/b/en.jsonl"
    english.unlink()
    assert items_of_study(study(root, tasks=[name]), root).held_by(item("hub", "bn")) == "colour"
    write_rows(root, [{"words": item("hub", "en")}], "hub/a/b/en.jsonl")
    assert (
        english_items(study(root, tasks=[name], sft_mix={name: 1}), root).held_by(item("hub", "en"))
        == "other"
    )


def test_the_micro_world_keeps_its_parts_apart_itself(root: Path) -> None:
    nano = Study(preset="nano", tasks=[write_task(root)], sft_mix={write_task(root): 5})
    assert not items_of_study(nano, root) and not english_items(nano, root)


def test_items_of_the_harness_s_own_tasks_count_with_the_rows_that_are_scored(root: Path) -> None:
    row = {"premise": item("premise", "ta"), "choice1": "x", "choice2": "y", "question": "cause", "label": 0,
           "idx": 0, "changed": False}  # fmt: skip
    rows = write_rows(root, [row, row], "xcopa_ta.jsonl")
    path, files = root / "local_xcopa.yaml", dict.fromkeys(("test", "validation"), str(rows))
    task = {"include": str(includes.OWN / "xcopa" / "default_ta.yaml"), "task": "local_xcopa_ta"}
    path.write_text(yaml.safe_dump(task | {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}))
    items = items_of_study(study(root, lang="ta", tasks=[str(path)]), root)
    assert items.tasks == ("local_xcopa_ta",) and items.held_by(row["premise"]) == "local_xcopa_ta"


def test_a_column_that_all_rows_share_is_no_item(root: Path) -> None:
    """A licence beside every row is in web text and in SFT rows as well."""
    licence = "Creative Commons Attribution-ShareAlike 4.0 International License, see deed and legal code"
    rows = [{"text": item(f"test{n}", "en"), "label": "red", "license": licence} for n in range(4)]
    write_rows(root, rows, "eval/colour/en/test.jsonl")
    texts = ("own", item("test2", "en"), "own two", "own three")
    write_rows(root, [{"text": t, "label": "red", "license": licence} for t in texts], "sft/colour.jsonl")
    items, dropped = items_of_study(study(root), root), Counter[str]()
    assert items.held_by(f"a page. {licence}") == ""
    assert items.held_by(item("test3", "en")) == "colour"
    assert len(sft_examples(write_task(root), 4, root, items=items, dropped=dropped)) == 3
    assert dropped == {"colour": 1}
