"""Items that were scored before, kept by what they depend on: model bytes, requests of the task, code.

A rerun then scores only what changed. Entries are single files, written atomically; one that cannot be
read counts as absent. Any change of the modules that make a score counts, even of a comment: scoring anew
costs minutes, a stale score is wrong.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.scoring.unwritten import Unwritten, model_files
from lrnb.study.environment import versions
from lrnb.study.files import atomic_file, digest, make_folder, sha256
from lrnb.tasks.harness import KeptTask, quiet

CODE = ("scoring/*.py", "tasks/*.py", "training/bits_per_byte.py")  # what makes a score: below lrnb/
LIBRARIES = ("lm-eval", "tokenizers", "torch", "transformers")
LISTS = ("options", "loglikelihoods")


class ScoreCache:
    """Items by key in a folder; `how` names what else the numbers depend on, as the precision."""

    def __init__(self, folder: Path, how: dict[str, Any]) -> None:
        self.folder, self.how = Path(folder), how

    def read(self, key: str) -> pd.DataFrame | None:
        """The items of one model and task, or None."""
        try:
            items = pd.read_parquet(self.folder / f"{key}.parquet")
        except (OSError, ValueError):  # absent, or not the file it was
            return None
        return items.assign(**{name: items[name].map(list) for name in LISTS if name in items})

    def write(self, key: str, items: pd.DataFrame) -> None:
        """Keeps the items of one model and task."""
        make_folder(self.folder)
        with atomic_file(self.folder / f"{key}.parquet") as temporary:
            items.to_parquet(temporary, index=False)

    def keys(self, where: Path | Unwritten, tasks: dict[str, KeptTask]) -> dict[str, str]:
        """The key of each task for a model."""
        model = model_hash(where)
        return {name: self.key(model, task_hash(task)) for name, task in tasks.items()}

    def key(self, model: str, what: str) -> str:
        """The key of what a model was asked, from the hashes of both."""
        return digest([model, what, code_hash(), self.how])


def model_hash(where: Path | Unwritten) -> str:
    """Of all `model_files` of a folder, any of which may decide what it answers; or `Unwritten.mark`."""
    if isinstance(where, Unwritten):
        return where.mark
    return digest({path.name: sha256(path) for path in model_files(Path(where))})


def task_hash(task: KeptTask) -> str:
    """Of a task's requests (prompts with their examples, options, stop strings), its rows and its metric."""
    with quiet():
        task.build_all_requests()
    requests = [request.args for request in task.instances]
    config = task.config.to_dict(keep_callable=False)
    return digest([task.task_name, task.metric, requests, list(task.eval_docs), config])


@cache
def code_hash() -> str:
    """Of the modules and libraries that make a score."""
    return digest([{name: sha256(path) for name, path in _sources().items()}, versions(LIBRARIES)])


def _sources() -> dict[str, Path]:
    """The modules of `CODE` by name; what task files say is in the hash of each task."""
    lrnb = Path(__file__).parents[1]
    return {str(path.relative_to(lrnb)): path for part in CODE for path in sorted(lrnb.glob(part))}
