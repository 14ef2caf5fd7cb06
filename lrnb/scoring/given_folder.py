"""A model folder that came from elsewhere: refused where scores of it would be of another model, or of none.

transformers fills weights that a folder lacks with random numbers, passes over those that it has no place
for, and believes every number of config.json; a study's own folders cannot be so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.reading import Checkpoint
from lrnb.checkpoints.tokenizer_probe import refuse_endless
from lrnb.errors import UserError
from lrnb.tasks.harness import KeptTask, quiet

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "n_embd", "num_attention_heads", "n_head")
WINDOW = "max_position_embeddings"


def fit_folder(given: str | Path, tasks: Iterable[KeptTask], *, base: str | Path | None = None) -> Path:
    """The folder of a model (see `open_source` for `given` and `base`) that can be scored on `tasks`.

    Weights are read once (files whole, no NaN or Inf); numbers of the configuration are no larger than the
    weights allow; the tokenizer cuts the prompts of `tasks` within a minute: UserError otherwise. What only
    an opened model shows is refused by `open_model`.
    """
    checkpoint = open_source(given, base=base)
    _refuse_absurd(checkpoint)
    refuse_endless(checkpoint.folder, _prompts(tasks))
    return checkpoint.folder


def _prompts(tasks: Iterable[KeptTask]) -> list[str]:
    with quiet():
        for task in tasks:
            task.build_all_requests()
        return [str(request.args[0]) for task in tasks for request in task.instances]


def _refuse_absurd(checkpoint: Checkpoint) -> None:
    """Layers beyond the weights would be built for hours, or beyond all memory, before they are compared."""
    weights, tensors = sum(tensor.size for tensor in checkpoint.values()), len(checkpoint)
    allowed = dict.fromkeys(LAYERS, tensors) | dict.fromkeys(SIZES, weights) | {WINDOW: sys.maxsize}
    for name, value in (checkpoint.config | (checkpoint.config.get("text_config") or {})).items():
        if not _between(value, allowed.get(name)):
            raise UserError(
                f"{checkpoint.folder / 'config.json'}: {name} is {value!r}, and the folder holds "
                f"{tensors:,} tensors of {weights:,} weights. Copy the model's own config.json again"
            )


def _between(value: Any, most: int | None) -> bool:
    """Whether a number is possible; some models have a list, a number a layer, which transformers checks."""
    left_alone = most is None or value is None or isinstance(value, list)
    return left_alone or (isinstance(value, int) and 1 <= value <= (most or 0))
