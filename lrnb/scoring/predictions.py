"""What models answer: how often each answer comes, the majority level, collapse to one answer.

Everything is counted from items (ITEM_COLUMNS of `lrnb.scoring.evaluate`); nothing here needs torch.
"""

from __future__ import annotations

import pandas as pd

CLASSES = 12  # a task with more different answers than this is shown by position
UNPARSED = "(nothing parsed)"  # a generated answer in which no answer was found
COLLAPSED = 0.6  # share of items with one answer above which a model may be called collapsed


def answers(items: pd.DataFrame, task: str) -> pd.DataFrame:
    """items of one task with columns `said` and `truth`: the class, or the position of the option.

    The options of a task without fixed classes differ from item to item; what can be counted there
    is whether a model always takes, say, the first one. Generated answers stand for themselves.
    """
    part = items[items["task"] == task]
    if generated(part).any():
        said = part["prediction"].astype(str).replace("", UNPARSED)
        return part.assign(said=said, truth=part["gold"].astype(str))
    if not _has_classes(part):
        place = [[str(o) for o in options] for options in part["options"]]
        said = [f"option {p.index(str(x)) + 1}" for p, x in zip(place, part["prediction"], strict=True)]
        gold = [f"option {p.index(str(x)) + 1}" for p, x in zip(place, part["gold"], strict=True)]
        return part.assign(said=said, truth=gold)
    return part.assign(said=part["prediction"].astype(str), truth=part["gold"].astype(str))


def generated(items: pd.DataFrame) -> pd.Series:
    """Whether each item was answered by writing: it had no options to choose from."""
    return items["options"].map(len) == 0


def _has_classes(part: pd.DataFrame) -> bool:
    """Whether every item offers the same few named classes (indices are positions, not names)."""
    sets = {tuple(sorted(map(str, options))) for options in part["options"]}
    first = next(iter(sets))
    return len(sets) == 1 and 0 < len(first) <= CLASSES and not all(o.isdecimal() for o in first)


def predicted(items: pd.DataFrame, task: str) -> pd.DataFrame:
    """How often each model gives each answer: one row a model, first row the truth.

    Of more than CLASSES different answers the rarer ones are counted as one, "(other)".
    """
    part = answers(items, task)
    first = part[part["model"] == part["model"].iloc[0]]
    counts = pd.crosstab(part["model"], part["said"]).reindex(part["model"].unique())
    truth = first["truth"].value_counts().to_frame("truth").T
    table = pd.concat([truth, counts]).fillna(0).astype(int)
    return _few(table[sorted(table.columns)])


def _few(table: pd.DataFrame) -> pd.DataFrame:
    if table.shape[1] <= CLASSES:
        return table
    common = table.sum().sort_values(ascending=False, kind="stable").index[: CLASSES - 1]
    rest = table.drop(columns=common).sum(axis=1)
    return table[sorted(common)].assign(**{"(other)": rest})


def majorities(items: pd.DataFrame) -> dict[str, float]:
    """task -> percent right for always giving the most frequent answer; tasks with classes only."""
    found = {}
    for task, part in items.groupby("task", sort=False):
        if _has_classes(part):
            one = part[part["model"] == part["model"].iloc[0]]
            found[str(task)] = 100 * float(one["gold"].value_counts(normalize=True).iloc[0])
    return found


def collapsed(items: pd.DataFrame) -> pd.DataFrame:
    """Per model and task the most frequent answer and its share, beside the most frequent truth.

    Columns: model, task, n, top, top_share (%), majority, majority_share (%), collapsed: one answer
    takes more than COLLAPSED of the items and more than the truth gives to any. A collapsed score
    says nothing about the ability.
    """
    rows = []
    for task in dict.fromkeys(items["task"]):
        for model, own in answers(items, task).groupby("model", sort=False):
            share = own["said"].value_counts(normalize=True)
            most = own["truth"].value_counts(normalize=True)
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "n": len(own),
                    "top": share.index[0],
                    "top_share": 100 * share.iloc[0],
                    "majority": most.index[0],
                    "majority_share": 100 * most.iloc[0],
                    "collapsed": bool(share.iloc[0] > max(COLLAPSED, most.iloc[0])),
                }
            )
    columns = ["model", "task", "n", "top", "top_share", "majority", "majority_share", "collapsed"]
    return pd.DataFrame(rows, columns=columns).astype({"collapsed": bool})
