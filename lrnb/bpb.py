"""Bits per byte: how well a model predicts text, comparable between tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional


@torch.no_grad()
def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str], window: int = 512) -> float:
    """Bits per UTF-8 byte of the texts: comparable between tokenizers, as loss per token is not.

    Long texts are cut into windows of `window` tokens. Source: the bpb metric of karpathy/nanochat.
    """
    was_training, total = model.training, 0.0
    model.eval()
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    for text in texts:
        ids = start + tokenizer(text, add_special_tokens=False)["input_ids"]
        for first in range(0, max(len(ids) - 1, 1), window):
            piece = torch.tensor([ids[first : first + window + 1]], device=model.device)
            if piece.shape[1] > 1:
                logits = model(piece[:, :-1], use_cache=False).logits.float()
                total += functional.cross_entropy(logits[0], piece[0, 1:], reduction="sum").item()
    model.train(was_training)
    return total / math.log(2) / max(sum(len(text.encode()) for text in texts), 1)
