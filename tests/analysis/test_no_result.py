"""Scores that are no result, and what is said of them and of what rests on them."""

from __future__ import annotations

import pandas as pd
import pytest

from lrnb.analysis import findings
from lrnb.analysis.no_result import NO_RESULT, resting_on_scores, what_to_try, why_no_result
from lrnb.study.parameters import Study


def scores(*lows: float, chance: float = 25.0, **more: object) -> pd.DataFrame:
    """A score a model in one task in X, and one in English that is far above chance."""
    own = pd.DataFrame({"task": "topic", "ci_low": lows, "chance": chance, **more})
    return pd.concat([own, own.assign(task="topic_en", ci_low=90.0, collapsed=False)])


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (scores(10.0, 25.0), "No score in Odia is above chance"),
        (scores(10.0, 26.0), ""),
        (scores(26.0, 40.0, collapsed=True), "Every model gives one answer to most items in Odia"),
        (scores(26.0, 40.0, collapsed=[True, False]), ""),
        (scores(10.0, 10.0, chance=float("nan")), ""),  # a pool that does not say it
    ],
)
def test_scores_compare_nothing_where_none_is_above_chance_or_all_collapse(
    table: pd.DataFrame, why: str
) -> None:
    assert why_no_result(table, "Odia") == why


def test_what_rests_on_no_result_claims_nothing() -> None:
    why = "No score in X is above chance"
    told = pd.DataFrame({"r": [-0.9] * 2, "low": [-0.99] * 2, "high": [-0.5] * 2, "seeds": [8.0] * 2},
                        index=["all", "equal CT tokens"])  # fmt: skip
    assert findings.finding_of_mechanism(told)["verdict"] == findings.HOLDS
    guarded = findings.finding_of_mechanism(told, why)
    assert guarded["verdict"] == NO_RESULT
    assert guarded["text"].startswith(f"{why}, so this says nothing of what merging does: Within a seed")
    found = {"verdict": findings.HOLDS, "word": "better", "text": "TIES leads"}
    (said,) = resting_on_scores([found], why)
    assert (said["verdict"], said["word"]) == (NO_RESULT, NO_RESULT)
    assert resting_on_scores([found], "") == [found]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"preset": "smol", "lang": "or", "base_source": "gguf:smollm2"},
            "To try: solved examples before each item (shots: 3), prompts in the language "
            "(prompts: native), more text for CT (ct_budgets) or another base (base_source).",
        ),
        (
            {"shots": 3},
            "To try: more text for CT (ct_budgets) or a longer training of the base (base_tokens).",
        ),
        (
            {"preset": "released", "lang": "bn", "base_source": "a/b", "shots": 3, "prompts": "native"},
            "To try: another base (base_source).",
        ),
    ],
)
def test_what_to_try_is_what_the_study_does_not_do_yet(given: dict, words: str) -> None:
    assert what_to_try(Study.model_validate(given)) == words
