"""What scores can carry: which are results at all, what choosing on dev cost, what can be told apart.

Tables only, in percent; nothing here needs torch. docs/statistics.md says why each rule was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis import comparisons, results
from lrnb.analysis.kinds import TRAINED, model_label
from lrnb.merging.methods import find
from lrnb.study.stages import RunPaths
from lrnb.tuning import on_dev
from lrnb.tuning.on_dev import Tried, read_choices, tried
from lrnb.tuning.sft_on_dev import read_sft_choices

SFT_OPTIONS = {"lr": "learning rate", "epochs": "epochs"}
NOT_ABOVE, NOT_CLEAR, FALLEN = "°", "ᵐ", "✕"  # beside a score: not above chance, or the majority; collapsed
MARKS = f"{NOT_ABOVE} not above chance; {NOT_CLEAR} not above the majority class; {FALLEN} a collapse"


def marks(scores: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """scores with label, majority (%), above, clear, collapsed and mark: what may be said of each score.

    above: `statistics.above_chance`; clear: above the majority class as well. A score that is not clear,
    or collapsed, is no result: it is never bold and never the best.
    """
    levels, fallen = results.levels(scores, items), results.fallen(scores, items)
    majority = scores["task"].map(levels).astype(float)
    above = statistics.above_chance(scores["ci_low"], scores["chance"])
    clear = statistics.above_chance(scores["ci_low"], majority.fillna(0).clip(lower=scores["chance"]))
    models = zip(scores["method"], scores["ct_tokens"], strict=True)
    return scores.assign(
        label=[model_label(method, int(tokens)) for method, tokens in models],
        majority=majority,
        above=above,
        clear=clear,
        collapsed=[pair in fallen for pair in zip(scores["model"], scores["task"], strict=True)],
        mark=np.where(~above, NOT_ABOVE, np.where(~clear, NOT_CLEAR, "")),
    )


def marked_values(marked: pd.DataFrame) -> pd.Series:
    """The scores of `marks` as text with what is said of each: "31.2°✕"."""
    fallen = marked["collapsed"].map({True: FALLEN, False: ""})
    return marked["value"].map("{:.1f}".format) + marked["mark"] + fallen


def options_text(row: dict[str, Any]) -> str:
    """The options of a row of choices.csv as a reader sees them: "density 0.5, λ 1"."""
    named = {x: row[k] for k, x in option_labels(row["method"]).items() if k in row and pd.notna(row[k])}
    return ", ".join(f"{x} {value if isinstance(value, str) else f'{value:g}'}" for x, value in named.items())


def option_labels(method: str) -> dict[str, str]:
    """The options of a method as a reader sees them: {"density": "density", "lam": "λ"}."""
    if method in TRAINED:
        return SFT_OPTIONS
    return {name: option.label or name for name, option in find(method).fields().items()}


def choices_by_arm(paths: RunPaths) -> dict[str, pd.DataFrame]:
    """choices.csv of every arm, with method and ct_tokens: SFT-en, CT-then-SFT, the merges.

    Without those of which nothing was chosen here: given weights, and SFT of runs of older versions.
    """
    budgets = paths.study.ct_budgets if paths.study.trains else []
    folders = {("sft", 0): paths.sft} | {("ct_then_sft", b): paths.ct_then_sft(b) for b in budgets}
    found: dict[str, list[pd.DataFrame]] = {}
    for (arm, budget), folder in folders.items():
        if (table := read_sft_choices(folder)) is not None:
            found.setdefault(arm, []).append(table.assign(method=arm, ct_tokens=budget))
    arms = {arm: pd.concat(tables, ignore_index=True) for arm, tables in found.items()}
    return arms | {method: read_choices(paths, method) for method in paths.study.methods}


def tried_by_arm(paths: RunPaths) -> dict[str, Tried]:
    """How many candidates of every arm were tried on dev; of what was trained without a choice one."""
    one, arms = Tried(1, 1), choices_by_arm(paths)
    trained = ("sft", "ct_then_sft") if paths.study.trains else ()
    sizes = {arm: int(arms[arm].groupby("ct_tokens").size().max()) for arm in trained if arm in arms}
    found = {arm: Tried(sizes[arm], sizes[arm]) if arm in sizes else one for arm in trained}
    return found | {method: tried(paths, method) for method in paths.study.methods}


def dev_and_test(paths: RunPaths, items: pd.DataFrame) -> pd.DataFrame:
    """Of every arm's chosen candidate: its dev score, and the test score of the same model on the same tasks.

    Columns: method, ct_tokens, options, searched (what differs between the candidates), tried (candidates,
    those of the method before it included), search (the same in words), tied, default (dev score of the fixed
    default), dev_tasks, dev, n_dev, test, ci_low, ci_high, n_test, chance, optimism (dev - test), low, high
    (its 95% interval, normal; dev and test hold other items). The best of several on dev is expected to look
    better there than it is. NaN are: default, where it is not among the candidates; test, where choices.csv
    does not say which tasks chose, or none of them is tested; dev of a single candidate of SFT.
    """
    rows, searches = [], tried_by_arm(paths)
    for method, choices in choices_by_arm(paths).items():
        found = searches.get(method, Tried(1, 1))
        for budget, table in choices.groupby("ct_tokens"):
            row = table[table["chosen"]].iloc[0].to_dict()
            own = items[(items["method"] == method) & (items["ct_tokens"] == budget)]
            head = {"method": method, "ct_tokens": budget, "options": options_text(row)}
            head |= {"searched": _searched(method, table), "tried": found.before + found.own}
            head |= {"search": str(found), "tied": row["tied"], "default": _default(table)}
            rows.append(head | _dev_test(row, own))
    return pd.DataFrame(rows)


def _searched(method: str, table: pd.DataFrame) -> str:
    """What differs between the candidates of one budget."""
    names = [label for k, label in option_labels(method).items() if k in table and table[k].nunique() > 1]
    return ", ".join(names) or "nothing"


def _default(table: pd.DataFrame) -> float:
    """The dev score of the fixed default; older tables do not name it."""
    scores = table.loc[table["default"].astype(bool), "dev_score"] if "default" in table else pd.Series()
    return float(scores.iloc[0]) if len(scores) else float("nan")


def _dev_test(row: dict[str, Any], items: pd.DataFrame) -> dict[str, Any]:
    tasks = row["dev_tasks"].split() if isinstance(row.get("dev_tasks"), str) else []
    right = [items.loc[items["task"] == task, "correct"].to_numpy(float) for task in tasks]
    found = {"dev_tasks": " ".join(tasks), "dev": row["dev_score"], "n_dev": int(row["n"])}
    found |= {"chance": row.get("chance", np.nan)}
    if not tasks or not all(map(len, right)):
        return found | dict.fromkeys(
            ("test", "ci_low", "ci_high", "n_test", "optimism", "low", "high"), np.nan
        )
    test = 100 * float(np.mean([values.mean() for values in right]))
    low, high = (100 * end for end in statistics.interval([right]))
    optimism = row["dev_score"] - test
    margin = 1.96 * float(np.hypot(_dev_error(row, len(tasks)), (high - low) / 3.92))
    found |= {"test": test, "ci_low": low, "ci_high": high, "n_test": sum(map(len, right))}
    return found | {"optimism": optimism, "low": optimism - margin, "high": optimism + margin}


def _dev_error(row: dict[str, Any], tasks: int) -> float:
    """Standard error of a dev score; older choices.csv do not hold it: then as of equal tasks."""
    if pd.notna(error := row.get("dev_error", np.nan)):
        return float(error)
    return on_dev.standard_error([row["dev_score"]] * tasks, [row["n"] / tasks] * tasks)


def detectable_differences(items: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The true difference that two models need to be told apart, for every baseline and task.

    items: of `results.gather`; table: of `comparisons.compare_methods`. Columns: baseline, task, n,
    discordant (percent of the items that only one of the two has right, over all models compared),
    comparisons (in Holm's family), points (found at p < 0.05 with 80% power, no correction), points_holm
    (at the strictest step of Holm's correction). NaN where no difference would do.
    """
    right, rows = comparisons.right_answers(items), []
    families = table["task"].map(comparisons.family)
    for (baseline, task), own in table.groupby(["baseline", "task"], sort=False):
        family = int(((table["baseline"] == baseline) & (families == comparisons.family(task))).sum())
        pairs = [
            tuple(right[comparisons.at_budget(right, name, tokens)] for name in (method, baseline))
            for method, tokens in own[["method", "ct_tokens"]].itertuples(index=False)
        ]
        tasks = results.means_of(pairs[0][0]).get(task, [task])
        sizes = [len(pairs[0][0][t]) for t in tasks]
        share = float(np.mean([_discordant([(a[t], b[t]) for t in tasks]) for a, b in pairs]))
        found = [_points(_worth(sizes), share, alpha) for alpha in (0.05, 0.05 / family)]
        head = {"baseline": baseline, "task": task, "n": sum(sizes), "discordant": 100 * share}
        rows.append(head | {"comparisons": family, "points": found[0], "points_holm": found[1]})
    return pd.DataFrame(rows)


def detectable_points(pairs: Sequence[tuple[pd.Series, pd.Series]], alpha: float) -> float:
    """The true difference in points that the items of one run find with 80% power; NaN where none would do.

    pairs: what two models have right of each task, the same items; several tasks: of their mean.
    """
    return _points(_worth([len(a) for a, _ in pairs]), _discordant(pairs), alpha)


def _worth(sizes: Sequence[int]) -> int:
    """Items that the mean of tasks of these sizes is worth: tasks count alike."""
    return round(len(sizes) ** 2 / sum(1 / n for n in sizes))


def _discordant(pairs: Sequence[tuple[pd.Series, pd.Series]]) -> float:
    """The share of items that only one of two has right; of shares right their mean squared difference."""
    return float(np.mean([((a - b) ** 2).mean() for a, b in pairs]))


def _points(n: int, share: float, alpha: float) -> float:
    if not share:
        return float("nan")
    return 100 * statistics.minimum_detectable_difference(n, discordant=share, alpha=alpha)
