"""Two tasks of pico words, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

from support.pico import WORDS

from lrnb.tasks import loading


def words(rng, n: int) -> str:
    """`n` random words."""
    return " ".join(rng.choice(WORDS, n))


def load_tasks(root: Path, names: tuple[str, ...] = ("label", "choice"), **options):
    return loading.load_tasks([str(root / f"{name}.yaml") for name in names], "bn", root, **options)
