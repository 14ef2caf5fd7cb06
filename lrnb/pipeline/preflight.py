"""What a study asks for that is not there: refused before anything is computed, in a dry run too."""

from __future__ import annotations

import os
from pathlib import Path

from lrnb.data import microworld
from lrnb.errors import UserError
from lrnb.study.parameters import Study
from lrnb.training.gguf import package_of
from lrnb.tuning.on_dev import dev_tasks, dev_tasks_en


def refuse_missing(study: Study) -> None:
    """UserError for a base that cannot be had here, for a language or SFT rows that the micro-world does not
    have, and where there are no dev items to choose SFT on.
    """
    _refuse_base(study.base_source)
    if study.preset == "nano":
        _refuse_world(study)
    elif study.trains and study.tuning_trials > 1 and _has_data(study):
        dev_tasks_en(study), dev_tasks(study)


def _has_data(study: Study) -> bool:
    """Whether the data root is known yet; a dry run may go without."""
    root = study.data_root or os.environ.get("LRNB_DATA", "")
    return bool(root) and Path(root, "eval").is_dir()


def _refuse_base(source: str) -> None:
    kind, package, name = source.partition("gguf:")
    if package and not kind:
        package_of(name)
    elif source.startswith(("/", ".", "~")) and not Path(source).is_dir():  # others may be Hub ids
        raise UserError(f"base_source {source!r}: no such folder. Give a folder, gguf:NAME or a Hub id")


def _refuse_world(study: Study) -> None:
    if study.lang not in (codes := microworld.world_codes(study.world_languages)):
        known = f"world_languages {study.world_languages} makes {', '.join(codes)}"
        raise UserError(f"lang {study.lang!r}: {known}; give --set world_languages=N with more")
    for task, n in study.sft_mix.items():
        if task.removeprefix("world_") in microworld.TASKS and n > microworld.SFT_ROWS:
            raise UserError(
                f"sft_mix asks for {n:,} rows of {task!r}, the micro-world has {microworld.SFT_ROWS:,}; "
                "ask for less"
            )
