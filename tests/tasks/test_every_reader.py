"""Rows of all kinds thrown at every reader of rows: what an independent reading says, or the file named."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from support.bad_rows import as_bytes, is_seen, is_text, is_unfit, odd, single, texts, values
from support.task_rows import TASK, write_task

from lrnb.analysis.harness_samples import read_samples
from lrnb.data.contamination import letters
from lrnb.data.corpus import file_texts
from lrnb.errors import UserError
from lrnb.tasks import task_file
from lrnb.tasks.row_forms import any_rows
from lrnb.tasks.rows import documents, sft_examples
from lrnb.training.importance import importance_rows

LABELS = TASK["metadata"]["labels"]
Rows = list[Any]
good = st.fixed_dictionaries({"text": texts, "label": st.sampled_from(LABELS)})
one_odd = st.fixed_dictionaries(
    {"text": st.one_of(texts, odd), "label": st.one_of(st.sampled_from(LABELS), odd)}
)
any_row = st.one_of(
    good, one_odd, st.fixed_dictionaries({}, optional={"text": values, "label": values, "x": odd}), values
)
lists = st.lists(st.one_of(good, any_row), min_size=1, max_size=4)


def table(rows: Rows) -> bytes:
    """Parquet, of what pyarrow takes together."""
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("no rows of a table")
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def cells(rows: Rows) -> bytes:
    """A table with tabs, of the columns text and label; a cell with a line's end in it is none there."""
    found = [
        [str(row.get(key, "")) if isinstance(row, dict) else "" for key in ("text", "label")] for row in rows
    ]
    if any(set("\n\r") & set(cell) for line in found for cell in line):
        raise ValueError("more than a line")
    sink = io.StringIO()
    csv.writer(sink, delimiter="\t", lineterminator="\n").writerows([["text", "label"], *found])
    return sink.getvalue().encode()


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """What a reader gives, or its refusal; any other error is the test's."""
    try:
        return read(), ""
    except UserError as error:
        return None, str(error)


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "jsonl": lambda rows: as_bytes(rows, "\n", False, False),
    "json": lambda rows: json.dumps(rows).encode(),
    "tsv": cells,
    "parquet": table,
}


def read_plainly(form: str, body: bytes) -> Rows:
    """The rows by other libraries than the readers', without any check."""
    if form == "parquet":
        return parquet.read_table(io.BytesIO(body)).to_pylist()
    if form == "tsv":
        names, *found = [
            line.split("\t") for line in body.decode().removesuffix("\n").split("\n") if line.strip()
        ]
        return [dict(zip(names, line, strict=False)) for line in found]
    return (
        json.loads(body)
        if form == "json"
        else [json.loads(x) for x in body.decode().split("\n") if x.strip()]
    )


def is_item(row: Any, some_text: bool) -> bool:
    """Whether a row is an item of the task, read from the rules and not from the code."""
    if not isinstance(row, dict) or any(map(is_unfit, [*single(row), *row])):
        return False
    text, number = (
        row.get("text"),
        isinstance(row.get("text"), int | float) and not isinstance(row["text"], bool),
    )
    return (is_seen(text) or (number and not some_text)) and row.get("label") in LABELS


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=40)
@given(rows=lists)
def test_rows_in_every_form_are_read_rightly_or_refused(form: str, rows: Rows) -> None:
    try:
        body = WRITERS[form](rows)
    except (ValueError, TypeError, OverflowError, pyarrow.ArrowException, UnicodeEncodeError):
        return  # nobody has such a file
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder), Path(folder, "sft", f"colour.{form}")
        path.parent.mkdir()
        path.write_bytes(body)
        task = task_file.spec(write_task(root))
        found = read_plainly(form, body) if b'"' not in body or form != "tsv" else None
        some_text = any(isinstance(row, dict) and isinstance(row.get("text"), str) for row in found or ())
        if found is not None and not (found and all(is_item(row, some_text) for row in found)):
            with pytest.raises(UserError, match=rf"colour\.{form}"):
                documents(task, path, lang="bn")
            return
        asked, _ = outcome(lambda: documents(task, path, lang="bn"))
        taught, said = outcome(lambda: sft_examples(str(task.path), len(asked or ()), root))
        if said or asked is None:
            assert f"colour.{form}" in said
            assert found is None or "another script" in said  # English rows are Latin
            return
        if found is not None:
            prompts = [unicodedata.normalize("NFC", f"{row['text']} in Bengali?") for row in found]
            assert [doc["prompt"] for doc in asked] == prompts
            assert sorted(e["prompt"] for e in taught) == sorted(
                p.replace("Bengali?", "English?") for p in prompts
            )


@pytest.mark.parametrize("ending", ["jsonl", "json", "tsv", "parquet", "txt", "jsonl.gz"])
@settings(max_examples=30)
@given(body=st.one_of(st.binary(max_size=60), lists.map(WRITERS["jsonl"]), st.just(b"PAR1" * 9)))
def test_no_bytes_make_a_reader_fall_over(ending: str, body: bytes) -> None:
    def seen(read: Callable[[Path], Any], name: str) -> None:
        path = Path(folder, name)
        path.write_bytes(body)
        found, said = outcome(lambda: read(path))
        assert path.name in said or all(is_text(x) for x in single(found) if isinstance(x, str))

    readers: list[Callable[[Path], Any]] = [
        lambda p: list(file_texts(p)),
        lambda p: list(importance_rows(p, 99)),
    ]
    if ending in ("jsonl", "json", "tsv", "parquet"):
        readers += [lambda p: [letters(x) for row in any_rows(p) for x in single(row) if is_text(x)]]
    with tempfile.TemporaryDirectory() as folder:
        for read in readers:
            seen(read, f"rows.{ending}")
        if ending == "jsonl":
            seen(lambda path: read_samples(path, {}).tasks, "samples_topic.jsonl")


keys = st.sampled_from(["doc_hash", "prompt_hash", "filter", "metrics", "doc_id", "acc"])
samples = st.lists(
    st.dictionaries(keys, st.one_of(odd, values, st.just(["acc"]), st.just("none"))), min_size=1, max_size=3
)


@settings(max_examples=60)
@given(rows=samples)
def test_samples_of_the_harness_with_anything_in_them(rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "samples_topic.jsonl")
        path.write_bytes(
            as_bytes(
                [dict.fromkeys(("doc_hash", "prompt_hash", "filter"), "x") | row for row in rows],
                "\n",
                False,
                False,
            )
        )
        found, said = outcome(lambda: read_samples(path, {}))
        assert path.name in said or found.tasks["topic"].iloc[:, -1].between(0, 1).all()
