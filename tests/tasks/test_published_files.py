"""Files as data sets are published lie in the data root and are read; English rows for SFT."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from lrnb.data import corpus
from lrnb.data.placeholders import example
from lrnb.errors import UserError
from lrnb.study.files import write_text
from lrnb.tasks import loading, rows
from lrnb.tasks.task_file import spec
from lrnb.tasks.vocabulary_texts import data_texts

SIB = [
    {"index_id": 7, "category": "travel", "text": 'She said "go" and went.'},
    {"index_id": 3, "category": "science/technology", "text": "A\u2028machine, 'new'"},
    {"index_id": 5, "category": "health", "text": "Жаңа дәрі"},
]


def as_tsv(found: list[dict]) -> str:
    """As pandas writes it: cells with quotes in quotes, each doubled."""
    out = io.StringIO()
    table = csv.DictWriter(out, found[0], delimiter="\t", lineterminator="\n")
    table.writeheader()
    table.writerows(found)
    return out.getvalue()


def ask(root: Path, name: str, lang: str = "kk") -> list[dict]:
    return loading.load_tasks([name], lang, root)[name]._splits["test"]


def json_lines(found: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def test_a_table_of_sib_200_gives_the_items_of_our_rows(tmp_path: Path) -> None:
    ours = [{"text": row["text"], "label": row["category"]} for row in SIB]
    write_text(tmp_path / "tsv" / "eval/topic/kk/test.tsv", as_tsv(SIB))
    write_text(tmp_path / "ours" / "eval/topic/kk/test.jsonl", json_lines(ours))
    assert ask(tmp_path / "tsv", "topic") == ask(tmp_path / "ours", "topic")
    assert {row["text"] for row in SIB} <= set(data_texts(tmp_path / "tsv"))


def test_belebele_as_it_is_published(tmp_path: Path) -> None:
    row = {
        "link": "https://x",
        "question_number": 1,
        "flores_passage": "Үй жанында ағаш бар.",
        "question": "Не бар?",
    }
    row |= {f"mc_answer{n}": f"жауап {n}" for n in (1, 2, 3, 4)}
    row |= {"correct_answer_num": "3", "dialect": "kaz_Cyrl", "ds": "2023-05-03"}
    write_text(tmp_path / "eval/belebele/kk/test.jsonl", json_lines([row]))
    (doc,) = ask(tmp_path, "belebele")
    assert doc["prompt"] == "Үй жанында ағаш бар.\nQuestion: Не бар?\nAnswer:"
    assert doc["options"][doc["answer"]] == "жауап 3"
    row["correct_answer_num"] = "5"
    write_text(tmp_path / "eval/belebele/kk/test.jsonl", json_lines([row]))
    with pytest.raises(UserError, match=r"kk/test.jsonl:1: 'answer' must be an index into the 4 options"):
        ask(tmp_path, "belebele")


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("test.tsv", "test.jsonl"):
        write_text(tmp_path / "eval/topic/kk" / name, as_tsv(SIB))
    with pytest.raises(UserError, match=r"kk: test.jsonl and test.tsv are the same split; keep one of them$"):
        ask(tmp_path, "topic")
    write_text(tmp_path / "eval/topic/kk/test.jsonl", json_lines([{"text": example("x"), "label": "travel"}]))
    with pytest.raises(UserError, match=r"keep one of them \(test.jsonl holds the examples of lrnb new\)$"):
        ask(tmp_path, "topic")


def test_rows_of_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    choice = [{"passage": "p", "question": "q", "options": ["a", "b"], "answer": 1}]
    for name, found in (("topic", SIB), ("reading_comprehension", choice)):
        path = tmp_path / "eval" / name / "kk" / "test.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(found), path)
    assert [doc["names"][doc["answer"]] for doc in ask(tmp_path, "topic")] == [row["category"] for row in SIB]
    (doc,) = ask(tmp_path, "reading_comprehension")
    assert doc["options"][doc["answer"]] == "b"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="test.parquet cannot be read as parquet"):
        ask(tmp_path, "reading_comprehension")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text\tcategory\na\ttravel\nb\n",
            r"test.tsv:3: has 1 cells, the first line names 2 \(text, category\)",
        ),
        (
            'text\tcategory\n"a\ttravel\n',
            r"test.tsv:2: the cells cannot be told apart .*; put a cell that has",
        ),
        ("text\tcategory\n", "test.tsv has no rows"),
        ("", "test.tsv has no rows"),
        ("text\tcategory\na\ttravel\nb\tcooking\n", r"test.tsv:3: label 'cooking' is not among"),
        (
            "text\tkind\na\ttravel\n",
            r"test.tsv:2: needs 'label', or .*must name the columns, and holds: text, kind",
        ),
        ("a farm\ttravel\na\ttravel\n", r"test.tsv:2: 'text' is undefined.*and holds: a farm, travel"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    write_text(tmp_path / "eval/topic/kk/test.tsv", text)
    with pytest.raises(UserError, match=message):
        ask(tmp_path, "topic")


def test_example_rows_are_never_used(tmp_path: Path) -> None:
    row = {"text": example("a sentence"), "label": "travel"}
    write_text(tmp_path / "eval/topic/kk/test.jsonl", json_lines([row]))
    write_text(tmp_path / "sft/topic.jsonl", json_lines([row]))
    write_text(tmp_path / "corpus/kk.jsonl", json_lines([{"text": "own"}, {"text": example("a document")}]))
    told = "the rows are still the examples that lrnb new wrote; put your own in their place, and remove"
    for use in (
        lambda: ask(tmp_path, "topic"),
        lambda: rows.sft_examples("topic", 1, tmp_path),
        lambda: list(corpus.read_local(tmp_path, "kk")),
    ):
        with pytest.raises(UserError, match=told):
            use()


# English rows for SFT


def test_sft_rows_lie_in_sft_whatever_the_task(tmp_path: Path) -> None:
    """Also of a task whose file names another place, or none; that place is read where there is none."""
    write_text(tmp_path / "eval/topic/en/train.jsonl", json_lines([{"text": "old place", "label": "travel"}]))
    assert "old place" in rows.sft_examples("topic", 1, tmp_path)[0]["prompt"]
    (tmp_path / "eval/topic/en/train.jsonl").unlink()
    write_text(tmp_path / "eval/topic/en/train.tsv", as_tsv(SIB[:1]))
    assert "She said" in rows.sft_examples("topic", 1, tmp_path)[0]["prompt"]
    write_text(tmp_path / "sft/topic.tsv", as_tsv(SIB[:2]))
    assert "She said" in str(rows.sft_examples("topic", 2, tmp_path))
    pair = [{"context": "A house", "options": ["a", "b"], "answer": 0}]
    write_text(tmp_path / "sft/translation_choice.jsonl", json_lines(pair))
    assert rows.sft_examples("translation_choice", 1, tmp_path)[0]["completion"] == " a"
    with pytest.raises(
        UserError, match=r"'math' has no English training rows: no file .*sft/math.jsonl. Put"
    ):
        rows.sft_examples("math", 1, tmp_path)
    with pytest.raises(UserError, match=r"sft_mix asks for 9 rows of 'topic', .*sft/topic.tsv has 2"):
        rows.sft_examples("topic", 9, tmp_path)


def test_sft_rows_of_the_hub_where_the_task_trains_on_them(tmp_path: Path) -> None:
    path = tmp_path / "hub/Davlan/sib200/data/eng_Latn/train.tsv"
    write_text(path, as_tsv(SIB[:2]))
    assert rows.sft_from_hub(spec("topic"), tmp_path)
    assert not rows.sft_from_hub(spec("math"), tmp_path)  # its training rows are another set
    assert len(rows.sft_examples("topic", 2, tmp_path)) == 2


def test_rows_for_sft_in_another_script_are_refused(tmp_path: Path) -> None:
    found = [{"question": "1 + 1?", "answer": 2}, {"question": "Алмада қанша дән бар?", "answer": 3}]
    write_text(tmp_path / "sft/math.jsonl", json_lines(found))
    message = (
        r"sft/math.jsonl:2: the row is mostly in another script than Latin; English rows.*sft_x={NAME: F"
    )
    with pytest.raises(UserError, match=message):
        rows.sft_examples("math", 1, tmp_path)
