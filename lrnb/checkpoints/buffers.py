"""Tensors in a weight file that are no weights: transformers computes them from the configuration.

Older releases of a model have them and newer ones do not (Llama-2-7b-hf has `rotary_emb.inv_freq`), so that a
base and a parent trained from it differ by them; transformers passes over them when it opens a folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

ROTARY = re.compile(r"rotary_\w*emb\w*\.((original_)?inv_freq|(cos|sin)_cached)$")
MASK = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$")  # of GPT-2, GPT-J, GPT-NeoX; also a bias's name
POSITIONS = re.compile(r"(^|\.)position_ids$")


def without_buffers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that are weights."""
    return {name: tensor for name, tensor in tensors.items() if not _is_buffer(name, tensor)}


def _is_buffer(name: str, tensor: np.ndarray) -> bool:
    if MASK.search(name):
        return tensor.ndim == 0 or (tensor.ndim == 4 and tensor.shape[:2] == (1, 1))
    if POSITIONS.search(name):
        return tensor.dtype.kind == "i" and tensor.shape[:1] == (1,)
    return bool(ROTARY.search(name))
