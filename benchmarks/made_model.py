"""A model, a tokenizer and items out of nothing, so that scoring is measured where no data and no Hub are.

Weights and words are random: what is scored costs what real items of such lengths cost, and means nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.train import TRAINED, model_of

LANG, TASKS = "bn", ("topic", "reading_comprehension")
PASSAGE, QUESTION, OPTION = 120, 12, 20  # words: of a passage, a question and an option
LABELS = ("travel", "sports", "health", "politics", "science/technology", "geography", "entertainment")
MARKS = {"<unk>": 0, "<s>": 1, "</s>": 2}


def made_judges(shape: str, device: str, precision: str, batch: int) -> dict[str, Any]:
    """lrnb's scorer and the harness's own model around one set of weights, made on the device."""
    from lm_eval.models.huggingface import HFLM

    from lrnb.scoring.scorer import Scorer

    model, tokenizer = model_of(TRAINED[shape], device), made_tokenizer(TRAINED[shape].vocab)
    ours = Scorer(model.bfloat16() if precision == "bf16" else model, tokenizer)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=ours.max_length)
    return {"lrnb": ours, "hf": theirs}


def made_tokenizer(words: int) -> Any:
    """A tokenizer of so many whole words: w3, w4, ..., and all others unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = MARKS | {f"w{number}": number for number in range(len(MARKS), words)}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **marks)


def write_items(root: Path, words: int, items: int) -> Path:
    """Rows of TASKS under `root`/eval: short options of a label, long ones after a passage; `root` again."""
    draw = np.random.default_rng(0)

    def text(length: int) -> str:
        return " ".join(f"w{number}" for number in draw.integers(len(MARKS), words, length))

    rows: dict[str, list[dict[str, Any]]] = {
        "topic": [{"text": text(PASSAGE), "label": LABELS[n % len(LABELS)]} for n in range(items)],
        "reading_comprehension": [
            {"passage": text(PASSAGE), "question": text(QUESTION), "answer": n % 4,
             "options": [text(OPTION) for _ in range(4)]} for n in range(items)
        ],
    }  # fmt: skip
    for task, own in rows.items():
        path = root / "eval" / task / LANG / "test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    return root
