"""Rows of tasks of all kinds: prompts right by an independent reading, or refused with file and line."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.bad_rows import (
    SURROGATE,
    TYPED,
    as_bytes,
    is_nfc,
    is_seen,
    is_text,
    is_unfit,
    odd,
    repr_of,
    single,
    texts,
    values,
)
from support.task_rows import TASK, labelled, write_rows, write_task

from lrnb.data.unicode_form import nfc
from lrnb.errors import UserError
from lrnb.tasks import loading, task_file
from lrnb.tasks.hub import hub_rows
from lrnb.tasks.row_files import leaves, read_rows
from lrnb.tasks.rows import documents, sft_examples, solved
from lrnb.tasks.vocabulary_texts import data_texts

LABELS = TASK["metadata"]["labels"]
good_labels = st.sampled_from(LABELS)
fields = {"text": st.one_of(texts, odd, values), "label": st.one_of(good_labels, odd, values)}
rows = st.one_of(
    st.fixed_dictionaries({"text": texts, "label": good_labels}, optional={"note": values}),
    st.fixed_dictionaries({"text": st.one_of(texts, odd), "label": good_labels}),
    st.fixed_dictionaries({}, optional=fields | {"note": values}),
    values,
)


def is_bad(row: Any, some_text: bool) -> bool:
    """Whether no item of the task `colour` can be made of a row: read from the rules, not from the code."""
    if not isinstance(row, dict) or any(map(is_unfit, leaves([*row.values(), *row]))):
        return True
    text, label = row.get("text"), row.get("label")
    number = isinstance(text, int | float) and not isinstance(text, bool)
    return not (is_seen(text) or (number and not some_text)) or label not in LABELS


good_rows = st.fixed_dictionaries({"text": texts, "label": good_labels})
one_odd = st.fixed_dictionaries({"text": odd, "label": good_labels}, optional={"note": odd})
few = st.one_of(st.tuples(good_rows, one_odd), st.tuples(one_odd, good_rows, good_rows))


@given(st.one_of(few, few, st.lists(rows, min_size=1, max_size=6)))
def test_prompts_are_those_of_the_rows_or_a_line_is_named(given_rows: Sequence[Any]) -> None:
    some_text = any(isinstance(row, dict) and isinstance(row.get("text"), str) for row in given_rows)
    bad = [n for n, row in enumerate(given_rows, 1) if is_bad(row, some_text)]
    with tempfile.TemporaryDirectory() as folder:
        task, path = task_file.spec(write_task(Path(folder))), Path(folder, "test.jsonl")
        path.write_bytes(as_bytes([*given_rows], "\n", False, False))
        if bad:
            with pytest.raises(UserError) as caught:
                documents(task, path, lang="bn")
            assert int(re.search(r"test\.jsonl:(\d+)", str(caught.value))[1]) in bad
            return
        docs = documents(task, path, lang="bn")
        prompts = [unicodedata.normalize("NFC", f"{row['text']} in Bengali?") for row in given_rows]
        assert [doc["prompt"] for doc in docs] == prompts
        assert [doc["options"][doc["answer"]] for doc in docs] == [row["label"] for row in given_rows]


@settings(max_examples=25, phases=[Phase.generate])  # each reads all task files
@given(st.lists(rows, min_size=1, max_size=5), st.lists(rows, max_size=3))
def test_the_pruned_vocabulary_sees_nfc_and_no_half_characters(items: list[Any], taught: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, found in (("eval/colour/bn/test.jsonl", items), ("sft/colour.jsonl", taught)):
            path = Path(folder, name)
            path.parent.mkdir(parents=True)
            path.write_bytes(as_bytes(found, "\n", False, False))
        seen = list(data_texts(Path(folder)))
    assert is_nfc(seen) and all(map(is_text, seen))
    assert {nfc(part) for part in single([*items, *taught]) if is_text(part)} <= set(seen)


@given(st.binary(max_size=40).filter(lambda body: b"}" not in body))  # {} is a row
def test_no_bytes_of_a_task_s_file_end_in_a_traceback(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test.jsonl")
        path.write_bytes(body)
        with pytest.raises(UserError, match=r"test\.jsonl"):
            read_rows(path)


# nulls, lists, numbers where text is needed


def prompt_of(folder: Path, template: str, *given_rows: dict[str, Any]) -> str:
    task = task_file.spec(write_task(folder, doc_to_text=template))
    whole = [{"label": "red", **row} for row in given_rows]
    return documents(task, write_rows(folder, whole), lang="bn")[-1]["prompt"]


@pytest.mark.parametrize(
    "template",
    ["{{text}}", "{{ text ~ '!' }}", "{{ text | trim }}", "{{ '%s' % text }}", "{{ text | string }}",
     "{{ [text] | join }}", "{{ text | upper }}", "{% if text is not defined %}{{ text }}{% endif %}"],
)  # fmt: skip
def test_a_null_is_never_shown(tmp_path: Path, template: str) -> None:
    with pytest.raises(UserError, match=r"test\.jsonl:2: 'text' is null: give it a text, or remove the row"):
        prompt_of(tmp_path, template, {"text": "a"}, {"text": None})


@pytest.mark.parametrize("text", ["", " \u00a0\u3000", "\u200b\u200d", "\ufeff", "\x00\n", "\u2028"])
@pytest.mark.parametrize("template", ["{{text}}", "{{ text | trim }}", "{{ text ~ '!' }}"])
def test_a_text_in_which_nothing_is_seen_is_never_shown(tmp_path: Path, template: str, text: str) -> None:
    with pytest.raises(UserError, match=r"test\.jsonl:2: 'text' is empty: give it a text, or remove the row"):
        prompt_of(tmp_path, template, {"text": "a"}, {"text": text})
    assert prompt_of(tmp_path, "{% if text %}{{ text }}{% endif %}.", {"text": text}) == "."


@pytest.mark.parametrize("option", ["", " ", "\u200b", "\u2060\u00a0"])
def test_an_option_in_which_nothing_is_seen_is_refused(tmp_path: Path, option: str) -> None:
    row = {"context": "a", "relation": "cause", "options": ["b", option], "answer": 0}
    path = write_rows(tmp_path, [row])
    with pytest.raises(
        UserError, match=r"test\.jsonl:1: 'options' must be two or more texts that are not empty"
    ):
        documents(task_file.spec("causal_choice"), path, lang="bn")


@pytest.mark.parametrize("relation", ["Cause", "because", "", None, 0, ["cause"]])
@pytest.mark.parametrize("prompts", ["english", "native"])
def test_a_relation_that_is_neither_is_not_asked_as_the_other(
    tmp_path: Path, prompts: str, relation: Any
) -> None:
    """Native prompts ask for the effect where the row does not say cause."""
    row = {"context": "a", "relation": relation, "options": ["b", "c"], "answer": 0}
    path = write_rows(tmp_path, [row])
    with pytest.raises(
        UserError, match=r"test\.jsonl:1: 'relation' is .*must be one of cause, effect; correct"
    ):
        documents(task_file.spec("causal_choice"), path, lang="bn", prompts=prompts)


@pytest.mark.parametrize(
    ("template", "shown"),
    [("{% if text %}{{ text }}{% endif %}.", "."), ("{{ text | default('x') }}", "x"), ("{{ label }}", "red"),
     ("{{ text or 'none' }}", "none"), ("{% if text is defined %}a{% else %}b{% endif %}", "b")],
)  # fmt: skip
def test_a_null_that_the_template_expects_is_no_error(tmp_path: Path, template: str, shown: str) -> None:
    assert prompt_of(tmp_path, template, {"text": "a"}, {"text": None}) == shown


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (["a", "b"], "'text' is a list, not a text"),
        ({"bn": "a"}, "'text' is an object, not a text"),
        (5, "'text' is a number here and a text in other rows"),
        (True, "'text' is a number here and a text in other rows"),
    ],
)
@pytest.mark.parametrize("template", ["{{text}}", "{{ text ~ '!' }}", "{{ text | string | trim }}"])
def test_lists_and_numbers_are_not_shown_as_text(tmp_path: Path, template: str, value: Any, why: str) -> None:
    with pytest.raises(UserError, match=rf"test\.jsonl:2: {why}.*needed by doc_to_text"):
        prompt_of(tmp_path, template, {"text": "a"}, {"text": value})


def test_what_a_template_makes_of_lists_and_numbers_stands(tmp_path: Path) -> None:
    row = {"turns": ["a", "b"], "by": {"en": "c"}, "n": 7, "half": 0.5}
    template = "{{ turns | join(' ') }} {{ turns[0] }} {{ by.en }} {{ n }} {{ half }} {{ turns | length }}"
    assert prompt_of(tmp_path, template, row) == "a b a c 7 0.5 2"
    for inner in ({"turns": ["a", None]}, {"by": {"en": None}}):
        with pytest.raises(UserError, match="is null"):
            prompt_of(tmp_path, template, row | inner)
    with pytest.raises(UserError, match=r"\['a'\] is no text"):
        prompt_of(tmp_path, "{{ turns[:1] }}", row)
    with pytest.raises(UserError, match="True is no text"):
        prompt_of(tmp_path, "{{ n > 5 }}", row)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('{"text": "\\ud83d", "label": "red"}', "'text' holds half a character"),
        ('{"text": "a", "label": "red", "more": {"\\ud83d": 1}}', "'more' holds half a character"),
        ('{"\\ud83d": "a", "label": "red"}', "holds half a character"),
        ('{"text": "a", "label": "red", "n": [NaN]}', "'n' is nan, which JSON does not have"),
        ('{"text": "a", "label": "red", "n": -Infinity}', "'n' is -inf, which JSON does not have"),
        ('{"text": "a", "label": "red", "n": 1e999}', "'n' is inf, which JSON does not have"),
        ('{"text": "a", "label": null}', "'label' is None; give it a name"),
        ('{"text": "a", "label": ["red"]}', r"'label' is \['red'\]; give it a name"),
        ('{"text": "a", "options": null, "label": "red"}', "'options' must be two or more texts"),
        ('{"text": "a", "options": ["a", null], "answer": 0}', "'options' must be two or more texts"),
        ("null", "a JSON object is expected, not NoneType"),
        ('{"text": ' + "1" * 5000 + "}", "not JSON"),
        ("[" * 9999, "not JSON"),
    ],
)
@pytest.mark.parametrize("given_labels", [LABELS, []])
def test_rows_that_are_none_are_refused_with_file_and_line(
    tmp_path: Path, row: str, why: str, given_labels: list[str]
) -> None:
    path = write_rows(tmp_path, labelled(3))
    path.write_text(path.read_text() + row + "\n")
    task = task_file.spec(write_task(tmp_path, labels=given_labels))
    with pytest.raises(UserError, match=rf"test\.jsonl:4: .*{why}") as caught:
        documents(task, path, lang="bn")
    str(caught.value).encode()  # can be printed


def test_numbers_stay_labels(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    docs = documents(task_file.spec(write_task(tmp_path, labels=[])), path, lang="bn")
    assert [doc["options"][doc["answer"]] for doc in docs] == ["0", "1"]


def test_files_with_marks_and_other_ends_of_lines_are_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [])
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n' + '{"text": "b\u2028\x85c"}'.encode())
    assert read_rows(path) == [{"text": "a", "item": 0}, {"text": "b\u2028\x85c", "item": 2}]
    path.write_bytes('{"text": "caf\u00e9"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"test\.jsonl:1: is no UTF-8 text"):
        read_rows(path)


# One Unicode form


def test_prompts_options_and_examples_have_the_form_of_the_training_text(tmp_path: Path) -> None:
    row = {"text": TYPED, "options": [f"{TYPED} one", "two"], "answer": 0}
    name = write_task(tmp_path, doc_to_text=f"{TYPED}: {{{{text}}}}", target_delimiter=f" {TYPED} ")
    for file in ("eval/colour/bn/test.jsonl", "eval/colour/bn/train.jsonl", "sft/colour.jsonl"):
        write_rows(tmp_path, [row | {"text": f"{TYPED}{'' if 'test' in file else ' again'}"}], file)
    task = task_file.spec(name)
    docs = documents(task, tmp_path / "eval/colour/bn/test.jsonl", lang="bn")
    docs += solved(task, "bn", tmp_path, 0)
    found = [*docs, *sft_examples(name, 1, tmp_path), {"delimiter": task.delimiter}]
    assert TYPED not in repr_of(found) and is_nfc(found)
    assert docs[0]["prompt"] == f"{nfc(TYPED)}: {nfc(TYPED)}"
    loaded = loading.load_tasks([name], "bn", tmp_path, shots=1)["colour"]
    loaded.build_all_requests()
    assert is_nfc([part for request in loaded.instances for part in request.args])


def test_labels_meet_whatever_form_they_were_typed_in(tmp_path: Path) -> None:
    native = {"bn": {"doc_to_text": "{{text}}", "labels": {nfc(TYPED): "ক", "blue": TYPED}}}
    meta = {**TASK["metadata"], "labels": [TYPED, "blue"], "native": native}
    task = task_file.spec(write_task(tmp_path, metadata=meta))
    path = write_rows(tmp_path, [{"text": "a", "label": nfc(TYPED)}, {"text": "b", "label": TYPED}])
    for prompts, word in (("english", nfc(TYPED)), ("native", "ক")):
        docs = documents(task, path, lang="bn", prompts=prompts)
        assert [doc["options"][doc["answer"]] for doc in docs] == [word] * 2 and is_nfc(docs)


def test_options_that_only_look_different_are_equal(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [{"text": "a", "options": ["\u09df", "\u09af\u09bc"], "answer": 0}])
    with pytest.raises(UserError, match=r"test\.jsonl:1: the right option stands there twice"):
        documents(task_file.spec(write_task(tmp_path)), path, lang="bn")


def test_hub_rows_are_checked_and_nfc_too(tmp_path: Path) -> None:
    hub = {"path": "a/b", "code": {"bn": "bn"}, "splits": {"test": "test"}, "files": "{code}.jsonl",
           "fields": {"text": "words", "label": "'red'"}}  # fmt: skip
    task = task_file.spec(write_task(tmp_path, metadata={**TASK["metadata"], "hub": hub}))
    path = write_rows(tmp_path, [{"words": TYPED}, {"words": None}], "hub/a/b/bn.jsonl")
    found = hub_rows(task, "bn", "test", tmp_path, 0)
    assert [row["text"] for row in found] == [nfc(TYPED), None]
    with pytest.raises(UserError, match=r"a/b \(bn, test\):2: 'text' is null"):
        loading.load_tasks([str(task.path)], "bn", tmp_path)
    path.write_text('{"words": "' + SURROGATE.encode("ascii", "backslashreplace").decode() + '"}\n')
    with pytest.raises(UserError, match=r"a/b \(bn, test\)"):
        hub_rows(task, "bn", "test", tmp_path, 0)


def test_copies_beside_training_sets_are_none(tmp_path: Path) -> None:
    task = task_file.spec(write_task(tmp_path))
    for name in ("train_1", "train_2", "train_2.copy", "train_old", "._train_1"):
        write_rows(tmp_path, [{"text": name, "label": "red"}], f"eval/colour/bn/{name}.jsonl")
    shown = [solved(task, "bn", tmp_path, seed)[0]["prompt"] for seed in range(4)]
    assert shown == ["train_1 in Bengali?", "train_2 in Bengali?"] * 2
