"""Whether the sides of a comparison are above chance at all: if none is, their differences are no result.

The rule is that of a run's page (`no_result`), for the tasks of each language apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis.answered import Answered, all_means
from lrnb.analysis.no_result import why_no_result
from lrnb.analysis.results import MEAN, means_of


def why_at_chance(
    sides: Mapping[str, Sequence[Answered]], tasks: Iterable[str], means: Any
) -> dict[str, str]:
    """task or mean -> why its differences are no result; "" where they may be one.

    sides: name -> its trainings; tasks: those compared; means: `means_of`, whose tasks are of X or English,
    or another, whose tasks are of one kind.
    """
    found: dict[str, str] = {}
    for name, own in _kinds([*tasks], means).items():
        why = why_no_result(pd.DataFrame(_scores(sides, own)), name)
        found |= dict.fromkeys([*own, *means(own)], why)
    return found


def _kinds(tasks: list[str], means: Any) -> dict[str, list[str]]:
    if means is not means_of:
        return {"these tasks": tasks}
    both = {name: [t for t in tasks if t.endswith("_en") == (name == "English")] for name in ("X", "English")}
    return {name: own for name, own in both.items() if own}


def _scores(sides: Mapping[str, Sequence[Answered]], tasks: list[str]) -> list[dict[str, Any]]:
    """The score of every side in every task and in their mean: task (numbered), ci_low, chance; percent."""
    named = {f"task {place}": [task] for place, task in enumerate(tasks)}
    if all_means(tasks):
        named[MEAN] = tasks
    return [_score(name, own, trainings) for trainings in sides.values() for name, own in named.items()]


def _score(name: str, tasks: list[str], trainings: Sequence[Answered]) -> dict[str, Any]:
    right = [[one.tasks[task]["correct"].to_numpy(float) for task in tasks] for one in trainings]
    chances = [trainings[0].chances.get(task, np.nan) for task in tasks]
    return {"task": name, "ci_low": 100 * statistics.interval(right)[0], "chance": float(np.mean(chances))}
