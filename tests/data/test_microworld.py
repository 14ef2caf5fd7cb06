"""The micro-world: same bytes by seed, grammar, tasks with right answers, no leak of test items."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from lrnb.data import microworld, microworld_stories
from lrnb.data.microworld_language import ENGLISH, SCRIPTS, TOPICS, invent_language
from lrnb.data.microworld_stories import draw_document
from lrnb.errors import UserError
from lrnb.tasks.task_file import spec

SMALL = {"base_tokens": 60_000, "ct_tokens": 40_000, "dev": 20, "test": 40, "sft": 60}
CODES = ("en", "qaa", "qab")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    microworld.write_world(out, **SMALL)
    return out


def corpus(root: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(root / "corpus" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def rows(root: Path, task: str, code: str, split: str) -> list[dict]:
    path = root / "eval" / f"world_{task}" / code / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sft_rows(root: Path, task: str) -> list[dict]:
    text = (root / "sft" / f"world_{task}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def body(row: dict) -> str:
    """The text of an item without its question: what must be new to the model."""
    return row.get("text") or row.get("passage") or row.get("context") or row["question"]


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_and_other_seed_other_bytes(root: Path, tmp_path: Path) -> None:
    microworld.write_world(tmp_path / "again", **SMALL)
    microworld.write_world(tmp_path / "other", microworld.make_world(seed=1), **SMALL)
    again, other = digests(tmp_path / "again"), digests(tmp_path / "other")
    assert again == digests(root)
    assert again.keys() == other.keys()
    assert all(again[name] != other[name] for name in again)


def test_data_root_is_complete(root: Path) -> None:
    corpora = {f"corpus/{name}.jsonl.gz" for name in ("base", *CODES)}
    tasks = {
        f"eval/world_{task}/{code}/{split}.jsonl"
        for task in microworld.TASKS for code in CODES for split in ("dev", "test")
    }  # fmt: skip
    assert set(digests(root)) == corpora | tasks | {f"sft/world_{t}.jsonl" for t in microworld.TASKS}
    for task in microworld.TASKS:
        sizes = [len(rows(root, task, "qaa", split)) for split in ("dev", "test")]
        assert (*sizes, len(sft_rows(root, task))) == (20, 40, 60)


def test_invented_language_is_verb_final_with_postpositions_and_no_articles() -> None:
    x = invent_language("qaa", 0)
    fact = ("act_at", "anna", "feeds", "cow", "near", "barn")
    assert ENGLISH.say(fact) == "anna feeds the cow near the barn ."
    assert x.say(fact).split() == [
        "anna", x.word("as-for"), x.word("barn"), x.word("near"), x.word("cow"), x.word("feeds"), "."
    ]  # fmt: skip
    assert x.say(("has", "ben", "3", "eggs")).split() == [
        "ben", x.word("as-for"), "3", x.word("eggs"), x.word("has"), "."
    ]  # fmt: skip
    assert "the" not in x.words


@pytest.mark.parametrize("code", list(SCRIPTS))
def test_pseudo_words_are_distinct_and_in_one_script(code: str) -> None:
    words = list(invent_language(code, 0).words.values())
    script = SCRIPTS[code][0].upper()
    assert len(set(words)) == len(words) > 90
    assert all(unicodedata.name(c).startswith(script) for word in words for c in word)
    assert all(unicodedata.is_normalized("NFC", word) for word in words)


def test_seeds_make_other_words() -> None:
    first, second = invent_language("qaa", 0).words, invent_language("qaa", 1).words
    assert sum(first[gloss] == second[gloss] for gloss in first) < 10


def test_no_dev_or_test_item_is_in_a_corpus_or_in_sft(root: Path) -> None:
    texts = [row["text"] for name in ("base", *CODES) for row in corpus(root, name)]
    texts += [body(row) for task in microworld.TASKS for row in sft_rows(root, task)]
    everything = "\n".join(texts)
    assert texts[0] in everything
    for task in microworld.TASKS:
        for code in CODES:
            dev, test = ({body(r) for r in rows(root, task, code, s)} for s in ("dev", "test"))
            assert not dev & test
            assert not [text for text in dev | test if text in everything]


def test_facts_of_test_items_are_in_no_training_document_in_any_language() -> None:
    made = microworld.make_world(seed=3)
    seen = set()
    stream = microworld._stream(made, "base")
    for _ in range(4000):
        seen |= set(microworld.units(next(stream)))
    assert {microworld.part_of(*unit) for unit in seen} == {"train"}
    parts = [microworld.part_of(*unit) for unit in _units_of_any_documents(4000)]
    assert 0.04 < parts.count("test") / len(parts) < 0.09


def _units_of_any_documents(n: int) -> list[tuple]:
    rng = random.Random(0)
    return [unit for _ in range(n) for unit in microworld.units(draw_document(rng))]


@pytest.mark.parametrize("task", microworld.TASKS)
def test_options_are_four_and_the_answer_is_parallel_in_all_languages(root: Path, task: str) -> None:
    english = rows(root, task, "en", "test")
    for code in CODES:
        for row, same in zip(rows(root, task, code, "test"), english, strict=True):
            assert len(set(row["options"])) == 4
            assert row["answer"] == same["answer"]
    counts = [sum(row["answer"] == i for row in english) for i in range(4)]
    assert min(counts) >= 2


def test_sums_are_right(root: Path) -> None:
    for row in rows(root, "sums", "en", "test"):
        words = row["question"].split()
        numbers = [int(word) for word in words if word.isdigit()]
        signs = [1 if word == "gets" else -1 for word in words if word in ("gets", "loses")]
        if signs:
            end = numbers[0] + sum(sign * n for sign, n in zip(signs, numbers[1:], strict=True))
        else:
            end = max(numbers) if "larger" in words else min(numbers)
        assert row["options"][row["answer"]] == str(end)
        assert end == row["number"] <= 99


def test_a_passage_names_all_options_and_denies_all_but_the_answer(root: Path) -> None:
    for row in rows(root, "reading", "en", "test"):
        right = row["options"][row["answer"]]
        told = {next(o for o in row["options"] if o in s.split()): s for s in row["passage"].split(".")[:4]}
        assert len(told) == 4
        assert {o for o, s in told.items() if not {"not", "no"} & set(s.split())} == {right}


def test_all_sentences_of_a_story_but_one_are_of_its_topic(root: Path) -> None:
    for row in rows(root, "topic", "en", "test"):
        own = {word for group in TOPICS[row["options"][row["answer"]]].values() for word in group}
        sentences = [set(sentence.split()) for sentence in row["text"].split(".")[:4]]
        assert sum(bool(own & sentence) for sentence in sentences) == 3


def test_replies_are_about_two_things_and_answer_two_kinds_of_question(root: Path) -> None:
    things = {thing for topic in TOPICS.values() for thing in topic["things"]}
    for row in rows(root, "response", "en", "test"):
        before = row["context"].partition("?")[0]
        asked = (before.split(".")[-1]).split()[-1]
        about = [(things & set(option.split())).pop() for option in row["options"]]
        assert sorted(about.count(thing) for thing in set(about)) == [2, 2]
        assert about[row["answer"]] == asked
        kind = before.split(".")[-1].split()[-4]
        right = row["options"][row["answer"]].split()
        looks = {"where": right[-3] == "the", "how": right[-3] == "is", "who": right[0] != "the"}
        assert looks[kind]


def test_base_corpus_mixes_languages_in_the_shares_asked_for(tmp_path: Path) -> None:
    microworld.write_world(tmp_path, **{**SMALL, "bilingual": 0.1, "alone": 0.05})
    sources = [row["source"] for row in corpus(tmp_path, "base")]
    share = {source: sources.count(source) / len(sources) for source in set(sources)}
    assert share["world/en"] == pytest.approx(0.7, abs=0.04)
    both = share["world/en+qaa"] + share["world/qaa+en"] + share["world/en~qaa"]
    assert both == pytest.approx(0.1, abs=0.03)
    assert share["world/qab"] == pytest.approx(0.05, abs=0.02)


def test_tokenizer_knows_every_word_and_survives_saving(root: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    microworld.build_tokenizer(microworld.make_world()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [row["text"] for name in ("base", *CODES) for row in corpus(root, name)]
    for task in microworld.TASKS:
        items = [r for code in CODES for r in rows(root, task, code, "test")] + sft_rows(root, task)
        texts += [spec(f"world_{task}").prompt_in("en", "english").template.render(row) for row in items]
        texts += [option for row in items for option in row["options"]]
    ids = tokenizer(texts)["input_ids"]
    assert not [t for t, row in zip(texts, ids, strict=True) if tokenizer.unk_token_id in row]
    assert all(row[0] == tokenizer.bos_token_id for row in ids)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3


@pytest.mark.parametrize("task", microworld.TASKS)
def test_a_task_has_more_items_than_may_be_asked_for(task: str) -> None:
    """Of two draws of so many items hardly one is in both."""
    one, other = (
        {
            json.dumps(row["options"]) + body(row)
            for row in microworld.world_items(made, task, "qaa", "test", microworld.MOST["test"])
        }
        for made in (microworld.World({"qaa": invent_language("qaa", 0)}, seed) for seed in (5, 6))
    )
    assert len(one & other) < 0.05 * microworld.MOST["test"]


def test_more_items_than_there_are_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    message = "2,001 items of a task are asked for in part 'test'; ask for 2,000 or fewer"
    with pytest.raises(UserError, match=message):
        microworld.world_items(microworld.make_world(), "sums", "qaa", "test", 2001)
    with pytest.raises(UserError, match=message):
        microworld.write_world(tmp_path / "world", **{**SMALL, "test": 2001})
    assert not (tmp_path / "world").exists()


def test_other_languages_leave_the_first_two_as_they_are() -> None:
    two, many = microworld.make_world(), microworld.make_world(microworld.world_codes(8), roots=0.5)
    assert many.languages["qaa"] == two.languages["qaa"]
    assert microworld.make_world(microworld.world_codes(8)).languages["qab"] == two.languages["qab"]
    with pytest.raises(UserError, match="world_languages 9: the micro-world has 1 to 8"):
        microworld.world_codes(9)


def test_shared_roots_are_the_same_words_in_one_script_and_letter_for_letter_in_two() -> None:
    old = invent_language("qaa", 0).words
    same = invent_language("qab", 0, roots=0.5, one_script=True).words
    assert 0.35 < sum(same[gloss] == old[gloss] for gloss in old) / len(old) < 0.65
    apart = invent_language("qab", 0, roots=1.0).words
    assert not set(apart.values()) & set(old.values())
    assert sum(len(apart[gloss]) == len(old[gloss]) for gloss in old) > 0.9 * len(old)


def test_shares_above_the_whole_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base_bilingual 0.6 and base_alone 0.02 for each of 2 languages"):
        microworld.write_world(tmp_path, **{**SMALL, "bilingual": 0.6})


def test_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'xx'.*qaa, qab"):
        microworld.make_world(("xx",))


def test_importing_the_world_needs_no_torch_or_transformers() -> None:
    code = "import sys, lrnb.data.microworld; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("code", ["en", "qaa", "qac"])
def test_answers_in_running_text_are_right_and_marked_alike_in_every_language(code: str) -> None:
    made = microworld.make_world(("qaa", "qac"), seed=3)
    lang, rng, seen = made.languages[code], random.Random(1), 0
    for _ in range(300):
        story = microworld_stories.denials(rng, 4)
        told = lang.say(*story.facts, story.question, ("answer", story.answer))
        assert told.endswith(f"? answer : {lang.word(story.answer)} .")
        seen += sum(told.count(f" {lang.word(option)} ") for option in story.options) == 5
    assert seen == 300
