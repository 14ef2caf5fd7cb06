"""Where merging and training on top cross: known lines, one run, several seeds, languages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lrnb.analysis import crossing
from lrnb.analysis.comparisons import Right
from lrnb.analysis.crossing import AHEAD, BEHIND, CROSSES, UNKNOWN
from lrnb.analysis.languages import Run
from lrnb.study.parameters import Study

BUDGETS = [16_384, 65_536, 262_144]


def made_right(leads: list[float], seed: int = 0, n: int = 1500, budgets: list[int] = BUDGETS) -> Right:
    """CT-then-SFT right half of the time, TIES more often by `leads`, on the same items."""
    rng, right = np.random.default_rng(seed), {}
    for budget, lead in zip(budgets, leads, strict=True):
        drawn = {task: rng.random(n) for task in ("topic", "sums")}
        ends = {"ct_then_sft": 0.5, "ties": 0.5 + lead}
        for method, level in ends.items():
            tasks = {task: pd.Series((x < level).astype(float)) for task, x in drawn.items()}
            right[method, budget] = tasks | {"topic_en": pd.Series(np.ones(n))}
    return right


@pytest.mark.parametrize("seeds", [1, 4])
def test_a_falling_lead_crosses_where_it_was_put(seeds: int) -> None:
    runs = [made_right([0.1, 0.0, -0.1], seed) for seed in range(seeds)]
    (row,) = crossing.crossings(runs).to_dict("records")
    assert row["says"] == CROSSES and row["falls"] and row["seeds"] == seeds and row["budgets"] == 3
    assert 45_000 < row["low"] < row["tokens"] < row["high"] < 95_000
    assert row["tokens"] == pytest.approx(65_536, rel=0.2)
    (said,) = crossing.findings_of_crossings(pd.DataFrame([row]))
    assert said.startswith("TIES against CT-then-SFT, 16k to 262k CT tokens: they cross at 6")
    assert said.endswith("the merge is ahead before and behind after.")


def test_the_line_is_least_squares_in_log_tokens() -> None:
    leads = dict(zip(BUDGETS, (0.08, 0.03, -0.05), strict=True))
    found = crossing.crossing_of(BUDGETS, lambda w: (sum(x * leads[b] for b, x in w.items()), -9.0, 9.0))
    slope, middle = np.polyfit(np.log2(BUDGETS), [*leads.values()], 1)
    assert np.log2(found.tokens) == pytest.approx(-middle / slope)
    assert found.says == UNKNOWN and (found.low, found.high) == (0, np.inf)


def test_what_lies_outside_of_the_budgets_is_open() -> None:
    ahead = crossing.crossings([made_right([0.3, 0.25, 0.2])]).iloc[0]
    assert (ahead["says"], ahead["low"], ahead["high"]) == (AHEAD, 262_144, np.inf)
    behind = crossing.crossings([made_right([-0.2, -0.25, -0.3])]).iloc[0]
    assert (behind["says"], behind["low"], behind["high"]) == (BEHIND, 0, 16_384)
    assert np.isnan(behind["tokens"])
    late = crossing.crossings([made_right([0.1, 0.05, 0.001], n=800)]).iloc[0]
    assert late["says"] == CROSSES and late["low"] > 16_384 and late["high"] == np.inf
    said = crossing.findings_of_crossings(pd.DataFrame([ahead, behind, late]))
    assert "a crossing lies above 262k, if there is one" in said[0]
    assert "below 16k" in said[1] and "to above 262k)" in said[2]
    nothing = crossing.crossings([made_right([0.0, 0.0, 0.0], n=50)])
    assert nothing["says"].tolist() == [UNKNOWN]
    assert crossing.findings_of_crossings(nothing)[0].endswith("where they cross cannot be told.")


def test_without_two_budgets_or_a_baseline_there_is_no_row() -> None:
    assert crossing.crossings([made_right([0.1], budgets=BUDGETS[:1])]).empty
    right = made_right([0.1, 0.0, -0.1])
    merged = {key: own for key, own in right.items() if key[0] == "ties"}
    assert crossing.crossings([merged]).empty


def test_languages_are_crossed_with_seeds() -> None:
    studies = {lang: Study(lang=lang) for lang in ("qaa", "qab", "qac")}
    found = {
        lang: {s: Run(study, pd.DataFrame(), made_right([0.1, 0.0, -0.1], 7 * s + i, 1000), ("ct_then_sft",))
               for s in range(2)}
        for i, (lang, study) in enumerate(studies.items())
    }  # fmt: skip
    (row,) = crossing.crossings_over_languages(found).to_dict("records")
    assert row["languages"] == 3 and row["seeds"] == 2 and row["says"] == CROSSES
    assert row["low"] < 65_536 < row["high"]
    assert crossing.crossings_over_languages({"qaa": found["qaa"]}).empty
