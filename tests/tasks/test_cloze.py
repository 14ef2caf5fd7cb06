"""Cloze items: where the words stand, that simple rules do not solve them, limit, refused rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import regex

from lrnb.errors import UserError
from lrnb.tasks import cloze, loading, task_file
from lrnb.tasks.row_files import read_rows
from lrnb.tasks.rows import documents_of, split_rows

LANGS = ("bn", "en", "ta", "te", "or", "ug")
NAMES = "Asha Bimal Chitra Dinesh Elina Farid Gita Hari Indra Jaya Kamal Lata".split()
THINGS = [
    f"{a}{b}{c}"
    for a in ("ka", "lo", "mi", "ru")
    for b in ("bet", "dun", "fis", "gor")
    for c in ("a", "el", "o")
]


def story(i: int) -> dict:
    """A passage of four people with a thing each, and what follows: who lost which."""
    people = [NAMES[(i + k) % 12] for k in range(4)]
    things = [THINGS[(13 * i + 3 * k) % 48] for k in range(4)]
    context = " ".join(f"Then {p} found a {t} by the well." for p, t in zip(people, things, strict=True))
    follows = f"At night a thief took the {things[i % 4]} away from the house."
    return {"context": context, "options": ["Nobody saw it.", follows], "answer": 1}


def rows_of(n: int) -> list[dict]:
    return [story(i) | {"item": i} for i in range(n)]


def write(root: Path, rows: list[dict], folder: str = "next_passage", lang: str = "en") -> Path:
    path = root / "eval" / folder / lang / "test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def prepared(root: Path, lang: str = "en", **options: object) -> list[dict]:
    task = task_file.spec("cloze")
    rows, where = split_rows(task, lang, "test", root, 0)
    return documents_of(task, rows, where, lang=lang, prompts="english", seed=0, **options)


@pytest.fixture(scope="module", params=LANGS)
def real(request, data_root) -> tuple[list[dict], list[dict]]:
    path = data_root / "eval" / "next_passage" / request.param / "test.jsonl"
    rows = read_rows(path)
    return rows, cloze.cloze_items(rows, str(path))


# items


def test_the_blanked_word_of_what_follows_is_the_answer():
    for item, row in zip(cloze.cloze_items(rows_of(24), "f"), rows_of(24), strict=True):
        right = item["options"][item["answer"]]
        assert right == THINGS[(13 * row["item"] + 3 * (row["item"] % 4)) % 48]
        assert item["question"].replace(cloze.BLANK, right) == row["options"][1]
        assert item["passage"] == row["context"]
        assert sorted(item["options"]) == sorted(THINGS[(13 * row["item"] + 3 * k) % 48] for k in range(4))


def test_same_rows_and_seed_give_the_same_items(real):
    rows, made = real
    assert cloze.cloze_items(rows, "f") == made
    assert cloze.cloze_items(rows, "f", seed=1) != made


def test_options_are_words_of_the_passage_that_the_question_does_not_hold(real):
    for item in real[1]:
        letters = r"[\p{L}\p{M}\u200c\u200d]"
        asked = regex.findall(letters + "+", item["question"].lower())
        assert len(set(item["options"])) == 4
        assert item["question"].count(cloze.BLANK) == 1
        for option in item["options"]:
            whole = (
                rf"(?<!{letters}){regex.escape(option)}(?!{letters})"  # no letter, no vowel sign beside it
            )
            assert regex.search(whole, item["passage"], regex.IGNORECASE)
            assert option.lower() not in asked


def test_questions_stand_in_what_follows_and_passages_are_short_ends(real):
    rows = {row["item"]: row for row in real[0]}
    lengths = []
    for item in real[1]:
        row = rows[item["item"]]
        before, after = item["question"].split(cloze.BLANK)
        assert before in row["options"][row["answer"]] and after in row["options"][row["answer"]]
        assert row["context"].endswith(item["passage"])
        lengths.append(len(item["passage"]))
    assert np.mean(np.array(lengths) <= cloze.WINDOW) > 0.75
    assert len(real[1]) >= 80


def values(item: dict, passages: list[str]) -> np.ndarray:
    """rules x options, counted here by plain substrings of the text, not by the module's own words."""
    text, padded = item["passage"].lower(), f" {item['passage'].lower()} "
    words = regex.findall(r"[\p{L}\p{M}\u200c\u200d]+", padded)
    options = [option.lower() for option in item["options"]]
    return np.array([
        [words.count(o) for o in options],
        [text.find(o) for o in options],
        [text.rfind(o) for o in options],
        [len(o) for o in options],
        [len(o.encode()) for o in options],
        [sum(o in p.lower() for p in passages) for o in options],
    ])  # fmt: skip


def test_rules_that_look_at_no_meaning_get_a_quarter(real):
    rows, made = real
    hits = []
    for item in made:
        of_one = values(item, [row["context"] for row in rows])
        both = np.concatenate([of_one, -of_one])  # the most, and the least
        top = both == both.max(axis=1, keepdims=True)
        hits.append(top[:, item["answer"]] / top.sum(axis=1))
    assert np.abs(np.mean(hits, axis=0) - 0.25).max() < 0.07


def test_a_beginning_without_the_options_is_cut_off():
    long = story(3)
    long["context"] = "Nobody knows why the rain fell on that day. " * 30 + long["context"]
    item = cloze.cloze_items([*rows_of(3), long | {"item": 3}], "f")[-1]
    assert 150 < len(item["passage"]) <= cloze.WINDOW
    assert item["passage"].startswith("Nobody")


def test_vowel_signs_and_joiners_stay_with_their_letters():
    book = cloze.Book(["কুকুরের উত্\u200dসব হলো।", "ମା’କୁ କାହିଁକି"])
    assert [w.form for w in book.words("কুকুরের উত্\u200dসব হলো।")] == ["কুকুরের", "উত্\u200dসব", "হলো"]
    assert [w.form for w in book.words("ମା’କୁ କାହିଁକି")] == ["ମା’କୁ", "କାହିଁକି"]


def test_a_capital_that_only_starts_a_sentence_is_no_name():
    book = cloze.Book(["Then Asha left. Birds sang and then Asha slept.", "Okay. She saw birds."])
    assert [w.form for w in book.words("Then Asha saw Birds.")] == ["then", "Asha", "saw", "birds"]
    assert book.fit("Asha") and not book.fit("Okay")


# the task


def test_the_prompt_is_that_of_reading_comprehension():
    ours, theirs = task_file.spec("cloze"), task_file.spec("reading_comprehension")
    row = {"passage": "P", "question": "Q ____ Q"}
    for lang in ("bn", "mn", "or", "ta", "te", "ug"):
        for prompts in ("english", "native"):
            shown = [task.prompt_in(lang, prompts).template.render(row) for task in (ours, theirs)]
            assert shown[0] == shown[1]
    assert ours.delimiter == theirs.delimiter
    assert (ours.metadata.family, ours.metadata.sft) == (theirs.metadata.family, theirs.metadata.sft)


def test_the_task_makes_its_items_of_the_other_folder(tmp_path):
    write(tmp_path, rows_of(12))
    task = loading.load_tasks(["cloze_en"], "bn", tmp_path)["cloze_en"]
    assert task.chance == 0.25
    doc = task._splits["test"][5]
    assert doc["prompt"].startswith("Then Farid found") and "\nQuestion: At night a thief" in doc["prompt"]
    assert doc["options"][doc["answer"]] == THINGS[(13 * 5 + 3) % 48]


def test_real_cloze_rows_come_first(tmp_path):
    write(tmp_path, rows_of(12))
    own = {"passage": "P", "question": "Q ____", "options": ["one", "two"], "answer": 1}
    write(tmp_path, [own], "cloze")
    (doc,) = prepared(tmp_path)
    assert doc["prompt"] == "P\nQuestion: Q ____\nAnswer:"
    assert doc["options"][doc["answer"]] == "two"


def test_a_task_of_one_s_own_makes_items_of_its_own_rows(tmp_path):
    write(tmp_path, rows_of(12), "mine")
    text = (task_file.FOLDER / "cloze.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("data: cloze", "data: mine").replace("next_passage #", "mine #"))
    task = loading.load_tasks([str(file)], "en", tmp_path)["cloze"]
    assert len(task._splits["test"]) == 12


def test_limit_gives_parallel_files_the_same_rows_where_both_have_them(tmp_path):
    rows = [story(i) for i in range(40)]
    write(tmp_path, rows, lang="en")
    for gone in (4, 17, 39):
        rows[gone] = rows[gone] | {"options": ["Nobody saw it.", "It rained."]}
    write(tmp_path, rows, lang="bn")
    english, other, few = (
        {doc["item"] for doc in prepared(tmp_path, lang, limit=limit)}
        for lang, limit in (("en", 20), ("bn", 20), ("bn", 8))
    )
    assert len(english) == len(other) == 20
    assert few < other
    assert english - {4, 17, 39} <= other


def test_blank_lines_take_no_item_away(tmp_path):
    path = write(tmp_path, [story(i) for i in range(20)])
    path.write_text("\n\n".join(path.read_text(encoding="utf-8").splitlines()), encoding="utf-8")
    assert max(doc["item"] for doc in prepared(tmp_path, limit=30)) > 20
    assert len(prepared(tmp_path, limit=39)) == len(prepared(tmp_path)) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": None}, r"test.jsonl:3: a cloze item needs 'context'"),
        ({"options": "one"}, r"test.jsonl:3: a cloze item needs"),
        ({"answer": True}, r"test.jsonl:3: a cloze item needs"),
        ({"answer": 2}, r"test.jsonl:3: 'answer' must be the index of a text among the 2 options"),
        ({"options": ["a", 5]}, r"test.jsonl:3: 'answer' must be the index"),
    ],
)
def test_refused_rows_name_file_and_line(tmp_path, change, message):
    rows = [story(i) for i in range(5)]
    rows[2] |= change
    write(tmp_path, rows)
    with pytest.raises(UserError, match=message):
        prepared(tmp_path)


def test_languages_without_spaces_are_refused(data_root):
    with pytest.raises(UserError, match="without spaces between words; leave the task out"):
        prepared(data_root, "bo")


def test_missing_rows_say_what_there_is(tmp_path):
    write(tmp_path, rows_of(12))
    with pytest.raises(UserError, match=r"eval/cloze/bn/test.jsonl; there is: en/test"):
        prepared(tmp_path, "bn")


@pytest.mark.parametrize("value", ["../elsewhere", "/tmp", 5])
def test_cloze_from_stays_in_the_data_root(tmp_path, value):
    text = (task_file.FOLDER / "cloze.yaml").read_text(encoding="utf-8")
    (tmp_path / "t.yaml").write_text(text.replace("cloze_from: next_passage", f"cloze_from: {value}"))
    with pytest.raises(UserError, match=r"cloze_from must be a text|inside the data root"):
        task_file.spec(str(tmp_path / "t.yaml"))
