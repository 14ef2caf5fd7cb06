"""Greedy answers for many prompts at once, stopped row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MOST = 256  # tokens, where a task does not say; the harness's own default


class _Stop:
    """A row is done when its text holds a stop string (checked on decoded text: tokens can merge over it)."""

    def __init__(self, tokenizer: Any, start: int, stops: Sequence[str]) -> None:
        self.tokenizer, self.start, self.stops = tokenizer, start, stops

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(ids[:, self.start :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=ids.device)


def greedy(model: Any, tokenizer: Any, rows: list[list[int]], stops: Sequence[str], most: int) -> list[str]:
    """The model's likeliest continuation of each row of tokens, up to `most` tokens or a stop string.

    Rows are padded at the left; texts are cut before the first stop string.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    width = max(map(len, rows))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    config = GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=pad,
                              eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    stopping: Any = StoppingCriteriaList([_Stop(tokenizer, width, stops)] if stops else [])  # type: ignore[list-item]
    before, model.generation_config = model.generation_config, config  # a checkpoint's own may sample
    try:
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=mask, stopping_criteria=stopping)
    finally:
        model.generation_config = before
    return [cut(text, stops) for text in tokenizer.batch_decode(found[:, width:], skip_special_tokens=True)]


def cut(text: str, stops: Sequence[str]) -> str:
    """The part before the first stop string."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
