"""Answers that a stage keeps while it scores, so that one that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from lrnb.study.files import atomic_file, digest
from lrnb.study.parameters import Study
from lrnb.study.stages import fingerprint


def scored_once(path: Path, score: Callable[[], pd.DataFrame]) -> None:
    """Leave in `path` what `score` returns, unless it is there."""
    if not path.is_file():
        items = score()
        with atomic_file(path) as temporary:
            items.to_parquet(temporary, index=False)


def mark_of(study: Study, folders: Iterable[Path]) -> str:
    """What kept answers depend on: those of other models, items or parameters are not gone on from."""
    return digest({"models": [fingerprint(folder) for folder in folders], "study": study.declared()})[:16]
