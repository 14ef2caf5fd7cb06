"""At how many CT tokens merging and training on top cross: where a lead is zero, with an interval.

The lead is taken as a line in log CT tokens, through two budgets or fitted to more by least squares. At any
number of tokens it is a sum of the leads at the budgets by weights, so that its interval is the one that any
difference here has: over the items of one run, over seeds, or over languages. The interval of the crossing
holds the tokens at which the lead cannot be told from zero (Fieller 1954); it is looked for between the first
and the last budget only, and is open where it reaches one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis import languages as across
from lrnb.analysis.comparisons import Right
from lrnb.analysis.kinds import label, ordered
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import budget_name

PLACES, FINE = 17, 801  # where intervals are computed, and between them interpolated
BASELINE = "ct_then_sft"
CROSSES, AHEAD, BEHIND, UNKNOWN = "cross", "ahead at every budget", "behind at every budget", "cannot be told"
Weights = Mapping[int, float]  # CT budget -> its part in a sum of leads
Told = tuple[float, float, float]  # value, ci_low, ci_high
Lead = Callable[[Weights], Told]  # of a sum of leads


class Crossing(NamedTuple):
    """Where a lead is zero, in CT tokens: NaN outside of the budgets; low 0 and high infinite where open.

    says: CROSSES, where the interval has an end; AHEAD, BEHIND; else UNKNOWN. falls: whether the lead falls
    as CT tokens grow.
    """

    says: str
    tokens: float
    low: float
    high: float
    falls: bool


def crossing_of(budgets: Sequence[int], lead: Lead) -> Crossing:
    """Where the line through the leads at `budgets`, two or more, is zero, see above."""
    logs = np.log2(budgets)
    at, fine = np.linspace(logs[0], logs[-1], PLACES), np.linspace(logs[0], logs[-1], FINE)
    found = np.array([lead(dict(zip(budgets, _line_weights(logs, x), strict=True))) for x in at])
    value, low, high = (np.interp(fine, at, found[:, column]) for column in range(3))
    falls = bool(value[-1] < value[0])
    if (low > 0).all() or (high < 0).all():
        ahead = bool(value[0] > 0)
        first, last = (float(budgets[-1]), np.inf) if ahead == falls else (0.0, float(budgets[0]))
        return Crossing(AHEAD if ahead else BEHIND, np.nan, first, last, falls)
    open_to = fine[(low <= 0) & (high >= 0)]
    first = 0.0 if open_to[0] == fine[0] else float(2 ** open_to[0])
    last = np.inf if open_to[-1] == fine[-1] else float(2 ** open_to[-1])
    says = UNKNOWN if (first, last) == (0.0, np.inf) else CROSSES
    inside = value[0] * value[-1] <= 0 and value[0] != value[-1]
    return Crossing(says, _zero(fine, value) if inside else np.nan, first, last, falls)


def _line_weights(logs: np.ndarray, x: float) -> np.ndarray:
    """By which the leads at the budgets are added up to the line's value at x."""
    design = np.column_stack([np.ones(len(logs)), logs - logs.mean()])
    return np.array([1.0, x - logs.mean()]) @ np.linalg.pinv(design)


def _zero(x: np.ndarray, line: np.ndarray) -> float:
    """Where a straight line is zero, in CT tokens."""
    return float(2 ** (x[0] + (x[-1] - x[0]) * line[0] / (line[0] - line[-1])))


def crossings(runs: Sequence[Right], *, shared: bool = False, seed: int = 0) -> pd.DataFrame:
    """A row a merge: where its lead over CT-then-SFT is zero, mean over the tasks in X.

    runs: what every model has right, of one run or of several seeds; shared: whether these answer the same
    items. Columns: method, baseline, budgets (how many), first, last, those of `Crossing`, seeds. Empty with
    fewer than two budgets that all runs have, or without CT-then-SFT.
    """
    rows = []
    for method, budgets in _budgets_of(runs).items():
        lead = _of_seeds(runs, method, shared) if len(runs) > 1 else _of_one(runs[0], method, budgets, seed)
        rows.append(_row(method, budgets, crossing_of(budgets, lead)) | {"seeds": len(runs)})
    return pd.DataFrame(rows)


def _of_seeds(runs: Sequence[Right], method: str, shared: bool) -> Lead:
    def lead(weights: Weights) -> Told:
        samples, bound = _samples(runs, method, weights)
        return statistics.over_seeds(samples, shared=shared, bounds=(-bound, bound))[:3]

    return lead


def _of_one(run: Right, method: str, budgets: Sequence[int], seed: int) -> Lead:
    """Percentile bootstrap over the items, which are drawn once for all places on the line."""
    each = [_samples([run], method, {budget: 1.0})[0][0] for budget in budgets]
    tasks = [np.column_stack(leads) for leads in zip(*each, strict=True)]
    drawn, means = (
        statistics.resampled_columns(tasks, seed=seed),
        np.mean([x.mean(axis=0) for x in tasks], axis=0),
    )

    def lead(weights: Weights) -> Told:
        parts = np.array([*weights.values()])
        low, high = np.quantile(drawn @ parts, [0.025, 0.975])
        return float(means @ parts), float(low), float(high)

    return lead


def crossings_over_languages(found: across.Languages) -> pd.DataFrame:
    """The same, mean over languages and their common seeds, which are crossed. Empty with one language."""
    seeds = across.common_seeds(found)
    if len(found) < 2 or not seeds:
        return pd.DataFrame()
    shared = across.items_are_shared(found)
    each = {lang: [own[seed].right for seed in seeds] for lang, own in found.items()}

    rows = []
    for method, budgets in _budgets_of([run for runs in each.values() for run in runs]).items():
        place = crossing_of(budgets, _of_languages([*each.values()], method, shared))
        rows.append(_row(method, budgets, place) | {"seeds": len(seeds), "languages": len(each)})
    return pd.DataFrame(rows)


def _of_languages(each: Sequence[Sequence[Right]], method: str, shared: bool) -> Lead:
    def lead(weights: Weights) -> Told:
        found = [_samples(runs, method, weights) for runs in each]
        bound = found[0][1]
        return statistics.over_languages([s for s, _ in found], shared=shared, bounds=(-bound, bound))[:3]

    return lead


def _row(method: str, budgets: Sequence[int], found: Crossing) -> dict[str, Any]:
    head = {"method": method, "baseline": BASELINE, "budgets": len(budgets)}
    return head | {"first": budgets[0], "last": budgets[-1]} | found._asdict()


def _budgets_of(runs: Sequence[Right]) -> dict[str, list[int]]:
    """The merges with two CT budgets or more at which all runs have it and CT-then-SFT."""
    there = set.intersection(*(set(run) for run in runs)) if runs else set()
    made = ordered({method for method, _ in there if method in METHODS})
    known = {m: sorted(b for name, b in there if name == m and (BASELINE, b) in there) for m in made}
    return {method: budgets for method, budgets in known.items() if len(budgets) > 1}


def _samples(runs: Sequence[Right], method: str, weights: Weights) -> tuple[list[list[pd.Series]], float]:
    """Per run and task in X the sum of the leads by weights, item by item; and how large it can be."""
    samples = [
        [
            pd.Series(sum(w * (run[method, b][task] - run[BASELINE, b][task]) for b, w in weights.items()))
            for task in run[method, next(iter(weights))]
            if not task.endswith("_en")
        ]
        for run in runs
    ]
    return samples, sum(map(abs, weights.values()))


def findings_of_crossings(table: pd.DataFrame) -> list[str]:
    """Every row as a sentence."""
    return [_sentence(row) for row in table.to_dict("records")]


def _sentence(row: Mapping[Any, Any]) -> str:
    first, last = (budget_name(int(row[name])) for name in ("first", "last"))
    named = f"{label(row['method'])} against {label(row['baseline'])}, {first} to {last} CT tokens"
    if row["says"] in (AHEAD, BEHIND):
        where = f"above {last}" if np.isinf(row["high"]) else f"below {first}"
        return f"{named}: it is {row['says']}; a crossing lies {where}, if there is one."
    if row["says"] == UNKNOWN:
        return f"{named}: where they cross {row['says']}."
    low = tokens_name(row["low"]) if row["low"] > 0 else f"below {first}"
    high = f"above {last}" if np.isinf(row["high"]) else tokens_name(row["high"])
    at = tokens_name(row["tokens"]) if np.isfinite(row["tokens"]) else "a place outside of these"
    before, after = ("ahead", "behind") if row["falls"] else ("behind", "ahead")
    return (
        f"{named}: they cross at {at} (95% {low} to {high}), the merge is {before} before and {after} after."
    )


def tokens_name(tokens: float) -> str:
    """Two digits of it: 47213.9 -> "47k"."""
    return budget_name(int(float(f"{tokens:.2g}")))
