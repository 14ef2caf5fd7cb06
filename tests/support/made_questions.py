"""A made-up pool of the open questions: which merge is better is put in, nothing of it was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lrnb.analysis import pool
from lrnb.analysis.pool_lines import Line, arm_name, packed
from lrnb.analysis.question_merges import Asked, in_order

BUDGETS = [1024, 4096, 16384]
TASKS = ("world_topic", "world_sums", "world_topic_en", "world_sums_en")
Skill = Callable[[Asked, int], float]  # the share right of a merge at a CT budget


def options_of(one: Asked) -> dict:
    return dict(one.options)


def made_counts(one: Asked, place: int, seed: int) -> dict[str, float]:
    """Discarded grows with CT tokens unless weights are evened; magnitude takes three times margin's mass."""
    given = options_of(one)
    grown = 0.1 + 0.05 * place * (given.get("equalise", "none") == "none") + 0.001 * seed
    won = round(1000 * given.get("slack", 0))
    price = 3 if given.get("reserve_by") == "magnitude" else 1
    shares = {"ceded_share": price * won / 1e5, "reserved_share": won / 1e5, "ct_discarded_share": 0.1}
    return {"sft_discarded": 1000, "reserved": won, "sft_discarded_share": grown} | shares


def made_answers(rng: np.random.Generator, skill: float, n: int) -> dict[str, str]:
    """The same items for all merges of a seed: a better one is right where the worse ones are, and more."""
    return {task: packed(pd.Series((rng.random(n) < skill).astype(float))) for task in TASKS}


def made_questions_line(seed: int, skill: Skill, n: int = 80, budgets: Sequence[int] = BUDGETS) -> Line:
    """A run with all merges."""
    arms = in_order(budgets)
    names = {(one, budget): arm_name(one.name, budget) for one, budget in arms}
    items = {
        name: made_answers(np.random.default_rng(seed), skill(one, budget), n)
        for (one, budget), name in names.items()
    }
    return {
        "seed": seed, "isa": "avx512", "processor": "a made one", "recipe": 1, "world": "made",
        "versions": {"lrnb": "0.1.0"}, "parameters": {"lang": "qaa", "ct_budgets": [*budgets]}, "search": {},
        "n": dict.fromkeys(TASKS, n), "items": items,
        "bits": {name: {"qaa": 1 + seed / 10, "en": 2.0} for name in names.values()},
        "counts": {
            name: made_counts(one, budgets.index(b), seed) for (one, b), name in names.items()
        },
    }  # fmt: skip


def write_made_questions(path: Path, skill: Skill, seeds: int = 4) -> list[Line]:
    lines = [made_questions_line(seed, skill) for seed in range(seeds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pool.write_pool(path, lines)
    return lines
