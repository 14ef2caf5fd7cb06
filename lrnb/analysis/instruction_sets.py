"""Whether two instruction sets say the same: a pool's runs of the same seeds on both, paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrnb import statistics
from lrnb.analysis.comparisons import Right
from lrnb.analysis.pool_lines import (
    BASELINE,
    Line,
    arm_name,
    contrast,
    headline_lines,
    right_of,
    seeds_share_items,
    told_sets,
)
from lrnb.merging.methods import METHODS


def agreement(lines: Sequence[Line]) -> dict[str, Any]:
    """How many seeds each instruction set has, which is the headline's, and where two agree.

    sets_agree: per number of the headline (score of every model on the mean in X, and lead of every merge
    over CT-then-SFT) its value on both sets over the seeds that both have, the paired difference with its 95%
    interval, and `agree`: the interval includes zero. {} with fewer than two such seeds.
    """
    counts = Counter(line["isa"] for line in lines)
    said = {"headline_set": told_sets(headline_lines(lines)), "seeds": dict(sorted(counts.items()))}
    first, second = _two_sets(lines)
    both = [(right_of(first[seed]), right_of(second[seed])) for seed in sorted(first.keys() & second.keys())]
    names = tuple(next(iter(own.values()))["isa"] for own in (first, second) if own)
    rows = _compared(both, names, seeds_share_items(lines)) if len(both) > 1 else []
    return said | {"sets_agree": _agreed(rows, len(both), names)}


def _two_sets(lines: Sequence[Line]) -> list[dict[int, Line]]:
    """The runs by seed of the two instruction sets with most seeds."""
    counts = Counter(line["isa"] for line in lines)
    names = sorted(counts, key=lambda name: (-counts[name], name))[:2]
    found = [{line["seed"]: line for line in lines if line["isa"] == name} for name in names]
    return [*found, {}, {}][:2]


def _compared(
    both: Sequence[tuple[Right, Right]], names: Sequence[str], shared: bool
) -> list[dict[str, Any]]:
    models = [model for model in both[0][0] if all(model in a and model in b for a, b in both)]
    rows = [_numbers(both, model, None, names, shared) for model in models]
    leads = [(m, b) for m, b in models if m in METHODS and (BASELINE, b) in models]
    return rows + [_numbers(both, model, (BASELINE, model[1]), names, shared) for model in leads]


def _numbers(
    both: Sequence[tuple[Right, Right]], model: tuple[str, int], other: tuple[str, int] | None,
    names: Sequence[str], shared: bool,
) -> dict[str, Any]:  # fmt: skip
    """One number of the headline on the two sets, seed by seed on the same items."""
    sides = [[contrast(one, model, other) for one in pair] for pair in both]
    deltas = [[a - b for a, b in zip(*pair, strict=True)] for pair in sides]
    bound = 2.0 if other else 1.0
    found = statistics.over_seeds(deltas, shared=shared, bounds=(-bound, bound))
    means = [100 * float(np.mean([[x.mean() for x in pair[k]] for pair in sides])) for k in (0, 1)]
    head = {"number": "lead" if other else "score", "model": arm_name(*model)}
    ends = [round(100 * end, 2) for end in (found.value, found.ci_low, found.ci_high)]
    values = {name: round(value, 2) for name, value in zip(names, means, strict=True)}
    apart = dict(zip(("difference", "ci_low", "ci_high"), ends, strict=True))
    return head | values | apart | {"agree": found.ci_low <= 0 <= found.ci_high}


def _agreed(rows: Sequence[Mapping[str, Any]], seeds: int, names: Sequence[str]) -> dict[str, Any]:
    if not rows:
        return {}
    largest = max(rows, key=lambda row: abs(row["difference"]))
    counts = {"sets": list(names), "seeds": seeds, "numbers": len(rows)}
    counts["agree"] = sum(row["agree"] for row in rows)
    return counts | {"largest": largest, "each": list(rows)}
