"""The micro-world: same bytes by seed, grammar, tasks with right answers, no leak of test items."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from lrnb import world
from lrnb.params import UserError
from lrnb.taskspec import spec
from lrnb.world_text import ENGLISH, SCRIPTS, TOPICS, draw_document, invent_language

SMALL = {"base_tokens": 60_000, "ct_tokens": 40_000, "dev": 20, "test": 40, "sft": 60}
CODES = ("en", "qaa", "qab")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    world.write_world(out, **SMALL)
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
    world.write_world(tmp_path / "again", **SMALL)
    world.write_world(tmp_path / "other", seed=1, **SMALL)
    again, other = digests(tmp_path / "again"), digests(tmp_path / "other")
    assert again == digests(root)
    assert again.keys() == other.keys()
    assert all(again[name] != other[name] for name in again)


def test_data_root_is_complete(root: Path) -> None:
    corpora = {f"corpus/{name}.jsonl.gz" for name in ("base", *CODES)}
    tasks = {
        f"eval/world_{task}/{code}/{split}.jsonl"
        for task in world.TASKS for code in CODES for split in ("dev", "test")
    }  # fmt: skip
    assert set(digests(root)) == corpora | tasks | {f"sft/world_{t}.jsonl" for t in world.TASKS}
    for task in world.TASKS:
        sizes = [len(rows(root, task, "qaa", split)) for split in ("dev", "test")]
        assert (*sizes, len(sft_rows(root, task))) == (20, 40, 60)


def test_invented_language_is_verb_final_with_postpositions_and_no_articles() -> None:
    x = invent_language("qaa", 0)
    fact = ("act_at", "anna", "feeds", "cow", "near", "barn")
    assert ENGLISH.say(fact) == "anna feeds the cow near the barn ."
    assert x.say(fact).split() == [
        "anna", x.word("barn"), x.word("near"), x.word("cow"), x.word("feeds"), "."
    ]  # fmt: skip
    assert x.say(("has", "ben", "3", "eggs")).split() == [
        "ben", "3", x.word("eggs"), x.word("has"), "."
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
    texts += [body(row) for task in world.TASKS for row in sft_rows(root, task)]
    everything = "\n".join(texts)
    assert texts[0] in everything
    for task in world.TASKS:
        for code in CODES:
            dev, test = ({body(r) for r in rows(root, task, code, s)} for s in ("dev", "test"))
            assert not dev & test
            assert not [text for text in dev | test if text in everything]


def test_facts_of_test_items_are_in_no_training_document_in_any_language() -> None:
    made = world.make_world(seed=3)
    seen = set()
    stream = world._stream(made, "base")
    for _ in range(4000):
        seen |= set(world.units(next(stream)))
    assert {world.part_of(*unit) for unit in seen} == {"train"}
    parts = [world.part_of(*unit) for unit in _units_of_any_documents(4000)]
    assert 0.04 < parts.count("test") / len(parts) < 0.09


def _units_of_any_documents(n: int) -> list[tuple]:
    import random

    rng = random.Random(0)
    return [unit for _ in range(n) for unit in world.units(draw_document(rng))]


@pytest.mark.parametrize("task", world.TASKS)
def test_options_are_four_and_the_answer_is_parallel_in_all_languages(root: Path, task: str) -> None:
    english = rows(root, task, "en", "test")
    for code in CODES:
        for row, same in zip(rows(root, task, code, "test"), english, strict=True):
            assert len(set(row["options"])) == 4
            assert row["answer"] == same["answer"]
    counts = [sum(row["answer"] == i for row in english) for i in range(4)]
    assert min(counts) >= 2


def test_answers_are_right(root: Path) -> None:
    for row in rows(root, "sums", "en", "test"):
        words = row["question"].split()
        start, verb, step = int(words[2]), words[6], int(words[7])
        end = start + step if verb == "gets" else start - step
        assert row["options"][row["answer"]] == str(end)
    for row in rows(root, "reading", "en", "test"):
        right = row["options"][row["answer"]]
        about = set(row["question"].split()) & set(row["passage"].split())
        about -= {"is", "in", "has", "the"}
        sentence = next(s for s in row["passage"].split(".") if about & set(s.split()))
        assert right in sentence.split()
        assert sum(option in row["passage"].split() for option in row["options"]) == 1
    for row in rows(root, "topic", "en", "test"):
        topic = TOPICS[row["options"][row["answer"]]]
        assert set(row["text"].split()) & {w for group in topic.values() for w in group}


def test_response_options_include_the_reply_that_fits(root: Path) -> None:
    for row in rows(root, "response", "en", "test"):
        ask, reply = row["context"].split(), row["options"][row["answer"]].split()
        thing = ask[-4]
        assert thing in reply
        others = [option.split() for option in row["options"] if option.split() != reply]
        assert sum(thing not in option for option in others) == 1


def test_base_corpus_mixes_languages_in_the_shares_asked_for(tmp_path: Path) -> None:
    world.write_world(tmp_path, **{**SMALL, "bilingual": 0.1, "alone": 0.05})
    sources = [row["source"] for row in corpus(tmp_path, "base")]
    share = {source: sources.count(source) / len(sources) for source in set(sources)}
    assert share["world/en"] == pytest.approx(0.7, abs=0.04)
    both = share["world/en+qaa"] + share["world/qaa+en"]
    assert both == pytest.approx(0.1, abs=0.03)
    assert share["world/qab"] == pytest.approx(0.05, abs=0.02)


def test_tokenizer_knows_every_word_and_survives_saving(root: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    world.build_tokenizer(world.make_world()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [row["text"] for name in ("base", *CODES) for row in corpus(root, name)]
    for task in world.TASKS:
        items = [r for code in CODES for r in rows(root, task, code, "test")] + sft_rows(root, task)
        texts += [spec(f"world_{task}").prompt.template.render(row) for row in items]
        texts += [option for row in items for option in row["options"]]
    ids = tokenizer(texts)["input_ids"]
    assert not [t for t, row in zip(texts, ids, strict=True) if tokenizer.unk_token_id in row]
    assert all(row[0] == tokenizer.bos_token_id for row in ids)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3


def test_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'xx'.*qaa, qab"):
        world.make_world(("xx",))


def test_importing_the_world_needs_no_torch_or_transformers() -> None:
    code = "import sys, lrnb.world; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
