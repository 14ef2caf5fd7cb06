"""Folders whose embeddings have a row for each token of a tokenizer of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from support.checkpoints import pico
from support.reference import save_folder

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHARED = ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(9))]
WIDTH = 8


def tokenizer_text(tokens: Sequence[str], added: Sequence[str] = (), kind: str = "words") -> str:
    """tokenizer.json with `tokens` as pieces in this order, then `added`; those in <> are special."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    ids = {token: i for i, token in enumerate(tokens)}
    made: Any = {
        "words": lambda: models.WordLevel(ids, unk_token="<unk>"),
        "bpe": lambda: models.BPE(ids, [], unk_token="<unk>"),
        "unigram": lambda: models.Unigram([(token, -float(i)) for i, token in enumerate(tokens)], unk_id=0),
    }[kind]()
    tokenizer = Tokenizer(made)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for token in added:
        special = token.startswith("<")
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(
            [AddedToken(token, special=special)]
        )
    return tokenizer.to_str()


def with_rows(rows: int, seed: int, head: bool = False, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """A pico model with so many rows in its table, or in both."""
    rng, first, move = np.random.default_rng(seed), pico(), pico(seed)
    tensors = {name: (x + 0.1 * move[name]).astype(dtype) for name, x in first.items()}
    start = np.random.default_rng(99).standard_normal((512, WIDTH))[:rows]
    for name in (EMBED, HEAD)[: 1 + head]:
        tensors[name] = (start + 0.1 * rng.standard_normal(start.shape)).astype(np.float32).astype(dtype)
    return tensors


def save_with_tokens(
    folder: Path,
    tensors: dict,
    tokens: Sequence[str],
    added: Sequence[str] = (),
    kind: str = "words",
    **config: Any,
) -> Path:
    """`tensors` with that tokenizer; config has the rows, and more keys."""
    given = {"vocab_size": len(tensors[EMBED]), "tie_word_embeddings": HEAD not in tensors} | config
    save_folder(folder, tensors, config=given)
    (folder / "tokenizer.json").write_text(tokenizer_text(tokens, added, kind), encoding="utf-8")
    marks = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    return folder


def ids_of(folder: Path) -> dict[str, int]:
    """{token: id} of a folder's tokenizer."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
