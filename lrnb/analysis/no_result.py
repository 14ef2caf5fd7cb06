"""Scores that are no result: where none in X is above chance, or every model collapsed, nothing is compared.

Which score is above chance is in `statistics.above_chance`, which model collapsed in `scoring.predictions`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lrnb import statistics
from lrnb.analysis import results
from lrnb.study.parameters import SYNTHETIC, Study

NO_RESULT = "no result"  # in place of any verdict


def why_no_result(scores: pd.DataFrame, name: str = "X") -> str:
    """Why the scores in X compare nothing, as the first half of a sentence; "" where they compare something.

    scores: task, ci_low, chance (NaN: not known) and, where it is known, collapsed; of one run, or of a pool.
    name: the language.
    """
    own = _in_x(scores)
    own = own[own["chance"].notna()]
    if len(own) and not statistics.above_chance(own["ci_low"], own["chance"]).any():
        return f"No score in {name} is above chance"
    if len(own) and all_collapsed(own):
        return f"Every model gives one answer to most items in {name}"
    return ""


def all_collapsed(scores: pd.DataFrame) -> bool:
    """Whether every model is a collapse in every task in X; False where that is not recorded."""
    own = _in_x(scores)
    return "collapsed" in own and bool(own["collapsed"].eq(True).all())


def _in_x(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["task"].isin([results.headline(scores), *results.tasks_in_x(scores)])]


def resting_on_scores(found: Sequence[dict[str, str]], why: str) -> list[dict[str, str]]:
    """Findings that rest on scores: where these are no result they say `why` and claim nothing."""
    return [_without_scores(finding, why) if why else finding for finding in found]


def _without_scores(finding: dict[str, str], why: str) -> dict[str, str]:
    words = {key: NO_RESULT for key in ("verdict", "word") if key in finding}
    return finding | words | {"text": f"{why}, so this says nothing of what merging does: {finding['text']}"}


def what_to_try(study: Study) -> str:
    """Settings that may lift scores above chance, the cheap ones first, in a sentence."""
    alone = study.base_source == "scratch"
    ways = [] if study.shots else ["solved examples before each item (shots: 3)"]
    if study.prompts == "english" and study.lang not in SYNTHETIC:
        ways.append("prompts in the language (prompts: native)")
    ways += ["more text for CT (ct_budgets)"] if study.trains else []
    ways.append("a longer training of the base (base_tokens)" if alone else "another base (base_source)")
    return f"To try: {', '.join(ways[:-1])}{' or ' if ways[:-1] else ''}{ways[-1]}."
