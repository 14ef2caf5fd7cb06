"""X beside English: which scores are taken, and which models are on the front of their budget."""

from __future__ import annotations

import pandas as pd

from lrnb import figures
from lrnb.analysis import english

POINTS = {  # (in X, in English) of the models, by budget
    ("base", 0): (30, 40),
    ("sft", 0): (40, 80),
    ("ct_then_sft", 8): (50, 78),
    ("average", 8): (50, 78),  # as good in both: neither beats the other
    ("ties", 8): (49, 77),
    ("ct", 8): (55, 41),
    ("ct_then_sft", 16): (60, 81),
    ("ties", 16): (58, 81),  # beaten in X, level in English
}


def scores(single: bool = False) -> pd.DataFrame:
    """Two tasks in X and in English with their means; single: only one in English, and no mean of it."""
    rows = []
    for (method, tokens), values in POINTS.items():
        tasks = {"a": values[0] - 1, "b": values[0] + 1, "mean": values[0], "a_en": values[1]}
        tasks |= {} if single else {"a_en": values[1] - 1, "b_en": values[1] + 1, "mean_en": values[1]}
        head = {"model": f"{method}@{tokens}", "method": method, "ct_tokens": tokens, "n": 10, "chance": 25.0}
        rows += [
            head | {"task": task, "value": float(value), "ci_low": value - 2.0, "ci_high": value + 2.0}
            for task, value in tasks.items()
        ]
    return pd.DataFrame(rows)


def test_the_front_of_a_budget_is_what_no_other_arm_there_beats() -> None:
    table = english.in_both(scores()).set_index("model")
    assert list(zip(table["value"], table["value_en"], strict=True)) == list(POINTS.values())
    on_it = table.index[table["front"]].tolist()
    assert on_it == ["sft@0", "ct_then_sft@8", "average@8", "ct@8", "ct_then_sft@16"]
    fronts = english.fronts(table.reset_index())
    assert {budget: rows["model"].tolist() for budget, rows in fronts.items()} == {
        8: ["ct@8", "ct_then_sft@8", "average@8", "sft@0"],
        16: ["ct_then_sft@16"],
    }


def test_a_single_task_in_english_stands_for_itself_and_none_gives_no_rows() -> None:
    assert english.in_both(scores(single=True))["value_en"].tolist() == [y for _, y in POINTS.values()]
    none = scores()[lambda rows: ~rows["task"].str.endswith("_en")]
    assert len(english.in_both(none)) == 0


def test_the_figure_has_a_plot_a_budget_and_models_without_ct_in_each() -> None:
    fig = figures.front(english.in_both(scores()))
    assert [a.text for a in fig.layout.annotations] == ["8 CT tokens", "16 CT tokens"]
    named = [(trace.legendgroup, trace.xaxis) for trace in fig.data if trace.mode == "markers"]
    assert sorted(axis for method, axis in named if method == "sft") == ["x", "x2"]
    assert len(named) == len(POINTS) + 2
    lines = [trace for trace in fig.data if trace.legendgroup == "front"]
    assert list(lines[0].x)[1:-1] == [41, 78, 78, 80]
    assert list(lines[0].y)[1:-1] == [55, 50, 50, 40]
    assert [trace.showlegend for trace in fig.data if trace.legendgroup == "ties"] == [True, False]
    assert len(fig.layout.shapes) == 4  # chance in X and in English
    low, high = fig.layout.yaxis.range
    assert low < 25 and high > 62
    assert "n = 10 and 10 items" in fig.layout.title.text
