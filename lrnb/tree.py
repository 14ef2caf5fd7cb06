"""Items as trees: a context and its options as branches of one sequence, with mask and positions.

[context, option 1, option 2, ...]: a token sees the context and its own branch, and its position is
the one it would have if its option followed the context alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class Item:
    """One context with the options that share it. `slots` are the requests' places."""

    context: list[int]
    options: list[list[int]] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the sequence; an option's last token is predicted, never read."""
        return len(self.context) + sum(len(option) - 1 for option in self.options)


def pack(batch: list[Item]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, branch (0 context, 1.. options, -1 padding) and position, each (items, tokens)."""
    width = max(item.length for item in batch)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    branch, position = np.full_like(ids, -1), np.zeros_like(ids)
    for row, item in enumerate(batch):
        parts = [item.context, *(option[:-1] for option in item.options)]
        n = len(item.context)
        ids[row, : item.length] = [token for part in parts for token in part]
        branch[row, : item.length] = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        position[row, : item.length] = np.concatenate(
            [np.arange(len(p)) + (n if i else 0) for i, p in enumerate(parts)]
        )
    return ids, branch, position


def predictions(batch: list[Item], width: int) -> tuple[list[int], list[list[tuple[list[int], list[int]]]]]:
    """Which hidden rows are needed, and per item and option (places among them, tokens).

    The context's last row predicts the first token of every option; it is taken once.
    """
    rows: list[int] = []
    plan = []
    for index, item in enumerate(batch):
        first, start = len(rows), index * width + len(item.context)
        rows.extend(range(start - 1, index * width + item.length))
        place, options = first + 1, []
        for option in item.options:
            options.append(([first, *range(place, place + len(option) - 1)], option))
            place += len(option) - 1
        plan.append(options)
    return rows, plan


def masks(config: Any, branch: Any, position: Any) -> Any:
    """Boolean masks (items, 1, queries, keys): the tree's, and its part within a sliding window.

    Returns one mask, or for models that mix both kinds of layers a dict by layer type.
    """
    query, key = branch[:, None, :, None], branch[:, None, None, :]
    before = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device)
    tree = before.tril() & ((key == 0) | (key == query))
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or kinds == {"full_attention"}:
        return tree
    near = tree & (position[:, None, :, None] - position[:, None, None, :] < window)
    return {"full_attention": tree, "sliding_attention": near} if kinds else near
