"""Corpus: sources, cleaning, replay, packing; on small files and on the real text where it is there."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pico import pico_tokenizer

from lrnb.data import ahead, cleaning, corpus, packing
from lrnb.errors import UserError


def write_corpus(root: Path, name: str, text: str) -> Path:
    path = root / "corpus" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return root


@pytest.mark.parametrize("name", ["bn.jsonl", "bn.jsonl.gz"])
def test_json_lines_are_read(tmp_path: Path, name: str) -> None:
    root = write_corpus(tmp_path, name, '{"text": "এক"}\n{"text": "দুই", "source": "x"}\n')
    assert list(corpus.read_local(root, "bn")) == ["এক", "দুই"]


def test_text_and_parquet_are_read(tmp_path: Path) -> None:
    root = write_corpus(tmp_path, "aa.txt", "one\ntwo\n")
    pd.DataFrame({"text": ["three", None]}).to_parquet(root / "corpus" / "bb.parquet")
    assert [text.strip() for text in corpus.read_local(root, "aa")] == ["one", "two"]
    assert list(corpus.read_local(root, "bb")) == ["three"]


def test_a_folder_is_streamed_like_a_hub_data_set(tmp_path: Path) -> None:
    (tmp_path / "mn-release.jsonl").write_text(
        '{"title": "a", "text": "нэг"}\n{"title": "b", "text": "хоёр"}\n'
    )
    assert list(corpus.read_hub(str(tmp_path), files="mn*.jsonl")) == ["нэг", "хоёр"]
    with pytest.raises(UserError, match="no field 'body' among"):
        list(corpus.read_hub(str(tmp_path), files="mn*.jsonl", field="body"))


def test_a_row_of_a_stream_may_lack_its_text_as_a_local_one_may(tmp_path: Path) -> None:
    rows = '\ufeff{"title": "a"}\n{"text": "one"}\n{"text": null}\n{"other": 1}\n{"text": "two"}\n'
    (tmp_path / "set.jsonl").write_text(rows)
    dropped = Counter[str]()
    assert list(corpus.read_hub(str(tmp_path), files="set.jsonl", dropped=dropped)) == ["one", "two"]
    assert dropped == {"no text field": 2, "null": 1}


def test_languages_are_those_with_a_file(tmp_path: Path) -> None:
    for name in ("bn.txt", "mn.jsonl.gz", "en.parquet", "README.md"):
        write_corpus(tmp_path, name, "")
    assert corpus.languages(tmp_path) == ["bn", "en", "mn"]


def test_missing_and_broken_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text for 'bn'. Put one of bn.jsonl.gz"):
        corpus.read_local(tmp_path, "bn")
    root = write_corpus(tmp_path, "bn.jsonl", '{"text": "a"}\nnot json\n')
    with pytest.raises(UserError, match=r"bn.jsonl:2: not JSON \(Expecting value\); one JSON object a line"):
        list(corpus.read_local(root, "bn"))
    with pytest.raises(UserError, match="cannot be opened"):
        list(corpus.read_hub(str(tmp_path / "nowhere")))


@pytest.mark.parametrize("target", ["/nowhere/bn.jsonl", "bn.jsonl"])
def test_a_link_to_nothing_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "bn.jsonl").symlink_to(target)
    with pytest.raises(UserError, match=r"no text for 'bn'.*not read: bn\.jsonl \(a link to nothing\)"):
        list(corpus.read_local(tmp_path, "bn"))


def test_cleaning_counts_what_it_drops() -> None:
    long = "নদীর ধারে একটি ছোট গ্রাম ছিল, সেখানে অনেক মানুষ বাস করত। " * 5
    dropped: Counter[str] = Counter()
    texts = ["  ", "all in latin script", long, long, long + "শেষ", "অন্য একটি লেখা"]
    kept = list(cleaning.clean(texts, "Bengali", 0.5, 0.8, dropped))
    assert kept == [long.strip(), "অন্য একটি লেখা"]
    assert dropped == {"empty": 1, "other script": 1, "duplicate": 1, "near duplicate": 1}


def test_text_is_normalised() -> None:
    assert list(cleaning.clean(["e\u0301"], "", 0, 1, Counter())) == ["é"]


def test_the_order_depends_on_the_seed_only() -> None:
    texts = [str(i) for i in range(100)]
    first, again = list(corpus.shuffled(texts, 1)), list(corpus.shuffled(texts, 1))
    assert first == again != list(corpus.shuffled(texts, 2)) and sorted(first) == sorted(texts)
    assert sorted(corpus.shuffled(texts, 1, buffer=10)) == sorted(texts)


def test_held_out_documents_leave_the_stream() -> None:
    stream = iter(["aaaa", "bbbb", "cccc"])
    assert corpus.hold_out(stream, 5) == ["aaaa", "bbbb"] and list(stream) == ["cccc"]


def test_replay_keeps_the_ratio_at_every_point() -> None:
    counts: Counter[str] = Counter()
    stream = packing.replay(([1] * 30 for _ in range(100)), ([2] * 10 for _ in range(100)), 4, counts)
    tokens = [i for ids in stream for i in ids]
    assert counts["x"] == 3000 and counts["en"] == tokens.count(2) == 750
    for end in range(300, 3750, 300):
        assert 3 < tokens[:end].count(1) / tokens[:end].count(2) < 5


def test_replay_says_when_english_is_short() -> None:
    with pytest.raises(UserError, match="English text ended after 10 tokens"):
        list(packing.replay(([1] * 30 for _ in range(9)), [[2] * 10], 4, Counter()))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 16))
def test_packing_loses_nothing_and_restarts_positions(lengths: list[int], seq_len: int) -> None:
    documents = [list(range(1000 * i, 1000 * i + n)) for i, n in enumerate(lengths)]
    rows = list(packing.pack(documents, seq_len))
    stream = [token for document in documents for token in document]
    ids = [int(i) for row, _ in rows for i in row]
    assert ids == stream[: len(ids)] and len(stream) - len(ids) < seq_len
    for row, positions in rows:
        boundary = np.diff(row) != 1
        assert positions[0] == 0 and ((np.diff(positions) != 1) == boundary).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_ids_are_those_of_the_tokenizer_whatever_its_file_sets(monkeypatch, threads: int) -> None:
    """Truncation and padding that a tokenizer.json has are no part of a corpus; threads change no id."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", str(threads > 1).lower())
    tokenizer = pico_tokenizer()
    texts = ["the cat sees", "", "zebra the dog", "the cat sees the dog " * 50] * 100
    marks = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    plain = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    expected = [[*marks[0], *ids, *marks[1]] for ids in plain]
    read = iter(texts)
    stream = packing.tokenize(tokenizer, read)
    assert [next(stream) for _ in range(5)] == expected[:5]
    assert len(list(read)) >= len(texts) - 5 * ahead.PART  # no more is read than what is cut ahead
    stream.close()
    assert list(packing.tokenize(tokenizer, texts)) == expected
    assert max(map(len, expected)) > 200


def test_packed_rows_come_back(tmp_path: Path) -> None:
    from lrnb.training.pretraining import packed_rows

    rows = list(packing.pack([[1, 2, 3, 4, 5], [6, 7, 8]], 4))
    assert packing.write_packed(rows, tmp_path / "packed.arrow", 10) == 2
    back = packed_rows(tmp_path / "packed.arrow")
    assert np.array(back["input_ids"]).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert np.array(back["position_ids"]).tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]


def test_reading_and_packing_say_how_far_they_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    texts = corpus.shuffled((str(n) for n in range(30)), 0)
    next(texts)
    found = json.loads(told.read_text())
    assert (found["stage"], found["done"], found["unit"]) == ("reading and cleaning", 30, "documents")
    packing.write_packed(packing.pack([[1] * 100], 4), tmp_path / "packed.arrow", 40)
    found = json.loads(told.read_text())
    assert (found["stage"], found["done"], found["total"], found["unit"]) == ("corpus", 25, 40, "rows")
    assert found["rate"] > 0


def test_rows_lie_in_batches(tmp_path: Path) -> None:
    from lrnb.training.pretraining import packed_rows

    path, tokens = tmp_path / "packed.arrow", 2 * packing.ROWS_A_BATCH * 3
    assert packing.write_packed(packing.pack([list(range(tokens))], 2), path, tokens) == tokens // 2
    with pa.ipc.open_stream(path) as batches:
        assert [batch.num_rows for batch in batches] == [packing.ROWS_A_BATCH] * 3
    assert np.array(packed_rows(path)["input_ids"]).ravel().tolist() == list(range(tokens))


def test_what_is_cut_short_by_an_error_is_not_left(tmp_path: Path) -> None:
    def rows():
        yield from packing.pack([[1] * 4096], 2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        packing.write_packed(rows(), tmp_path / "packed.arrow", 10**6)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_above_the_corpus_names_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"asks for 1,000 tokens, the cleaned corpus has 640.*ct_budgets=\[320\].*ct_epochs=2"
    ):
        packing.check_budget(640, 1000, 1)
    with pytest.raises(UserError, match=r"has 900 in 3 passes.*ct_epochs=4"):
        packing.check_budget(900, 1000, 3)
    packing.check_budget(1000, 1000, 1)


def test_a_corpus_is_read_again_in_an_order_of_its_own() -> None:
    documents = [[n] * (n + 1) for n in range(20)]
    unique: Counter[str] = Counter()
    stream = list(packing.passes(iter(documents), 3, 7, unique, "x"))
    passes = [stream[start : start + 20] for start in (0, 20, 40)]
    assert passes[0] == documents and unique == {"x": 210}
    assert all(sorted(one) == documents for one in passes)
    assert passes[1] != passes[2] != passes[0] != passes[1]
    assert stream == list(packing.passes(iter(documents), 3, 7, Counter(), "x"))
    assert list(packing.passes(iter(documents), 1, 7, Counter(), "x")) == documents


def test_rows_hold_whole_steps() -> None:
    assert [packing.rows_needed([1000, n], 16, 4) for n in (1024, 1025, 1088)] == [64, 68, 68]


@pytest.mark.parametrize(
    ("text", "unit", "count"),
    [
        ("the cat sees", "word", 3),
        ("Монгол хэл бол", "word", 3),
        ("한국어 문장", "word", 2),
        ("བོད་ཀྱི་སྐད་ཡིག་ནི། ཡིན།", "syllable", 6),
        ("ภาษาไทยไม่มีช่องว่าง และ", "", 0),
        ("ភាសាខ្មែរ គ្មានដកឃ្លា", "", 0),
        ("ພາສາລາວ ບໍ່ມີ", "", 0),
        ("မြန်မာဘာသာ စာ", "", 0),
        ("ꦧꦱꦗꦮ ꦠꦤ꧀ꦥ", "", 0),
        ("ᬩᬲᬩᬮᬶ ᬓᬩᬾᬄ", "", 0),
        ("汉语没有空格 吗", "", 0),
        ("日本語のかな です", "", 0),
    ],
)
def test_words_are_counted_where_spaces_part_them(text: str, unit: str, count: int) -> None:
    found = corpus.audit(pico_tokenizer(), [text])
    units = {key: value for key, value in found.items() if key in ("tokens_per_word", "tokens_per_syllable")}
    assert units == ({f"tokens_per_{unit}": found["tokens"] / count} if unit else {})


def test_audit_counts_tokens() -> None:
    found = corpus.audit(pico_tokenizer(), ["the cat sees", "zebra"])
    assert found["tokens"] == 4 and found["unknown_share"] == 0.25 and found["tokens_per_word"] == 1


def test_lines_round_trip(tmp_path: Path) -> None:
    corpus.write_lines(tmp_path / "a.jsonl", ["বাংলা", 'two\n"lines"'])
    assert corpus.read_lines(tmp_path / "a.jsonl") == ["বাংলা", 'two\n"lines"']


@pytest.mark.parametrize(
    ("lang", "script"),
    [
        ("bn", "Bengali"),
        ("bo", "Tibetan"),
        ("mn", "Cyrillic"),
        ("or", "Oriya"),
        ("ta", "Tamil"),
        ("te", "Telugu"),
        ("ug", "Arabic"),
    ],
)
def test_real_text_passes_its_own_script_filter(data_root: Path, lang: str, script: str) -> None:
    dropped: Counter[str] = Counter()
    texts = list(cleaning.clean(corpus.read_local(data_root, lang), script, 0.5, 1, dropped))
    packed = (data_root / "corpus" / f"{lang}.jsonl.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    assert len(texts) + dropped.total() == len(lines) and len(texts) > 0.99 * len(lines)
    assert json.loads(lines[0])["text"].strip() == texts[0]
