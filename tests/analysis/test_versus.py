"""Comparisons of any scores: documents matched by what they are, hand-worked cases, noise of training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lrnb import statistics
from lrnb.analysis.answered import Answered, all_means, answered_items
from lrnb.analysis.versus import versus
from lrnb.errors import UserError


def trainings(side: str, seed: int, n: int = 3, items: int = 60, own: bool = False) -> list[Answered]:
    """Random answers of some trainings to one task, to the same documents or to each its own."""
    rng, found = np.random.default_rng([seed, *side.encode()]), []
    for k in range(n):
        documents = [f"{k}.{i}" if own else str(i) for i in range(items)]
        found.append(of(side, t=answers([*rng.integers(0, 2, items).astype(float)], documents)))
    return found


def answers(right: list[float], documents: list[str] | None = None, prompt: str = "p") -> pd.DataFrame:
    documents = documents or [str(i) for i in range(len(right))]
    return pd.DataFrame({"document": documents, "prompt": prompt, "correct": right})


def of(source: str, metric: str = "acc", **tasks: pd.DataFrame) -> Answered:
    return Answered(source, tasks, dict.fromkeys(tasks, metric))


def test_ten_items_worked_out_by_hand() -> None:
    """5 that only b has right, 1 that only a has: +40 points; McNemar's exact p = 2 (1 + 6) / 2^6."""
    a = of("a", t=answers([1, 0, 0, 0, 0, 0, 1, 1, 0, 0]))
    b = of("b", t=answers([0, 1, 1, 1, 1, 1, 1, 1, 0, 0]))
    row = versus({"a": [a], "b": [b]}).iloc[0]
    assert (row["score_baseline"], row["score"], row["difference"]) == pytest.approx((30, 70, 40))
    assert row["p"] == row["p_holm"] == pytest.approx(14 / 64)
    assert (row["n"], row["seeds"], row["noise"], row["verdict"]) == (
        10,
        1,
        "items only",
        "not distinguishable",
    )


def test_what_is_at_chance_on_both_sides_is_no_result_in_its_language() -> None:
    """In X the worse side has 50% of 40 items of chance 50%, the better one 58%; in English both 90%."""
    low, high = [1.0, 0.0] * 20, [1.0] * 3 + [1.0, 0.0] * 17 + [1.0] * 3
    sides = {}
    for name, right in (("a", low), ("b", high)):
        one = of(name, t=answers(right), t_en=answers([1.0] * 36 + [0.0] * 4))
        sides[name] = [Answered(name, one.tasks, one.metrics, {"t": 50.0, "t_en": 50.0})]
    table = versus(sides).set_index("task")
    assert table["verdict"].to_dict() == {"t": "no result", "t_en": "not distinguishable"}
    assert table["why"].to_dict() == {"t": "No score in X is above chance", "t_en": ""}
    sides["b"][0].tasks["t"] = answers([1.0] * 36 + [0.0] * 4)
    assert versus(sides)["verdict"].iloc[0] == "above, items only"  # one side that knows something is enough
    sides["b"][0].chances.clear()
    sides["a"][0].chances.clear()
    assert not versus(sides)["why"].any()  # not known: nothing is said of it


def test_documents_are_matched_by_what_they_are() -> None:
    a = of("a", t=answers([1, 1, 0, 0], ["w", "x", "y", "only a"]))
    b = of("b", t=answers([0, 1, 1], ["y", "x", "w"]))  # in another order: equal on all three
    row = versus({"a": [a], "b": [b]}).iloc[0]
    assert (row["n"], row["difference"], row["only_baseline"], row["only_model"]) == (3, 0, 1, 0)
    twice = of("c", t=answers([1, 0, 1], ["x", "x", "w"]))  # the same document twice
    row = versus({"a": [twice], "b": [twice]}).iloc[0]
    assert (row["n"], row["difference"]) == (3, 0)


def test_other_prompts_match_only_where_documents_alone_are_asked_for() -> None:
    a, b = of("a", t=answers([1, 0])), of("b", t=answers([1, 1], prompt="another"))
    with pytest.raises(
        UserError, match="same documents of t were asked with other prompts.*--match document"
    ):
        versus({"a": [a], "b": [b]})
    assert versus({"a": [a], "b": [b]}, match="document")["difference"].tolist() == [50]


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (of("b", t=answers([1, 0], ["5", "6"])), "a and b: no document of t was answered by both"),
        (of("b", u=answers([1, 0])), "no task in common: t against u"),
        (of("b", "acc_norm", t=answers([1, 0])), "t: not scored alike: acc_norm in b, acc in a"),
    ],
)
def test_what_cannot_be_compared_is_refused(b: Answered, message: str) -> None:
    with pytest.raises(UserError, match=message):
        versus({"a": [of("a", t=answers([1, 0]))], "b": [b]})


def test_numbers_of_trainings_that_do_not_go_together_are_refused() -> None:
    one = of("x", t=answers([1, 0]))
    with pytest.raises(UserError, match="b has 3 trainings and a 2"):
        versus({"a": [one] * 2, "b": [one] * 3})
    with pytest.raises(UserError, match="two models or more"):
        versus({"a": [one]})


def deltas(made: dict[str, list[Answered]]) -> list[list[pd.Series]]:
    pairs = zip(made["b"], made["a"], strict=True)
    return [[b.tasks["t"]["correct"] - a.tasks["t"]["correct"]] for b, a in pairs]


def test_seeds_and_items_are_crossed() -> None:
    made = {side: trainings(side, seed=0) for side in "ab"}
    row = versus(made).iloc[0]
    wanted = statistics.over_seeds(deltas(made), shared=True)
    assert row[["difference", "ci_low", "ci_high"]].tolist() == pytest.approx([100 * x for x in wanted[:3]])
    assert (row["p"], row["noise"], row["seeds"]) == (pytest.approx(wanted.p), "items and training", 3)
    single = versus({"a": made["a"][:1], "b": made["b"]}).iloc[0]
    assert (single["noise"], single["seeds"]) == ("items and training of b", 3)


def test_seeds_with_documents_of_their_own_are_nested() -> None:
    made = {side: trainings(side, seed=1, n=2, own=True) for side in "ab"}
    wanted = statistics.over_seeds(deltas(made), shared=False)
    assert versus(made).iloc[0]["p"] == pytest.approx(wanted.p)
    assert wanted.p != pytest.approx(statistics.over_seeds(deltas(made), shared=True).p)


def test_what_is_called_detectable_is_found_four_times_in_five() -> None:
    """Over 3 trainings: differences of that size, drawn with the spread that the samples have."""
    rng, found, sizes = np.random.default_rng(2), [], []
    for _ in range(300):
        samples = [[pd.Series(rng.normal(0.1, 0.02) + rng.normal(0, 0.05, 50))] for _ in range(3)]
        sizes.append(statistics.detectable_over_seeds(samples, shared=False))
    for _ in range(300):
        true = np.mean(np.square(sizes)) ** 0.5
        samples = [[pd.Series(true + rng.normal(0, 0.02) + rng.normal(0, 0.05, 50))] for _ in range(3)]
        found.append(statistics.over_seeds(samples, shared=False, bounds=(-np.inf, np.inf)).p < 0.05)
    assert 0.7 < np.mean(found) < 0.9


def test_means_and_holm_run_over_all_tasks_where_names_say_no_language() -> None:
    one = {task: {side: trainings(side, seed)[0].tasks["t"] for side in "ab"}
           for seed, task in enumerate(("x_en", "x_fr"))}  # fmt: skip
    sides = {side: [of(side, **{task: one[task][side] for task in one})] for side in "ab"}
    table = versus(sides, means=all_means).set_index("task")
    assert list(table.index) == ["x_en", "x_fr", "mean"]
    assert table["difference"]["mean"] == pytest.approx(table["difference"].iloc[:2].mean())
    p = table["p"].iloc[:2]
    assert table["p_holm"].iloc[:2].tolist() == pytest.approx(statistics.holm(p).tolist())
    assert table["p_holm"]["mean"] == table["p"]["mean"]


def test_items_of_a_package_before_this_one_are_refused() -> None:
    with pytest.raises(UserError, match="items has no context: an earlier version"):
        answered_items(pd.DataFrame({"gold": [], "options": [], "correct": []}), "items")
