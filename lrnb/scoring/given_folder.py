"""A model folder that came from elsewhere: refused where scores of it would be of another model, or of none.

See `lrnb/checkpoints/openable.py`; a study's own folders cannot be so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lrnb.checkpoints.openable import refuse_absurd
from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.tokenizer_probe import refuse_endless
from lrnb.tasks.harness import KeptTask, quiet


def fit_folder(given: str | Path, tasks: Iterable[KeptTask], *, base: str | Path | None = None) -> Path:
    """The folder of a model (see `open_source` for `given` and `base`) that can be scored on `tasks`.

    Weights are read once (files whole, no NaN or Inf); numbers of the configuration are no larger than the
    weights allow; the tokenizer cuts the prompts of `tasks` within a minute: UserError otherwise. What only
    an opened model shows is refused by `open_model`.
    """
    checkpoint = open_source(given, base=base)
    shapes = {name: tensor.shape for name, tensor in checkpoint.items()}
    refuse_absurd(checkpoint.folder, checkpoint.config, shapes)
    refuse_endless(checkpoint.folder, _prompts(tasks))
    return checkpoint.folder


def _prompts(tasks: Iterable[KeptTask]) -> list[str]:
    with quiet():
        for task in tasks:
            task.build_all_requests()
        return [str(request.args[0]) for task in tasks for request in task.instances]
