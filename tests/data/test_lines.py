"""Lines and rows of all kinds at every reader of text: read rightly by an independent reading, or refused."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from support.bad_rows import SEPARATORS, SURROGATE, TYPED, as_bytes, is_nfc, is_text, odd, texts, values
from support.rights import unreadable

from lrnb.data import cleaning, corpus, mongolian
from lrnb.data.lines import DEEPEST, json_lines, numbered_lines
from lrnb.data.unicode_form import nfc, why_no_text
from lrnb.errors import UserError
from lrnb.tasks.vocabulary_texts import data_texts

rows = st.one_of(
    st.fixed_dictionaries({"text": texts}), st.fixed_dictionaries({"text": odd}),
    st.fixed_dictionaries({"text": values}), values, st.just({"title": "x"}),
)  # fmt: skip
ends = st.sampled_from(["\n", "\r\n"])


@contextmanager
def root_with(name: str, body: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus", name)
        path.parent.mkdir()
        path.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
        yield Path(folder)


def read(root: Path) -> tuple[list[str], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(corpus.read_local(root, "bn", dropped)), dropped


@settings(max_examples=60)
@given(st.lists(rows, min_size=1, max_size=8), ends, st.booleans(), st.booleans(), st.booleans())
def test_rows_of_a_corpus_are_text_or_counted(
    given_rows: list[Any], end: str, mark: bool, ascii_only: bool, packed: bool
) -> None:
    right = [row["text"] for row in given_rows if isinstance(row, dict) and is_text(row.get("text"))]
    with root_with(
        "bn.jsonl.gz" if packed else "bn.jsonl", as_bytes(given_rows, end, mark, ascii_only)
    ) as root:
        if not right:
            with pytest.raises(UserError, match=r"bn\.jsonl.*: no row of it is text \(.+\)\. Add text"):
                read(root)
            return
        found, dropped = read(root)
        assert found == right and dropped.total() == len(given_rows) - len(right)
        everything = [*corpus.local_texts(root, "bn")]
        assert everything == right and is_nfc(list(data_texts(root, ["bn"])))


@given(st.lists(texts, min_size=1, max_size=8), ends, st.booleans())
def test_lines_of_plain_text_end_at_newlines_alone(lines: list[str], end: str, mark: bool) -> None:
    lines = [line.strip("\r").lstrip("\ufeff") for line in lines]
    body = "\ufeff" * mark + end.join(lines)
    with root_with("bn.txt", body.encode()) as root:
        found = [line for _, line in numbered_lines(root / "corpus" / "bn.txt")]
    assert found == [line for line in lines if line.strip()]


@settings(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from(corpus.SUFFIXES), st.booleans())
def test_no_bytes_end_in_a_traceback(body: bytes, suffix: str, packed: bool) -> None:
    with root_with(f"bn{suffix}", body) as root:
        if not packed:  # as they are, also where the name says that they are packed
            (root / "corpus" / f"bn{suffix}").write_bytes(body)
        for reading in (read, lambda root: list(data_texts(root, ["bn"])), languages_and_texts):
            assert refused(reading, root) in ("", f"bn{suffix}")


def refused(reading: Callable[[Path], Any], root: Path) -> str:
    """The name of the file that a UserError begins with; "" where there is none."""
    try:
        return "" if reading(root) is not None else "nothing"
    except UserError as error:
        return Path(re.split(r": |:\d| ", str(error))[0]).name


def languages_and_texts(root: Path) -> list[str]:
    return [text for lang in corpus.languages(root) for text in corpus.local_texts(root, lang)]


@given(st.data())
def test_a_damaged_file_is_refused_or_read_in_part(data: st.DataObject) -> None:
    docs = [f"document {i} {SEPARATORS}" for i in range(20)]
    body = gzip.compress(as_bytes([{"text": doc} for doc in docs], "\n", False, False), mtime=0)
    cut = data.draw(st.integers(1, len(body) - 1))
    with root_with("bn.jsonl.gz", b"") as root:
        path = root / "corpus" / "bn.jsonl.gz"
        path.write_bytes(body[:cut])
        with pytest.raises(UserError, match=r"bn\.jsonl\.gz:\d+: the packed data are cut off or damaged"):
            read(root)
        place = data.draw(st.integers(0, len(body) - 1))
        path.write_bytes(body[:place] + bytes([body[place] ^ 255]) + body[place + 1 :])
        damaged = refused(read, root)
        assert damaged == path.name or read(root)[0] == docs  # a byte of the header, such as its time


@given(st.lists(texts.filter(lambda text: "\0" not in text), max_size=6))
def test_what_a_stage_writes_every_later_reader_reads(docs: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "heldout_x.jsonl")
        corpus.write_lines(path, docs)
        assert corpus.read_lines(path) == docs
        assert corpus.held_out(Path(folder), "bn") == ({"bn": docs} if docs else {})


def zipped(body: bytes) -> bytes:
    """Always the same bytes, as they stand in names of tests."""
    return gzip.compress(body, mtime=0)


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("bn.txt", "গান\n".encode("utf-16"), r"bn\.txt:1: is no UTF-8 text \(UTF-16\); .*: iconv"),
        ("bn.txt", "song\n".encode("utf-16-le"), r"bn\.txt:1: .* \(a zero byte: UTF-16.*iconv -f UTF-16LE"),
        ("bn.txt", b"one\0" + b"song " * 20, r"bn\.txt:1: holds a zero byte; .*tr -d '\\000' < bn.txt"),
        ("bn.txt", b"one\rtwo\rthree\r", r"bn\.txt: its lines end with carriage returns alone"),
        ("bn.jsonl.gz", zipped("গান".encode("utf-16")), r"gz:1: .*unpack it and convert.* bn\.jsonl >"),
        ("bn.txt", "গান\n".encode("utf-32"), r"bn\.txt:1: is no UTF-8 text \(UTF-32\); convert it"),
        ("bn.txt", "plain\ncaf\u00e9\n".encode("latin-1"), r"bn\.txt:2: .* \(byte 0xe9\); .*LATIN1"),
        ("bn.jsonl", zipped(b"{}"), r"bn\.jsonl:1: .*\(gzip\); give it a name that ends with \.gz"),
        ("bn.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"bn\.jsonl:2: not JSON \(.*\); one JSON obj"),
        ("bn.jsonl", b'{"text": "a", "text": "b"}\n', r":1: not JSON \(the name 'text' is given twice"),
        ("bn.jsonl", b"[" * 100_000, r"bn\.jsonl:1: not JSON \(too many lists"),
        ("bn.jsonl", b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), rf":1: not JSON \(more than {DEEPEST}"),
        ("bn.jsonl", b'{"text": ' + b"1" * 5000 + b"}", r"bn\.jsonl:1: not JSON \(Exceeds the limit"),
        ("bn.jsonl", b"", r"bn\.jsonl: holds no document\. Add text"),
        ("bn.parquet", b"no parquet", r"bn\.parquet cannot be read as parquet \(.*; write, copy or download"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_a_remedy(name: str, body: bytes, why: str) -> None:
    with root_with(name, body) as root:
        (root / "corpus" / name).write_bytes(body)
        with pytest.raises(UserError, match=why):
            read(root)


@pytest.mark.parametrize("suffix", corpus.SUFFIXES)
def test_what_may_not_be_read_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "corpus" / f"bn{suffix}"
    path.parent.mkdir()
    path.write_bytes(b"x")
    for closed, named in ((path, path.name), (path.parent, "corpus")):
        with unreadable(closed), pytest.raises(UserError, match=rf"{named} cannot be read"):
            read(tmp_path)


@pytest.mark.parametrize("suffix", corpus.SUFFIXES)
def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "corpus" / f"bn{suffix}").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"bn\{suffix}( is no file| cannot be read)"):
        read(tmp_path)
    (tmp_path / "corpus" / "bn.txt").rmdir() if suffix == ".txt" else None
    (tmp_path / "corpus" / "bn.txt").write_text("গান\n")
    assert read(tmp_path)[0] == ["গান"]


def test_byte_order_marks_go_wherever_files_were_put_together(tmp_path: Path) -> None:
    one = b"\xef\xbb\xbf" + b'{"text": "a"}\r\n'
    for name, body in (("a.jsonl", one * 2), ("b.txt", b"\xef\xbb\xbfa\n" * 2), ("c.jsonl.gz", b"")):
        (tmp_path / name).write_bytes(body or gzip.compress(one) * 2)
    assert [v for _, v in json_lines(tmp_path / "a.jsonl")] == [{"text": "a"}] * 2
    assert [line for _, line in numbered_lines(tmp_path / "b.txt")] == ["a", "a"]
    assert [v for _, v in json_lines(tmp_path / "c.jsonl.gz")] == [{"text": "a"}] * 2


# parquet


def write_column(
    root: Path, values: list[Any], kind: pyarrow.DataType | None = None, name: str = "text"
) -> None:
    (root / "corpus").mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table({name: pyarrow.array(values, kind)}), root / "corpus" / "bn.parquet")


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())]
)
def test_columns_of_text_are_read(tmp_path: Path, kind: pyarrow.DataType) -> None:
    write_column(tmp_path, ["এক", None, "দুই"], kind)
    assert read(tmp_path) == (["এক", "দুই"], Counter({"null": 1}))


@pytest.mark.parametrize(
    ("given_values", "kind"),
    [
        ([{"bn": "গান"}], "struct<bn: string>"),
        ([["গান"]], r"list<\w+: string>"),
        ([1], "int64"),
        ([b"a"], "binary"),
    ],
)
def test_columns_that_are_no_text_are_refused(tmp_path: Path, given_values: list[Any], kind: str) -> None:
    write_column(tmp_path, given_values)
    with pytest.raises(
        UserError, match=rf"column 'text' is {kind}, no text; its columns are: text \({kind}\)"
    ):
        read(tmp_path)


def test_a_column_that_is_missing_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    write_column(tmp_path, ["গান"], name="body")
    with pytest.raises(UserError, match=r"has no column 'text'.*its columns are: body \(string\)"):
        read(tmp_path)


def test_a_cut_off_parquet_is_refused_and_one_of_nulls_too(tmp_path: Path) -> None:
    write_column(tmp_path, [None, None])
    with pytest.raises(UserError, match=r"no row of it is text \(null: 2\)"):
        read(tmp_path)
    write_column(tmp_path, ["গান"] * 100)
    path = tmp_path / "corpus" / "bn.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"bn\.parquet cannot be read as parquet"):
        read(tmp_path)


# what lies beside


def test_stray_files_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "eval" / "topic" / "bn").mkdir(parents=True)
    (tmp_path / "corpus" / "bn.jsonl").write_text('{"text": "গান"}\n')
    (tmp_path / "eval" / "topic" / "bn" / "test.jsonl").write_text('{"text": "খবর"}\n')
    before = list(data_texts(tmp_path))
    strays = {"._bn.jsonl": b"\0\5\x16\7 junk", "IndicCorp.v2.bn.txt": b"other", ".DS_Store": b"\0\1"}
    strays |= {"ta.jsonl": b"", "te.parquet": b"", "or.jsonl.gz": b"", "Notes.txt": b"x", "bn.jsonl~": b"{"}
    for name, body in strays.items():
        (tmp_path / "corpus" / name).write_bytes(body)
    (tmp_path / "eval" / "topic" / "bn" / "._test.jsonl").write_bytes(b"\0\5\x16\7")
    (tmp_path / "eval" / ".DS_Store").write_bytes(b"\0\1")
    assert corpus.languages(tmp_path) == ["bn", "or", "ta", "te"]
    assert list(data_texts(tmp_path)) == before and {"গান", "খবর"} <= set(before)
    assert read(tmp_path)[0] == ["গান"]


# from a Hub data set, here a local folder that looks like one


@settings(max_examples=12)
@given(st.lists(st.one_of(texts, st.none()), min_size=1, max_size=5))
def test_hub_rows_are_text_or_counted(column: list[str | None]) -> None:
    with root_with("bn.jsonl", as_bytes([{"text": v, "id": 1} for v in column], "\n", False, False)) as root:
        dropped: Counter[str] = Counter()
        reading = corpus.read_hub(str(root / "corpus"), files="*.jsonl", dropped=dropped)
        if right := [v for v in column if v is not None]:
            assert list(reading) == right and dropped.total() == len(column) - len(right)
        else:
            with pytest.raises(UserError, match=r"no row of it is text \(null: \d+\)"):
                list(reading)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"text": {"bn": "গান"}}\n', r"no row of it is text \(object: 1\)"),
        ('{"text": ["গান"]}\n', r"no row of it is text \(list: 1\)"),
        ('{"text": 3.5}\n', r"no row of it is text \(number: 1\)"),
        ('{"text": "a"}\n{"text": \n', "cannot be "),
    ],
)
def test_hub_rows_that_are_no_text_are_named(tmp_path: Path, body: str, why: str) -> None:
    (tmp_path / "a.jsonl").write_text(body)
    with pytest.raises(UserError, match=why):
        list(corpus.read_hub(str(tmp_path), files="a.jsonl"))


# Unicode


@given(
    st.recursive(texts, lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)), max_leaves=6)
)
def test_nfc_reaches_every_text_and_no_name_of_a_field(value: Any) -> None:
    found = nfc(value)
    assert is_nfc(found) and nfc(found) == found
    assert json.dumps(found).count(":") == json.dumps(value).count(":")
    if isinstance(value, dict):
        assert list(found) == list(value)


def test_what_is_no_text_is_called_by_its_kind() -> None:
    kinds = {"null": None, "number": 1, "true or false": True, "NaN": float("inf"), "list": [], "object": {}}
    kinds |= {"lone surrogate": SURROGATE, "": TYPED, "bytes": b"a"}
    assert {why_no_text(value): value for value in kinds.values()} == kinds


def test_cleaning_gives_nfc_and_counts_into_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    body = as_bytes(
        [{"text": TYPED}, {"text": None}, {"text": " "}, {"text": nfc(TYPED)}], "\n", False, False
    )
    (tmp_path / "corpus" / "bn.jsonl").write_bytes(body)
    dropped: Counter[str] = Counter()
    kept = list(cleaning.clean(corpus.read_local(tmp_path, "bn", dropped), "", 0, 1, dropped))
    assert kept == [nfc(TYPED)] and nfc(TYPED) != TYPED
    assert dropped == {"null": 1, "empty": 1, "duplicate": 1}


# Traditional Mongolian

ALIKE = ["\u1830\u1820\u1822\u1828", "\u1830\u1821\u1822\u1828"]  # a and e look the same there


def test_words_that_look_alike_become_one_with_the_extra() -> None:
    pytest.importorskip("mongol_norm", reason="pip install lrnb[mongolian]")
    assert nfc(ALIKE[0]) == nfc(ALIKE[1]) == nfc(nfc(ALIKE[0])) and len({*ALIKE}) == 2
    assert nfc(f"{TYPED} x {ALIKE[0]}, {ALIKE[1]}") == nfc(f"{TYPED} x {ALIKE[1]}, {ALIKE[0]}")


def test_only_texts_of_that_script_alone_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shaper:
        def __init__(self, locale: str) -> None:
            assert locale == "MNG"

        def normalize_text(self, text: str, strict: bool) -> str:
            assert not strict
            return text.replace("\u1821", "\u1820")

    mongolian._shaper.cache_clear()
    monkeypatch.setattr(mongolian, "mongol_norm", SimpleNamespace(MongolianShaper=Shaper))
    todo = f"{ALIKE[1]} \u1843\u1844"
    assert nfc([ALIKE[1], todo, TYPED]) == [ALIKE[0], todo, unicodedata.normalize("NFC", TYPED)]
    monkeypatch.setattr(mongolian, "mongol_norm", None)
    assert nfc(ALIKE[1]) == ALIKE[1]
    mongolian._shaper.cache_clear()
