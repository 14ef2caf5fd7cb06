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
from lrnb.study.parameters import Study

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


def right_of(line: Line) -> Right:
    """What every model of a line has right, as `comparisons.right_answers` gives it of a run."""
    found: Right = {}
    for name, tasks in line["items"].items():
        method, _, tokens = name.partition("@")
        answers = {task: _unpacked(text, line["n"][task]) for task, text in tasks.items()}
        found[method, int(tokens or 0)] = answers
    return found


def _unpacked(text: str, n: int) -> pd.Series:
    bits = np.unpackbits(np.frombuffer(b64decode(text), np.uint8), count=n)
    return pd.Series(bits, dtype=float)


def headline_lines(lines: Sequence[Line]) -> list[Line]:
    """The runs of the instruction set that has most seeds (of equals the first by name): each seed once."""
    counts = Counter(line["isa"] for line in lines)
    isa = min(counts, key=lambda name: (-counts[name], name), default="")
    return [line for line in lines if line["isa"] == isa]


def contrast(right: Right, model: tuple[str, int], other: tuple[str, int] | None) -> list[pd.Series]:
    """Per task in X the items of a model, minus those of another where one is given."""
    tasks = {task: values for task, values in right[model].items() if not task.endswith("_en")}
    return [values - right[other][task] if other else values for task, values in tasks.items()]
