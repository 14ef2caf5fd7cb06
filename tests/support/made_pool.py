"""A made-up pool of seeds, drawn around one made run: nothing of it was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lrnb.analysis import pool, pool_lines
from lrnb.study.parameters import Study

ITEMS, BUDGETS, TASKS = 400, (1000, 2000), ("one", "two", "two_en")


def made_line(line: pool_lines.Line, seed: int, isa: str = "avx512", noise: float = 0.04) -> pool_lines.Line:
    """Another seed of a run: other items, every model a little better or worse; a set moves 1% of them."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, len(isa)])
    items: dict[str, dict[str, str]] = {}
    for model, tasks in pool_lines.right_of(line).items():
        skill = shared.normal(0, noise)
        name = pool_lines.arm_name(*model)
        for task, values in tasks.items():
            right = shared.random(len(values)) < np.clip(values.mean() + skill, 0, 1)
            moved = right ^ (own.random(len(values)) < 0.01)
            items.setdefault(name, {})[task] = pool_lines.packed(pd.Series(moved.astype(float)))
    return line | {"seed": seed, "isa": isa, "items": items}


def write_made_pool(study: Study, path: Path, seeds: int = 6, second: int = 3) -> list[pool_lines.Line]:
    """Write a pool of `seeds` seeds on avx512 and `second` on avx2 around the made run of `study`."""
    line = pool.run_line(study)
    lines = [made_line(line, seed) for seed in range(seeds)]
    lines += [made_line(line, seed, "avx2") for seed in range(second)]
    pool.write_pool(path, lines)
    return lines


def skilled_line(
    seed: int, skill: dict[str, float], tasks: tuple[str, ...] = ("one", "two", "two_en")
) -> pool_lines.Line:
    """A seed whose models have that share of the items right; a luck of the seed moves all of them."""
    rng, items = np.random.default_rng(seed), {}
    luck = {task: rng.random(ITEMS) for task in tasks}
    for method, share in skill.items():
        for tokens in BUDGETS:
            right = {task: pd.Series((values < share).astype(float)) for task, values in luck.items()}
            items[f"{method}@{tokens}"] = {task: pool_lines.packed(x) for task, x in right.items()}
    return {"seed": seed, "isa": "avx512", "n": dict.fromkeys(tasks, ITEMS), "items": items}
