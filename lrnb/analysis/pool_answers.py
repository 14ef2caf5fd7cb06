"""What a pool of seeds says, and what a run is beside it. Each seed counts once: `headline_lines`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis import comparisons, results
from lrnb.analysis.comparisons import Right
from lrnb.analysis.instruction_sets import agreement
from lrnb.analysis.kinds import KINDS, label
from lrnb.analysis.pool import misfits, read_pool, recipe_of
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
from lrnb.analysis.seeds import mean_intervals, own_of_a_seed, seed_cells
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import ENGLISH, Study, budget_name
from lrnb.study.recipe import stored_pool

KEYS = ["baseline", "method", "ct_tokens", "task"]


def seed_values(lines: Sequence[Line]) -> pd.DataFrame:
    """Score in percent of every run: seed, method, ct_tokens, task; single tasks and their means."""
    rows = []
    for line in lines:
        for (method, tokens), tasks in right_of(line).items():
            own = {task: 100 * float(values.mean()) for task, values in tasks.items()}
            means = {name: float(np.mean([own[t] for t in of])) for name, of in results.means_of(own).items()}
            head = {"seed": line["seed"], "method": method, "ct_tokens": tokens}
            rows += [head | {"task": task, "value": value} for task, value in (own | means).items()]
    return pd.DataFrame(rows, columns=["seed", "method", "ct_tokens", "task", "value"])


def seed_leads(lines: Sequence[Line]) -> pd.DataFrame:
    """Every run's differences in points, as in differences.csv: those columns' names, and seed, value."""
    values = seed_values(lines)
    rows = []
    for baseline, methods in comparisons.pairs_of([BASELINE]).items():
        merged = values[values["method"].isin(methods)]
        other = values[values["method"] == baseline].rename(columns={"value": "other"})
        both = merged.merge(other.drop(columns="method"), on=["seed", "ct_tokens", "task"])
        rows.append(both.assign(value=both["value"] - both["other"], baseline=baseline))
    return pd.concat(rows).drop(columns="other")


def sft_after_ct(lines: Sequence[Line]) -> pd.DataFrame:
    """What SFT on top of CT does in X, a row a seed, at the last CT budget: seed, cost, gain.

    cost: bits per byte of held-out text that it adds; gain: points that it adds to the mean of the tasks.
    """
    rows = []
    for line in lines:
        last = max(tokens for _, tokens in right_of(line))
        after, before = (line["bits"][arm_name(method, last)] for method in (BASELINE, "ct"))
        (lang,) = set(after) - {ENGLISH}
        gain = contrast(right_of(line), (BASELINE, last), ("ct", last))
        mean = 100 * float(np.mean([values.mean() for values in gain]))
        rows.append({"seed": line["seed"], "cost": after[lang] - before[lang], "gain": mean})
    return pd.DataFrame(rows)


def pooled_leads(lines: Sequence[Line], task: str = "") -> pd.DataFrame:
    """`comparisons.paired_table` over the seeds of a pool, each method over the seeds that have it.

    task: the one that is wanted, "": the headline's. Methods of a single seed are left out.
    """
    rights = [right_of(line) for line in lines]
    rows: list[dict[str, Any]] = []
    for baseline, methods in comparisons.pairs_of([BASELINE]).items():
        for method in methods:
            own = [one for one in rights if any(method == name for name, _ in one)]
            if len(own) > 1:
                rows += comparisons.paired_rows(own, {baseline: [method]}, shared=seeds_share_items(lines))
    table = comparisons.with_holm(rows)
    return table[table["task"] == (task or results.headline(table))] if len(table) else table


class Pool(NamedTuple):
    """The stored pool as one run sees it."""

    lines: list[Line]  # of the headline: each seed once
    why: list[str]  # in what the run differs from it; [] where it fits
    agreed: dict[str, Any] = {}  # `sets_agree` of `agreement`

    @property
    def seeds(self) -> int:
        return len(self.lines)

    @property
    def isa(self) -> str:
        return told_sets(self.lines)


def pool_for(study: Study, path: Path | None = None) -> Pool | None:
    """The pool at `path`, else the stored one, and whether the finished run of `study` fits, else None.

    A single seed is no pool yet.
    """
    lines = read_pool(path or stored_pool(study))
    own = headline_lines(lines)
    if len(own) < 2:
        return None
    return Pool(own, misfits(study, lines, recipe_of(study)), agreement(lines)["sets_agree"])


def about(study: Study, pool: Pool | None) -> str:
    """What the pool is to a run, in a sentence or two."""
    alone = "Shown is this run alone; its intervals hold the noise of its items only, not that of training."
    if pool is None:
        lacking = f"No pool of seeds is stored for {study.lang_name or study.lang}, preset {study.preset}. "
        return f"{lacking}{alone}"
    if pool.why:
        more = f" and {len(pool.why) - 2} more" if len(pool.why) > 3 else ""
        why = "; ".join(pool.why[: 2 if more else 3])
        return f"The stored pool of {pool.seeds} seeds does not go with this run: other {why}{more}. {alone}"
    return (
        f"The stored pool has {pool.seeds} seeds, each counted once, on {pool.isa}. What it says depends "
        "neither on this run nor on this machine; this run is one more value beside it." + _on_sets(pool)
    )


def _on_sets(pool: Pool) -> str:
    """Whether two instruction sets say the same, in a sentence; "" with one."""
    if not (said := pool.agreed):
        return ""
    most = said["largest"]
    method, _, tokens = most["model"].partition("@")
    where = f" at {budget_name(int(tokens))} CT tokens" if tokens else ""
    what = f"{most['number']} of {label(method)}{where}"
    return (
        f" Two instruction sets ({', '.join(said['sets'])}) on the same {said['seeds']} seeds agree in "
        f"{said['agree']} of {said['numbers']} numbers; the largest difference is "
        f"{abs(most['difference']):.1f} points ({what})."
    )


def mean_shares(lines: Sequence[Line]) -> pd.DataFrame:
    """ct_tokens, and the means over the runs of a pool's shares (`pool.SHARES`)."""
    tables = [pd.DataFrame.from_dict(line["shares"], orient="index") for line in lines]
    found = pd.concat(tables).groupby(level=0).mean().rename_axis("ct_tokens").reset_index()
    return found.assign(ct_tokens=found["ct_tokens"].astype(int)).sort_values("ct_tokens", ignore_index=True)


def pooled_fades(lines: Sequence[Line]) -> pd.DataFrame:
    """How much each merge's lead over CT-then-SFT shrinks from the first to the last CT budget, in points.

    Columns: method, first, last, lead_first and lead_last (means over the seeds), difference, ci_low,
    ci_high, p, seeds, p_holm (over the methods).
    """
    rights = [right_of(line) for line in lines]
    budgets = sorted({tokens for method, tokens in rights[0] if method == BASELINE}) if rights else []
    rows = []
    for method in METHODS if len(budgets) > 1 else ():
        ends = [(method, b, (BASELINE, b)) for b in (budgets[0], budgets[-1])]
        own = [one for one in rights if all((method, b) in one for _, b, _ in ends)]
        if len(own) > 1:
            leads = [[contrast(one, (m, b), other) for m, b, other in ends] for one in own]
            shrinks = [[a - b for a, b in zip(*pair, strict=True)] for pair in leads]
            found = statistics.over_seeds(shrinks, shared=seeds_share_items(lines), bounds=(-2.0, 2.0))
            ends_of = {"difference": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
            head = {"method": method, "first": budgets[0], "last": budgets[-1], "seeds": len(own)}
            first, last = (np.mean([[x.mean() for x in pair[i]] for pair in leads]) for i in (0, 1))
            ends_of |= {"lead_first": first, "lead_last": last}
            rows.append(head | {k: 100 * v for k, v in ends_of.items()} | {"p": found.p})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p"])) if rows else table


def answer(pool: Pool, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The pooled answer, this run in it: a row a method and CT budget, in points.

    table: the run's differences.csv. Columns of `pooled_leads`, and sd (of one run's lead over the seeds),
    low and high (where 95% of single runs lie), detectable (by one run, with 80% power), own (this run's; NaN
    where it has none), outside. sd to detectable are of the other seeds: a run is not held against itself.
    """
    leads, others = pooled_leads(pool.lines), seed_leads(_others(pool, seed))
    spread = _spread_of(others[others["task"].isin(leads["task"])])
    own = table.set_index(KEYS)["difference"].rename("own")
    found = leads.merge(spread, how="left", on=KEYS).merge(own, how="left", left_on=KEYS, right_index=True)
    return found.assign(outside=(found["own"] < found["low"]) | (found["own"] > found["high"]))


def _others(pool: Pool, seed: int) -> list[Line]:
    return [line for line in pool.lines if line["seed"] != seed]


def _spread_of(leads: pd.DataFrame) -> pd.DataFrame:
    """KEYS; sd, others (runs), low, high, detectable: of leads of two runs or more."""
    rows = []
    for names, part in leads.groupby(KEYS, sort=False):
        if len(part) > 1:
            sd = float(part["value"].std())
            low, high = statistics.prediction(part["value"])
            least = statistics.detectable_by_one_run(sd, len(part))
            found = {"sd": sd, "others": len(part), "low": low, "high": high, "detectable": least}
            rows.append(dict(zip(KEYS, names, strict=True)) | found)
    return pd.DataFrame(rows, columns=[*KEYS, "sd", "others", "low", "high", "detectable"])


def with_training(table: pd.DataFrame, pool: Pool | None, seed: int) -> pd.DataFrame:
    """A run's differences, intervals and p with the noise of training where the pool fits and knows it.

    `noise` says what each interval holds. Holm's correction is made anew.
    """
    table = table.assign(noise=comparisons.ITEMS_ONLY)
    if pool is None or pool.why or not len(table):
        return table
    known = _spread_of(seed_leads(_others(pool, seed))).set_index(KEYS)[["sd", "others"]]
    rows = [_widened(row, known) for row in table.drop(columns="p_holm", errors="ignore").to_dict("records")]
    return comparisons.with_holm(rows)


def _widened(row: dict[str, Any], known: pd.DataFrame) -> dict[str, Any]:
    where = tuple(row[name] for name in KEYS)
    if where not in known.index or not known.loc[where, "sd"]:
        return row
    sd, others = known.loc[where]
    items = ((row["ci_high"] - row["ci_low"]) / 100 / 3.92) ** 2
    low, high, p = statistics.one_run(row["difference"] / 100, sd / 100, int(others), items=items)
    ends = {"ci_low": 100 * low, "ci_high": 100 * high, "p": max(p, row["p"])}
    return row | ends | {"noise": comparisons.WITH_TRAINING}


def pooled_summary(pool: Pool, scores: pd.DataFrame, study: Study) -> dict[str, Any]:
    """The pool's scores of the headline task, as `seeds.seeds_summary` has those of a folder's runs."""
    task = results.headline(scores)
    table = pooled_scores(pool)
    chance = float(scores.loc[scores["task"] == task, "chance"].iloc[0])
    found = seed_cells(table[table["task"] == task].assign(chance=chance))
    return found | {"live": False, "isa": pool.isa, "differ": [], "own": own_of_a_seed(study)}


def pooled_scores(pool: Pool) -> pd.DataFrame:
    """Scores of every model over the seeds that have it: method, ct_tokens, task, seeds, mean, sd, ci_*.

    And chance, NaN where the runs do not say it.
    """
    values, rights = seed_values(pool.lines), [right_of(line) for line in pool.lines]
    keys = ["method", "ct_tokens", "task"]
    table = values.groupby(keys, sort=False)["value"].agg(seeds="count", mean="mean", sd="std").reset_index()
    shared = seeds_share_items(pool.lines)
    ends = [_ends([one for one in rights if method in {name for name, _ in one}], method, shared)
            for method in KINDS if method in set(table["method"])]  # fmt: skip
    table = table.merge(pd.concat(ends), how="left", on=keys) if ends else table
    return table.assign(chance=table["task"].map(chance_levels(pool.lines)).astype(float))


def chance_levels(lines: Sequence[Line]) -> dict[str, float]:
    """Task -> chance level in percent, with the means of tasks; of runs that say it."""
    own: dict[str, float] = next((line["chance"] for line in lines if "chance" in line), {})
    means = results.means_of(own).items()
    return own | {mean: float(np.mean([own[task] for task in tasks])) for mean, tasks in means}


def _ends(rights: list[Right], method: str, shared: bool) -> pd.DataFrame:
    own = [{model: tasks for model, tasks in one.items() if model[0] == method} for one in rights]
    return mean_intervals(own, shared=shared)
