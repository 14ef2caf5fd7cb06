"""Tokens from which an interrupted stage goes on: the rows of an uninterrupted one, nothing cut twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.pico import WORDS, pico_tokenizer

from lrnb.data import cleaning, corpus, packing, token_pieces
from lrnb.study.files import hashes
from lrnb.study.stages import Stage

TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, 30)) for n in range(2000)]
PIECE = 5000  # tokens


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_pieces, "ENOUGH", PIECE)


class Cut:
    """What `resumed` asks for ids: of each text its characters; counts the texts."""

    def __init__(self) -> None:
        self.texts = 0

    def __call__(self, texts: Iterator[str]) -> Iterator[list[int]]:
        for text in texts:
            self.texts += 1
            yield [ord(x) for x in text]


def cut_again(folder: Path, texts: list[str], key: str = "a") -> int:
    """Texts that were cut; the ids are right, whatever the folder held."""
    cut = Cut()
    found = list(token_pieces.resumed(iter(texts), cut, folder, lambda: key))
    assert found == [[ord(x) for x in text] for text in texts]
    return cut.texts


def test_only_what_is_in_no_piece_is_cut(tmp_path: Path) -> None:
    assert cut_again(tmp_path, TEXTS) == len(TEXTS)
    again = cut_again(tmp_path, TEXTS)
    assert again == cut_again(tmp_path, TEXTS) < len(TEXTS) / 10
    assert cut_again(tmp_path, TEXTS[:700]) == 0  # less text: a smaller budget
    assert cut_again(tmp_path, TEXTS + TEXTS[:50]) == again + 50
    assert cut_again(tmp_path / "other", TEXTS[:20]) == 20 and not (tmp_path / "other").exists()


def test_other_text_from_some_document_on_is_cut(tmp_path: Path) -> None:
    cut_again(tmp_path, TEXTS)
    assert cut_again(tmp_path, [*TEXTS[:777], "another text", *TEXTS[777:]]) == len(TEXTS) - 777 + 1
    assert cut_again(tmp_path, TEXTS) == len(TEXTS) - 777


def test_pieces_of_another_tokenizer_and_damaged_ones_are_made_anew(tmp_path: Path) -> None:
    cut_again(tmp_path, TEXTS)
    left = cut_again(tmp_path, TEXTS)
    assert cut_again(tmp_path, TEXTS, "b") == len(TEXTS)
    for damage in (lambda data: data[: len(data) // 2], lambda data: data[:3000] + b"?" + data[3001:]):
        path = tmp_path / "0.npz"
        path.write_bytes(damage(path.read_bytes()))
        assert cut_again(tmp_path, TEXTS, "b") == len(TEXTS)
        assert cut_again(tmp_path, TEXTS, "b") == left


def make_corpus(folder: Path, cut: list[int], pause: float = 0) -> None:
    """A corpus stage as its notebook makes it; `cut` receives how many texts were cut each time."""
    original = packing._cut

    def counted(tokenizer: object, cutter: object, texts: list[str]) -> list[list[int]]:
        cut.append(len(texts))
        time.sleep(pause)
        return original(tokenizer, cutter, texts)

    packing._cut, tokenizer, dropped = counted, pico_tokenizer(), Counter()
    stage = Stage(folder, "corpus", {}, resumes=True)
    kept = corpus.shuffled(cleaning.clean(TEXTS + TEXTS[::3], "", 0, 0.8, dropped), 0)
    heldout = corpus.hold_out(kept, 3000)
    ids = packing.tokenize(tokenizer, kept, kept=stage.draft / "work" / "x")
    english = packing.tokenize(tokenizer, iter(TEXTS[::-1]), kept=stage.draft / "work" / "en")
    try:
        with stage:
            corpus.write_lines(stage.draft / "heldout_x.jsonl", heldout)
            rows = packing.pack(packing.replay(ids, english, 4, Counter()), 64)
            packing.write_packed(rows, stage.draft / "packed.arrow", 10**6)
            stage.facts.update(dropped=dropped)
    finally:
        packing._cut = original


def _make_and_die(folder: Path) -> None:
    token_pieces.ENOUGH = PIECE
    make_corpus(folder, [], pause=0.1)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_killed_stage_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    whole, cut = list[int](), list[int]()
    make_corpus(tmp_path / "whole", whole)
    child = multiprocessing.get_context("spawn").Process(target=_make_and_die, args=(tmp_path / "corpus",))
    child.start()
    work, deadline = tmp_path / ".corpus.draft" / "work", time.monotonic() + 120
    while not (work / "x" / "2.npz").exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "corpus").exists()
    make_corpus(tmp_path / "corpus", cut)
    assert hashes(tmp_path / "corpus") == hashes(tmp_path / "whole")
    assert 0 < sum(cut) < sum(whole) - 3 * PIECE / 40  # a text has 32 tokens
    assert not (tmp_path / "corpus" / "work").exists() and not work.exists()
