"""No rule on the surface solves a task of the micro-world: each stays within 5 points of chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from lrnb.data import microworld

Row = dict[str, Any]
Rule = Callable[[Row, str], Sequence[float]]  # an item, its context -> a value for each option; largest wins
ITEMS, CHANCE, MARGIN = 2000, 25, 5  # items a task, percent, points


def context(row: Row) -> str:
    return " ".join(row.get(key, "") for key in ("text", "passage", "context", "question")).strip()


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split() if word.isdigit()]


def near(wanted: float) -> Callable[[str], float]:
    return lambda option: -abs(int(option) - wanted)


def overlap(option: str, text: str) -> float:
    return len(set(option.split()) & set(text.split()))


def copies(option: str, text: str) -> float:
    return sum((Counter(option.split()) & Counter(text.split())).values())


def pairs(text: str) -> set[tuple[str, str]]:
    return set(pairwise(text.split()))


RULES: dict[str, Rule] = {
    "longest": lambda row, text: [len(o) for o in row["options"]],
    "shortest": lambda row, text: [-len(o) for o in row["options"]],
    "most words": lambda row, text: [len(o.split()) for o in row["options"]],
    "in the context": lambda row, text: [o in text for o in row["options"]],
    "not in the context": lambda row, text: [o not in text for o in row["options"]],
    "most overlap": lambda row, text: [overlap(o, text) for o in row["options"]],
    "least overlap": lambda row, text: [-overlap(o, text) for o in row["options"]],
    "most words in common": lambda row, text: [copies(o, text) for o in row["options"]],
    "most pairs of words in common": lambda row, text: [len(pairs(o) & pairs(text)) for o in row["options"]],
    "said first": lambda row, text: [-text.find(o.split()[-1]) for o in row["options"]],
    "said last": lambda row, text: [text.rfind(o.split()[-1]) for o in row["options"]],
    "most like the question": lambda row, text: [overlap(o, row.get("question", "")) for o in row["options"]],
    "first option": lambda row, text: [1, 0, 0, 0],
    "last option": lambda row, text: [0, 0, 0, 1],
}
ON_NUMBERS: dict[str, Callable[[list[int]], float]] = {
    "sum": sum, "difference": lambda n: n[0] - sum(n[1:]), "first": lambda n: n[0], "last": lambda n: n[-1],
    "largest": max, "smallest": min, "other difference": lambda n: abs(n[0] - n[-1]),
    "mean": lambda n: sum(n) / len(n), "nothing": lambda n: 0, "much": lambda n: 99,
}  # fmt: skip


def solved(rows: list[Row], rule: Rule) -> float:
    """Percent right; where several options have the largest value, one of them by chance."""
    right = 0.0
    for row in rows:
        values = rule(row, context(row))
        best = [i for i, value in enumerate(values) if value == max(values)]
        right += (row["answer"] in best) / len(best)
    return 100 * right / len(rows)


@pytest.fixture(scope="module", params=["en", "qaa"])
def items(request) -> dict[str, list[Row]]:
    world = microworld.make_world(seed=100)
    return {
        task: microworld.world_items(world, task, request.param, "test", ITEMS) for task in microworld.TASKS
    }


@pytest.mark.parametrize("name", RULES)
def test_no_rule_on_words_solves_a_task(items: dict[str, list[Row]], name: str) -> None:
    found = {task: solved(rows, RULES[name]) for task, rows in items.items()}
    assert max(found.values()) <= CHANCE + MARGIN, found


@pytest.mark.parametrize("name", ON_NUMBERS)
def test_no_rule_on_the_numbers_solves_the_sums(items: dict[str, list[Row]], name: str) -> None:
    def rule(row: Row, text: str) -> list[float]:
        return [*map(near(ON_NUMBERS[name](numbers(text))), row["options"])]

    assert solved(items["sums"], rule) <= CHANCE + MARGIN


@pytest.mark.parametrize("task", microworld.TASKS)
def test_the_most_frequent_answer_of_the_training_rows_is_not_right_more_often(task: str) -> None:
    world = microworld.make_world(seed=100)
    seen = microworld.world_items(world, task, "en", "train", 1600)
    counts = Counter(row["options"][row["answer"]] for row in seen)
    asked = microworld.world_items(world, task, "en", "test", ITEMS)
    assert solved(asked, lambda row, text: [counts[o] for o in row["options"]]) <= CHANCE + MARGIN


@pytest.mark.parametrize("task", microworld.TASKS)
def test_options_alone_do_not_tell_the_answer(task: str) -> None:
    """A naive Bayes over the words of an option and its rank by length, learned from 1,600 items."""
    world = microworld.make_world(seed=100)
    seen = microworld.world_items(world, task, "en", "train", 1600)
    asked = microworld.world_items(world, task, "en", "test", ITEMS)
    counts = {right: Counter() for right in (True, False)}

    def features(row: Row, option: str) -> list[str]:
        rank = sorted(map(len, row["options"])).index(len(option))
        others = " ".join(row["options"]).split()
        return [*option.split(), f"rank {rank}", f"said {max(map(others.count, option.split()))}"]

    for row in seen:
        for i, option in enumerate(row["options"]):
            counts[i == row["answer"]].update(features(row, option))

    def rule(row: Row, text: str) -> list[float]:
        return [
            sum(math.log((counts[True][f] + 1) / (counts[False][f] + 1)) for f in features(row, o))
            for o in row["options"]
        ]

    assert solved(asked, rule) <= CHANCE + MARGIN
