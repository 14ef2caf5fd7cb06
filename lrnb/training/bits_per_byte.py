"""Bits per byte: how well a model predicts text, comparable between tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

WINDOW = 512


@torch.no_grad()
def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str], window: int = WINDOW) -> float:
    """Bits per UTF-8 byte of the texts: comparable between tokenizers, as loss per token is not.

    See `log_likelihood`. Without a start token nothing predicts a text's first token, and its bytes
    are not counted. Source: the bpb metric of karpathy/nanochat.
    """
    was_training = model.training
    model.eval()
    nats = -sum(log_likelihood(model, tokenizer, text, window) for text in texts)
    model.train(was_training)
    return nats / math.log(2) / max(sum(_predicted_bytes(tokenizer, text) for text in texts), 1)


@torch.no_grad()
def log_likelihood(model: Any, tokenizer: Any, text: str, window: int = WINDOW) -> float:
    """Log-likelihood (nats) of a text, cut into windows of `window` predicted tokens.

    Every window begins with the start token: models trained with one (Gemma) predict badly without.
    Of a tokenizer that has none a window begins with the last token of the one before.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    bos, total = tokenizer.bos_token_id, 0.0
    for first in range(0, len(ids), window):
        piece = ids[first : first + window + 1] if bos is None else [bos, *ids[first : first + window]]
        if len(piece) > 1:
            row = torch.tensor([piece], device=model.device)
            logits = model(row[:, :-1], use_cache=False).logits.float()
            total -= functional.cross_entropy(logits[0], row[0, 1:], reduction="sum").item()
    return total


def _predicted_bytes(tokenizer: Any, text: str) -> int:
    size = len(text.encode())
    if tokenizer.bos_token_id is not None:
        return size
    first = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:1]
    return size - len(tokenizer.decode(first).encode())
