"""More tokens: old ones keep ids, rows and cuts; new ones are reached, and begin as their method says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bpe import TEXTS, bpe_spec, byte_level_spec, tokenizer_of
from support.reference import bits
from support.vocabularies import EMBED, HEAD, save_with_tokens, tokenizer_text, with_rows

from lrnb.checkpoints.extending import extend_vocabulary
from lrnb.checkpoints.new_pieces import extend_tokenizer
from lrnb.checkpoints.new_rows import focus_weights, mean_weights, sparsemax
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli import main
from lrnb.errors import UserError
from lrnb.merging.whole_models import merge_checkpoints

BENGALI = ["আমি বাংলায় গান গাই, আমি বাংলার গান গাই", "বাংলার গান আমি ভালোবাসি, বাংলায় আমি গান গাই"] * 3
ENGLISH = TEXTS[:1] * 2
WORDS = ["<unk>", *sorted({word for text in ENGLISH for word in text.split()})]
SPECS: dict[str, str] = {
    "byte fallback": json.dumps(bpe_spec(ENGLISH, 60)),
    "byte level": json.dumps(byte_level_spec(ENGLISH, 300)),
    "unigram": tokenizer_text([*WORDS, *"abcdefghijklmnopqrstuvwxyz"], ["<eos>"], "unigram"),
    "words": tokenizer_text(WORDS, ["<eos>"], "words"),
}


def cut(text: str, sentence: str) -> list[str]:
    return list(tokenizer_of(json.loads(text)).encode(sentence, add_special_tokens=False).tokens)


@pytest.mark.parametrize("kind", SPECS)
def test_old_tokens_stay_and_new_ones_are_used(kind: str) -> None:
    before = SPECS[kind]
    made = extend_tokenizer(before, BENGALI, 12)
    old, new = (tokenizer_of(json.loads(x)).get_vocab(with_added_tokens=True) for x in (before, made.text))
    assert new == old | {piece: made.first + i for i, piece in enumerate(made.pieces)}
    assert 4 <= len(made.pieces) <= 12 and made.first == len(old)
    assert all(cut(before, text) == cut(made.text, text) for text in ENGLISH)
    used = [piece for text in BENGALI for piece in cut(made.text, text)]
    assert len({*used} & {*made.pieces}) >= 4
    shorter = sum(len(cut(before, text)) for text in BENGALI) - len(used)
    assert shorter > 0 or kind in ("unigram", "words")  # which had one unknown token for each word
    if kind.startswith("byte"):
        inner = tokenizer_of(json.loads(made.text))
        for text in (*BENGALI, *TEXTS):
            ids = inner.encode(text, add_special_tokens=False).ids
            assert inner.decode(ids, skip_special_tokens=False) == text
    assert extend_tokenizer(before, BENGALI, 12) == made


@pytest.mark.parametrize("kind", ["byte fallback", "byte level"])
def test_pieces_begin_as_the_mean_of_what_they_were_cut_into(tmp_path: Path, kind: str) -> None:
    ids = tokenizer_of(json.loads(SPECS[kind])).get_vocab(with_added_tokens=True)
    rows = with_rows(len(ids) + 3, 1, head=True)  # three of padding
    base = save_with_tokens(tmp_path / "base", dict(rows), WORDS)
    (base / "tokenizer.json").write_text(SPECS[kind])
    (base / "merges.txt").write_text("stale")
    out = tmp_path / "out"
    facts = extend_vocabulary(base, BENGALI, 9, out)
    found, made = open_checkpoint(out), extend_tokenizer(SPECS[kind], BENGALI, 9)
    for name in (EMBED, HEAD):
        assert np.array_equal(bits(found[name][: len(ids)]), bits(rows[name][: len(ids)]))
        for i, old in enumerate(made.pieces.values()):
            mean = rows[name][list(old)].astype(np.float64).mean(axis=0)
            assert len(old) > 1 and np.allclose(found[name][made.first + i], mean, atol=1e-6)
    assert facts["rows"] == len(found[EMBED]) == len(ids) + 9 and not (out / "merges.txt").exists()
    assert json.loads((out / "config.json").read_text())["vocab_size"] == facts["rows"]
    assert facts["bytes_per_token"]["after"] > 1.3 * facts["bytes_per_token"]["before"]
    for init in ("zeros", "random"):
        extend_vocabulary(base, BENGALI, 9, tmp_path / init, init=init, seed=3)
    assert not open_checkpoint(tmp_path / "zeros")[EMBED][made.first :].any()
    some = open_checkpoint(tmp_path / "random")[EMBED][made.first :]
    assert 0.5 < some.std() / rows[EMBED].std() < 2 and len({row.tobytes() for row in some}) == 9


def test_transformers_cuts_as_the_file_says_and_the_merge_keeps_the_rows(tmp_path: Path) -> None:
    import torch
    from support.bpe import save_bpe
    from support.pico import pico_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec, model = json.loads(SPECS["byte fallback"]), pico_model()
    model.resize_token_embeddings(len(spec["model"]["vocab"]), mean_resizing=False)
    base = save_bpe(tmp_path / "base", spec, model, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    (tmp_path / "bn.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in BENGALI))
    command = ["vocabulary", "extend", "--base", base, "--text", tmp_path / "bn.jsonl", "--tokens", 10]
    assert main.main([*map(str, command), "--out", str(tmp_path / "ct"), "--init", "focus"]) == 0
    how = {"alpha": 0.5, "vocabulary": "owner"}
    merge_checkpoints("average", base, {"ct": tmp_path / "ct", "sft": base}, tmp_path / "out", **how)
    ct, out = open_checkpoint(tmp_path / "ct")[EMBED], open_checkpoint(tmp_path / "out")[EMBED]
    assert np.array_equal(bits(ct), bits(out)) and np.isfinite(ct).all()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(BENGALI[0])["input_ids"]
    file = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert ids == tokenizer_of(file).encode(BENGALI[0]).ids and max(ids) >= len(ct) - 10
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert opened(torch.tensor([ids])).logits.shape[-1] == len(ct)


def test_focus_takes_the_old_tokens_of_the_same_contexts() -> None:
    rng = np.random.default_rng(0)
    words = {"3": [0, 1, 2], "4": [5, 6, 7]}  # token 3 stands among 0, 1, 2; token 4 among 5, 6, 7
    documents = []
    for _ in range(400):
        kind = str(rng.integers(3, 5))
        own = [int(kind), {"3": 8, "4": 9}[kind]][
            int(rng.integers(2))
        ]  # 8 stands where 3 does, 9 where 4 does
        documents.append([*rng.permutation(words[kind]).tolist(), own])
    means = mean_weights([(1, 2), (0,), (6, 99)], 8)
    found = focus_weights(documents, 8, means, 8)
    for weights, like in zip(found[:2], (3, 4), strict=True):
        assert weights[0][np.argmax(weights[1])] == like and np.isclose(weights[1].sum(), 1)
    assert found[2] is means[2] and means[2][0].tolist() == [6]  # never seen; a piece without a row


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [([3.0, 0.0], [1, 0]), ([0.5, 0.5, -1], [0.5, 0.5, 0]), ([0.1, 0.3], [0.4, 0.6]), ([-5.0], [1])],
)
def test_sparsemax(scores: list[float], wanted: list[float]) -> None:
    assert np.allclose(sparsemax(np.array(scores)), wanted)


def words_only(folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"] |= {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    (folder / "tokenizer.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(
    ("harm", "given", "message"),
    [
        (None, {"size": 0}, "give 1 token or more and an init of mean, focus, random, zeros; got 0"),
        (None, {"init": "men"}, "got 5, 'men'"),
        (None, {"texts": [" ", ""]}, "the text is empty; give text in the language"),
        (None, {"texts": ["abc", "def"]}, "the text repeats nothing .* give more text"),
        (words_only, {}, "the tokenizer is WordPiece; only BPE, Unigram, WordLevel can be extended"),
        (lambda folder: (folder / "tokenizer.json").unlink(), {}, "has no tokenizer.json.* Save it by"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), {}, "no tokenizer that works"),
    ],
)
def test_extensions_that_are_refused(tmp_path: Path, harm: Any, given: dict, message: str) -> None:
    base = save_with_tokens(tmp_path / "base", with_rows(len(WORDS), 1), WORDS)
    if harm:
        harm(base)
    with pytest.raises(UserError, match=message):
        extend_vocabulary(base, **{"texts": BENGALI, "size": 5, "out": tmp_path / "out"} | given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_a_folder_that_is_something_else_and_a_file_that_is_no_text(tmp_path: Path, capsys: Any) -> None:
    base = save_with_tokens(tmp_path / "base", with_rows(len(WORDS), 1), WORDS)
    (tmp_path / "bn.doc").write_text("x")
    given = ["vocabulary", "extend", "--base", str(base), "--tokens", "5"]
    assert main.main([*given, "--text", str(tmp_path / "bn.doc"), "--out", str(base)]) == 2
    assert "exists and is no model extended here" in capsys.readouterr().err
    assert main.main([*given, "--text", str(tmp_path / "bn.doc"), "--out", str(tmp_path / "new")]) == 2
    assert (
        "no file of text; give one that ends in .jsonl.gz, .jsonl, .txt, .parquet" in capsys.readouterr().err
    )
