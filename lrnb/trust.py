"""What scores can carry: which are results at all, what choosing on dev cost, what can be told apart.

Tables only, in percent; nothing here needs torch. docs/statistics.md says why each rule was chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lrnb import choose, stats, summary
from lrnb.choose import SEARCHED, read_choices
from lrnb.store import RunPaths
from lrnb.style import MERGED

NOT_ABOVE, NOT_CLEAR = "°", "ᵐ"  # marks beside a score: not above chance; not above the majority class
SYMBOLS = {"density": "density", "lam": "λ", "slack": "slack ρ", "alpha": "α"}


def marks(scores: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """scores with majority (%), above, clear, collapsed and mark: what may be said of each score.

    above: `stats.above_chance`; clear: above the majority class as well. A score that is not clear,
    or collapsed, is no result: it is never bold and never the best.
    """
    levels, fallen = summary.levels(scores, items), summary.fallen(scores, items)
    majority = scores["task"].map(levels).astype(float)
    above = stats.above_chance(scores["ci_low"], scores["chance"])
    clear = stats.above_chance(scores["ci_low"], majority.fillna(0).clip(lower=scores["chance"]))
    return scores.assign(
        majority=majority,
        above=above,
        clear=clear,
        collapsed=[pair in fallen for pair in zip(scores["model"], scores["task"], strict=True)],
        mark=np.where(~above, NOT_ABOVE, np.where(~clear, NOT_CLEAR, "")),
    )


def options_text(row: dict[str, Any]) -> str:
    """The options of a candidate as a reader sees them: "density 0.5, λ 1"."""
    return ", ".join(f"{SYMBOLS[k]} {row[k]:g}" for k in SYMBOLS if k in row and pd.notna(row[k]))


def dev_and_test(paths: RunPaths, items: pd.DataFrame) -> pd.DataFrame:
    """Of every chosen candidate: its dev score, and the test score of the same model on the same tasks.

    Columns: method, ct_tokens, options, tried, dev_tasks, dev, n_dev, test, ci_low, ci_high, n_test,
    chance, optimism (dev - test), low, high (its 95% interval, normal; dev and test hold other
    items). The best of several on dev is expected to look better there than it is. test is NaN
    where choices.csv does not say which tasks chose.
    """
    rows = []
    for method in SEARCHED:
        table = read_choices(paths, method)
        tried = table.groupby("ct_tokens").size()
        for row in table[table["chosen"]].to_dict("records"):
            own = items[(items["method"] == method) & (items["ct_tokens"] == row["ct_tokens"])]
            head = {"method": method, "ct_tokens": row["ct_tokens"], "options": options_text(row)}
            rows.append(head | {"tried": int(tried[row["ct_tokens"]])} | _dev_test(row, own))
    return pd.DataFrame(rows)


def _dev_test(row: dict[str, Any], items: pd.DataFrame) -> dict[str, Any]:
    tasks = str(row.get("dev_tasks", "")).split()
    right = [items.loc[items["task"] == task, "correct"].to_numpy(float) for task in tasks]
    found = {"dev_tasks": " ".join(tasks), "dev": row["dev_score"], "n_dev": int(row["n"])}
    found |= {"chance": row.get("chance", np.nan)}
    if not tasks or not all(map(len, right)):
        return found | dict.fromkeys(
            ("test", "ci_low", "ci_high", "n_test", "optimism", "low", "high"), np.nan
        )
    test = 100 * float(np.mean([values.mean() for values in right]))
    low, high = (100 * end for end in stats.hierarchical_interval([right]))
    optimism = row["dev_score"] - test
    margin = 1.96 * float(np.hypot(_dev_error(row, len(tasks)), (high - low) / 3.92))
    found |= {"test": test, "ci_low": low, "ci_high": high, "n_test": sum(map(len, right))}
    return found | {"optimism": optimism, "low": optimism - margin, "high": optimism + margin}


def _dev_error(row: dict[str, Any], tasks: int) -> float:
    """Standard error of a dev score; older choices.csv do not hold it: then as of equal tasks."""
    if pd.notna(error := row.get("dev_error", np.nan)):
        return float(error)
    return choose.standard_error([row["dev_score"]] * tasks, [row["n"] / tasks] * tasks)


def detectable(items: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The true difference that two models need to be told apart, for every baseline and task.

    items: of `summary.gather`; table: of `summary.compare`. Columns: baseline, task, n, discordant
    (percent of the items that only one of the two has right, over all models compared), comparisons
    (in Holm's family), points (found at p < 0.05 with 80% power, no correction), points_holm (at the
    strictest step of Holm's correction). NaN where no difference would do.
    """
    rows = []
    for baseline, part in table.groupby("baseline", sort=False):
        right = _right(items, str(baseline))
        for task, own in part.groupby("task", sort=False):
            family = int((summary.kinds(part["task"]) == summary.kinds(own["task"]).iloc[0]).sum())
            tasks = [t for t in right if summary.belongs(t, str(task))]
            n, worth, share = _sizes([right[t] for t in tasks], str(baseline), sorted(set(own["method"])))
            found = [_points(worth, share, alpha) for alpha in (0.05, 0.05 / family)]
            head = {"baseline": baseline, "task": task, "n": n, "discordant": 100 * share}
            rows.append(head | {"comparisons": family, "points": found[0], "points_holm": found[1]})
    return pd.DataFrame(rows)


def _right(items: pd.DataFrame, baseline: str) -> dict[str, pd.DataFrame]:
    """task -> right or wrong, one row per budget and item, one column per method."""
    rows = items[items["method"].isin(MERGED)] if baseline == "ties" else summary.beside(items, baseline)
    keys = ["ct_tokens", "item"]
    return {
        str(task): part.pivot_table(index=keys, columns="method", values="correct").astype(float)
        for task, part in rows.groupby("task", sort=False)
    }


def _sizes(right: list[pd.DataFrame], baseline: str, methods: list[str]) -> tuple[int, int, float]:
    """(items, items that the mean is worth, share of discordant items); every task counts alike."""
    sizes = np.array([part.index.get_level_values("item").nunique() for part in right])
    both = [part[[*methods, baseline]].dropna() for part in right]
    apart = [part[methods].ne(part[baseline], axis=0).to_numpy().mean() for part in both]
    return int(sizes.sum()), round(len(sizes) ** 2 / (1 / sizes).sum()), float(np.mean(apart))


def _points(n: int, share: float, alpha: float) -> float:
    if not share:
        return float("nan")
    return 100 * stats.minimum_detectable_difference(n, discordant=share, alpha=alpha)
