"""A run as a line of a pool: which items every model of it had right, in bits."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrnb.analysis.comparisons import Right
from lrnb.errors import UserError
from lrnb.study.parameters import SYNTHETIC, Study

Line = dict[str, Any]
BASELINE = "ct_then_sft"


def key(line: Line) -> tuple[int, str]:
    return line["seed"], line["isa"]


def arms(study: Study) -> list[str]:
    """The models of a study that a pool keeps, by name."""
    alone = ["base", "sft"]
    trained = ["ct", BASELINE] if study.trains else ["ct"]
    return alone + [arm_name(m, b) for m in (*trained, *study.methods) for b in study.ct_budgets]


def arm_name(method: str, tokens: int) -> str:
    return f"{method}@{tokens}" if tokens else method


def has(lines: Iterable[Line], study: Study, isa: str) -> bool:
    """Whether the pool has the study's seed on an instruction set, with all its models."""
    found = next((line for line in lines if key(line) == (study.seed, isa)), None)
    return found is not None and set(arms(study)) <= found["items"].keys()


def packed(right: pd.Series) -> str:
    if not right.isin([0, 1]).all():
        raise UserError(
            "a pool keeps which items are right; a task asked with several training sets has shares of them: "
            "leave it out of tasks"
        )
    return b64encode(np.packbits(right.to_numpy() > 0).tobytes()).decode("ascii")


def drawn_rows(tasks: dict[str, pd.Series]) -> dict[str, str]:
    """The rows of its file that a task's items are, in bits; of tasks that take all rows nothing is kept."""
    found = {}
    for task, right in tasks.items():
        rows = right.index.to_numpy()
        if len(rows) != 1 + rows[-1]:
            found[task] = packed(pd.Series(np.isin(np.arange(1 + rows[-1]), rows).astype(float)))
    return found


def right_of(line: Line) -> Right:
    """What every model of a line has right, as `comparisons.right_answers` gives it of a run."""
    found: Right = {}
    rows = {task: np.flatnonzero(_bits(text)) for task, text in line.get("rows", {}).items()}
    for name, tasks in line["items"].items():
        method, _, tokens = name.partition("@")
        answers = {
            task: pd.Series(_bits(text, line["n"][task]), rows.get(task), dtype=float)
            for task, text in tasks.items()
        }
        found[method, int(tokens or 0)] = answers
    return found


def _bits(text: str, n: int | None = None) -> np.ndarray:
    return np.unpackbits(np.frombuffer(b64decode(text), np.uint8), count=n)


def seeds_share_items(lines: Sequence[Line]) -> bool:
    """Whether the seeds of a pool answer the same items; in the micro-world each has its own."""
    return any(line.get("parameters", {}).get("lang", SYNTHETIC[0]) not in SYNTHETIC for line in lines[:1])


def headline_lines(lines: Sequence[Line]) -> list[Line]:
    """Each seed once, by seed: on the instruction set that has most seeds (of equals the first by name), and
    the seeds that it lacks on the next.
    """
    counts = Counter(line["isa"] for line in lines)
    ranked = sorted(lines, key=lambda line: (-counts[line["isa"]], line["isa"]))
    found: dict[int, Line] = {}
    for line in ranked:
        found.setdefault(line["seed"], line)
    return [found[seed] for seed in sorted(found)]


def told_sets(lines: Sequence[Line]) -> str:
    """The instruction sets of runs: avx512, or with their numbers avx512 (15) and avx2 (17)."""
    counts = Counter(line["isa"] for line in lines).most_common()
    return " and ".join(isa if len(counts) == 1 else f"{isa} ({n})" for isa, n in counts)


def contrast(right: Right, model: tuple[str, int], other: tuple[str, int] | None) -> list[pd.Series]:
    """Per task in X the items of a model, minus those of another where one is given."""
    tasks = {task: values for task, values in right[model].items() if not task.endswith("_en")}
    return [values - right[other][task] if other else values for task, values in tasks.items()]
