"""Bases without a padding token, as Llama-2 and GPT-2: they train, score and write; ends stay single."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.bpe import byte_level_spec, tokenizer_of
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lrnb.data import packing
from lrnb.errors import UserError
from lrnb.scoring.scorer import Scorer, greedy
from lrnb.training import finetuning, pretraining

END = "<|end|>"
RECIPE = pretraining.TrainingRecipe(lr=1e-2, batch=4, device="cpu")
EXAMPLES = [{"prompt": "the cat sees" + " the dog" * (n % 4), "completion": f" {n} red"} for n in range(12)]


def gpt2(folder: Path, adds_end: bool = False, **roles: str) -> Path:
    """A small GPT-2 folder whose tokenizer has one mark for start and end, and `roles` besides."""
    spec = byte_level_spec()
    if adds_end:
        mark = {"SpecialToken": {"id": END, "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        ids = {"id": END, "ids": [spec["model"]["vocab"][END]], "tokens": [END]}
        spec["post_processor"] = {"type": "TemplateProcessing", "single": [text, mark],
                                  "pair": [text, mark, text, mark], "special_tokens": {END: ids}}  # fmt: skip
    torch.manual_seed(0)
    size = {"vocab_size": len(spec["model"]["vocab"]), "n_embd": 32, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**size, n_positions=256, bos_token_id=0, eos_token_id=0)).save_pretrained(
        folder
    )
    marks = {"bos_token": END, "eos_token": END, **roles}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(spec), **marks).save_pretrained(folder)
    return folder


def fine_tune(parent: Path, out: Path) -> dict:
    return finetuning.fine_tune(parent, EXAMPLES, out, recipe=RECIPE, epochs=1, prompt_weight=0.3, max_len=64)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_fine_tuning_needs_no_padding_token_and_its_loss_does_not_count_padding(tmp_path):
    plain, padded = gpt2(tmp_path / "plain"), gpt2(tmp_path / "padded", pad_token="Ā")
    assert AutoTokenizer.from_pretrained(plain).pad_token_id is None
    facts = fine_tune(plain, tmp_path / "one"), fine_tune(padded, tmp_path / "two")
    assert facts[0] == facts[1]
    one, two, start = (weights(tmp_path / name) for name in ("one", "two", "plain"))
    assert any(not np.array_equal(one[name], start[name]) for name in start)
    for name in one:  # another token pads, the bytes are the same
        assert np.array_equal(one[name], two[name])
    assert AutoTokenizer.from_pretrained(tmp_path / "one").pad_token_id is None


def test_the_end_of_an_answer_counts_and_the_same_token_as_padding_does_not():
    rows = [
        {"input_ids": [5, 6, 7, 0], "completion_mask": [0, 0, 1, 1]},
        {"input_ids": [5, 0], "completion_mask": [0, 1]},
    ]
    batch = finetuning.Collator(pad=0, prompt_weight=0.25)(rows)
    assert batch["loss_weights"].tolist() == [[0.25, 0.25, 1, 1], [0.25, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    folder = gpt2(tmp_path / "plain")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(byte_level_spec())).save_pretrained(folder)
    with pytest.raises(UserError, match="plain: the tokenizer has no end token.*set eos_token in its"):
        fine_tune(folder, tmp_path / "out")


def test_an_answer_ends_once_where_the_tokenizer_ends_texts_itself(tmp_path):
    plain, adds = gpt2(tmp_path / "plain"), gpt2(tmp_path / "adds", adds_end=True)
    assert AutoTokenizer.from_pretrained(adds)("a")["input_ids"][-1] == 0
    facts = fine_tune(plain, tmp_path / "one"), fine_tune(adds, tmp_path / "two")
    assert facts[0]["tokens"] == facts[1]["tokens"]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        assert np.array_equal(one[name], two[name])


def always(tokenizer: object) -> object:
    """A tokenizer that sets its end mark whatever it is asked."""

    def cut(texts: list[str], **_: Any) -> dict:
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        return {"input_ids": [[*ids, 0] for ids in rows]}

    marks = {"bos_token_id": None, "eos_token_id": 0}
    return type("Always", (SimpleNamespace,), {"__call__": lambda self, *a, **k: cut(*a, **k)})(**marks)


def test_a_packed_document_ends_once(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(gpt2(tmp_path / "plain"))
    ids = tokenizer("the cat")["input_ids"]
    assert list(packing.tokenize(tokenizer, ["the cat", f"the cat{END}"])) == [[0, *ids, 0]] * 2
    assert list(packing.tokenize(always(tokenizer), ["the cat"])) == [[*ids, 0]]


def test_continual_pre_training_needs_none(tmp_path):
    base = gpt2(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [row["prompt"] + row["completion"] for row in EXAMPLES] * 8
    rows = packing.pack(packing.tokenize(tokenizer, texts), 16)
    packing.write_packed(rows, tmp_path / "packed.arrow", 10_000)
    (tmp_path / "ct").mkdir()
    history = pretraining.continual_pretrain(
        base, tmp_path / "packed.arrow", tmp_path / "ct", budgets=[64 * 3], recipe=replace(RECIPE, lr=1e-3),
        save_tokens=64, heldout={"x": ["the cat sees"]}, fingerprint={},
    )  # fmt: skip
    assert history[-1]["tokens"] == 64 * 3
    assert any(not np.array_equal(weights(base)[n], w) for n, w in weights(tmp_path / "ct" / "192").items())


def test_a_packed_document_does_not_see_its_neighbours(tmp_path):
    model = pretraining.load_model(gpt2(tmp_path / "base"))[0].eval()
    second = [0, 10, 11, 12, 13, 14, 15, 0]
    rows = [
        {"input_ids": i, "position_ids": p} for i, p in packing.pack([[0, 5, 6, 7, 8, 9, 3, 0], second], 16)
    ]
    batch = pretraining.collate_packed(rows)
    batch.pop("labels")
    alone = model(torch.tensor([second])).logits[0]
    torch.testing.assert_close(model(**batch).logits[0, 8:], alone, rtol=0, atol=1e-5)


def test_batches_of_several_lengths_score_and_write_as_one_by_one(tmp_path):
    scorer = Scorer.from_folder(gpt2(tmp_path / "plain"), device="cpu")
    pairs = [(row["prompt"], row["completion"]) for row in EXAMPLES]
    requests = [SimpleNamespace(args=pair) for pair in pairs]
    together = [value for value, _ in scorer.loglikelihood(requests)]
    alone = [scorer.loglikelihood([request])[0][0] for request in requests]
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(together)) > 4
    rows = [scorer.tok_encode(prompt) for prompt, _ in pairs]
    assert len({len(row) for row in rows}) > 1
    texts = greedy(scorer.model, scorer.tokenizer, rows, [], 4)
    assert texts == [greedy(scorer.model, scorer.tokenizer, [row], [], 4)[0] for row in rows]
