"""Open question 3 on nano: the lead of merging at several sizes of model, each a pool of the same seeds.

A seed has the same world, tokens and steps at every size, so that sizes are compared within a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis import pool, pool_answers, results
from lrnb.analysis.kinds import label
from lrnb.analysis.pool_lines import BASELINE, Line, headline_lines
from lrnb.errors import UserError
from lrnb.study.parameters import ROOT, budget_name, scratch_parameters

Sizes = dict[int, list[Line]]  # parameters of the model -> its runs


def read_sizes(folder: Path) -> Sizes:
    """The pools in `folder`, one folder a size, the smallest first. UserError with fewer than two."""
    found: Sizes = {}
    for path in sorted((ROOT / folder).glob("*/*.jsonl")):
        if lines := headline_lines(pool.read_pool(path)):
            given: Mapping[str, Any] = lines[0]["parameters"]
            found[scratch_parameters(*(given[name] for name in SHAPE))] = lines
    if len(found) < 2:
        raise UserError(f"{folder}: {len(found)} sizes of model in it; `make sizes` runs and keeps them")
    return dict(sorted(found.items()))


SHAPE = ("base_width", "base_layers", "world_languages")


def leads_by_size(sizes: Sizes) -> pd.DataFrame:
    """Merge minus CT-then-SFT at every size and CT budget, in points, mean of the tasks in X.

    Columns: parameters, ct_tokens, method, difference, ci_low, ci_high (over seeds and items), p, seeds,
    p_holm (over sizes and budgets of a method). A size with one seed has no row.
    """
    tables = [pool_answers.pooled_leads(lines).assign(parameters=size) for size, lines in sizes.items()]
    table = pd.concat([own[own["baseline"] == BASELINE] for own in tables if len(own)])
    columns = ["parameters", "ct_tokens", "method", "difference", "ci_low", "ci_high", "p", "seeds"]
    holm = table.groupby("method")["p"].transform(lambda p: statistics.holm(p.to_numpy()))
    return table[columns].assign(p_holm=holm).reset_index(drop=True)


def growth_with_size(sizes: Sizes) -> pd.DataFrame:
    """How much a merge's lead changes each time the model doubles: a line in log2 of its parameters.

    A line in each seed that all sizes have; Student's t over the seeds. Columns: method, ct_tokens, slope,
    ci_low, ci_high, p, seeds, p_holm (over all rows). Empty with fewer than two such seeds.
    """
    leads = [pool_answers.seed_leads(lines).assign(parameters=size) for size, lines in sizes.items()]
    own = pd.concat([table[table["baseline"] == BASELINE] for table in leads])
    own = own[own["task"] == results.headline(own)]
    rows = []
    for (method, tokens), part in own.groupby(["method", "ct_tokens"], sort=False):
        wide = part.pivot(index="parameters", columns="seed", values="value").dropna(axis=1)
        if wide.shape[1] > 1 and len(wide) == len(sizes):
            slopes = np.polyfit(np.log2(wide.index.to_numpy(float)), wide.to_numpy(), 1)[0]
            found = statistics.over_runs(slopes)
            ends = {"slope": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "p": found.p}
            rows.append({"method": method, "ct_tokens": tokens} | ends | {"seeds": wide.shape[1]})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p"].to_numpy())) if rows else table


def findings_of_sizes(growth: pd.DataFrame) -> list[str]:
    """Every row of `growth_with_size` as a sentence."""
    return [
        f"{label(row['method'])} at {budget_name(int(row['ct_tokens']))} CT tokens: its lead changes by "
        f"{row['slope']:+.1f} points (95% {row['ci_low']:+.1f} to {row['ci_high']:+.1f}, Holm p "
        f"{row['p_holm']:.3f}, {row['seeds']} seeds) each time the model doubles."
        for row in growth.to_dict("records")
    ]


def best_rate(pools: Mapping[float, Sequence[Line]], lang: str) -> float:
    """The factor on the learning rates with which CT ends with the fewest bits per byte in X.

    pools: factor -> runs. A factor with which any run diverged to no number is left out.
    """
    means = {}
    for factor, lines in pools.items():
        last = max(lines[0]["parameters"]["ct_budgets"])
        means[factor] = float(np.mean([line["bits"][f"ct@{last}"][lang] for line in lines]))
    there = {factor: bits for factor, bits in means.items() if np.isfinite(bits)}
    if not there:
        raise UserError("no factor on the learning rates has a run with bits per byte; try smaller ones")
    return min(there, key=lambda factor: (there[factor], factor))
