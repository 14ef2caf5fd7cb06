"""What every arm keeps of English beside what it does in X, and which arms no other beats in both."""

from __future__ import annotations

import pandas as pd

from lrnb.analysis.results import MEAN_EN, headline

SCORE = ["value", "ci_low", "ci_high", "chance", "n"]


def in_both(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a model: model, method, ct_tokens; value, ci_low, ci_high, chance, n of the mean in X, and with
    `_en` of that in English (or of the only task there); front. No rows where English is not scored.

    front: of the models of the same budget and of those that saw no CT tokens none is at least as good in
    both languages and better in one. A model without CT is on it where it is at any budget.
    """
    tasks = list(dict.fromkeys(scores["task"]))
    english = [task for task in (MEAN_EN, *tasks) if task in tasks and task.endswith("_en")]
    keys = ["model", "method", "ct_tokens"]
    own = scores.loc[scores["task"] == headline(scores), keys + SCORE]
    other = scores.loc[scores["task"] == next(iter(english), None), ["model", *SCORE]]
    table = own.merge(other, on="model", suffixes=("", "_en"))
    ahead = [_ahead(table[table["ct_tokens"].isin([0, budget])]) for budget in _budgets(table)]
    return table.assign(front=table["model"].isin([model for models in ahead for model in models]))


def _budgets(table: pd.DataFrame) -> list[int]:
    return sorted(set(table["ct_tokens"]) - {0}) or [0]


def _ahead(rows: pd.DataFrame) -> list[str]:
    """The models that none of the others dominates."""
    points = rows[["value", "value_en"]].to_numpy()
    beaten = [bool(((points >= one).all(1) & (points > one).any(1)).any()) for one in points]
    return rows.loc[[not lost for lost in beaten], "model"].tolist()


def fronts(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of `in_both` on the front of every CT budget, by their score in English."""
    found = {}
    for budget in _budgets(table):
        rows = table[table["ct_tokens"].isin([0, budget])]
        found[budget] = rows[rows["model"].isin(_ahead(rows))].sort_values(["value_en", "value"])
    return found
