"""What the tables of the questions say: confirmed, refuted, or cannot be told, by the rules of `findings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lrnb.analysis import questions
from lrnb.analysis.comparisons import WITH_TRAINING
from lrnb.analysis.findings import FAILS, HOLDS, OPEN, Finding, verdict, verdict_of
from lrnb.analysis.no_result import resting_on_scores, why_no_result
from lrnb.analysis.pool_answers import chance_levels
from lrnb.analysis.pool_lines import Line, right_of, seeds_share_items
from lrnb.analysis.question_merges import shown_name
from lrnb.analysis.questions import EN, X
from lrnb.analysis.seeds import mean_intervals
from lrnb.study.parameters import budget_name

CONFIRMED, REFUTED, UNKNOWN = "confirmed", "refuted", "cannot be told"


def judged(kind: str) -> str:
    """A verdict on a difference as one on the claim that it is above zero."""
    return {HOLDS: CONFIRMED, FAILS: REFUTED, OPEN: UNKNOWN}.get(kind, f"{REFUTED}, {kind}")


def findings_of_selectors(table: pd.DataFrame, margin: float) -> list[Finding]:
    """Question 1; table: of `questions.selector_contrasts`; margin: points within which two are the same."""
    return [
        _of_selectors(table[(table["against"] == against) & (table["measure"] == measure)], margin)
        for measure in (X, EN)
        for against in ("no slack", "margin")
    ]


def _of_selectors(rows: pd.DataFrame, margin: float) -> Finding:
    kinds = [verdict_of(row, WITH_TRAINING, margin) for row in rows.to_dict("records")]
    groups = {kind: rows["selector"][[k == kind for k in kinds]].tolist() for kind in dict.fromkeys(kinds)}
    names = {HOLDS: "better", FAILS: "worse", OPEN: UNKNOWN}
    told = "; ".join(f"{names.get(kind, kind)}: {', '.join(own)}" for kind, own in groups.items())
    first = rows.iloc[0]
    n = int(first["cells"])
    cells = f"{n} cell{'s' * (n != 1)}"
    text = (
        f"Slack by some selector has a higher {first['measure']} than {first['against']}, mean over {cells}, "
        f"{int(first['seeds'])} seeds: {told} ({_range(rows)} points)."
    )
    kind = HOLDS if HOLDS in groups else FAILS if FAILS in groups else next(iter(groups))
    return {"verdict": judged(kind), "text": text}


def findings_of_discarded(table: pd.DataFrame, budgets: Sequence[int]) -> list[Finding]:
    """Question 4, the election; table: of `questions.discarded_growth`."""
    return [_of_growth(row, budgets) for row in table.to_dict("records")]


def _of_growth(row: Mapping[str, Any], budgets: Sequence[int]) -> Finding:
    how = "as weights are" if row["how"] == "none" else f"with weights evened by {row['how']}"
    span = f"from {budget_name(budgets[0])} to {budget_name(budgets[-1])} CT tokens"
    if not row["against"]:
        kind = verdict(row["difference"], row["ci_low"], row["ci_high"], row["p_holm"])
        text = f"SFT's discarded share grows {span}, {how}: by {_told(row)} percentage points"
    else:
        kind = verdict(-row["difference"], -row["ci_high"], -row["ci_low"], row["p_holm"])
        text = f"It grows less {how} than as they are: {_told(row)} percentage points"
    return {"verdict": judged(kind), "text": f"{text}."}


def finding_of_plateau(found: Mapping[str, Any], margin: float) -> Finding:
    """Whether TIES' curve flattens; found: of `questions.flattening`."""
    kind = verdict(-found["difference"], -found["ci_high"], -found["ci_low"], found["p"], margin=margin)
    text = (
        f"The score in X of TIES flattens along CT tokens: it gains {found['first']:+.1f} points over the "
        f"first step and {found['last']:+.1f} over the last, a change of {_told(found, holm=False)}"
    )
    return {"verdict": judged(kind), "text": f"{text}."}


def findings_of_plateau(table: pd.DataFrame, margin: float) -> list[Finding]:
    """Question 4, the scores; table: of `questions.plateau_contrasts`."""
    return [_of_gain(row, margin) for row in table[table["measure"] == X].to_dict("records")]


def _of_gain(row: Mapping[str, Any], margin: float) -> Finding:
    kind = verdict_of(row, WITH_TRAINING, margin)
    claims = {
        "gain": "gains more in X along CT tokens than",
        "last": "scores higher in X at the last CT budget than",
    }
    text = (
        f"{shown_name(row['merge'])} {claims[row['what']]} {shown_name(row['against'])}: {_told(row)} points"
    )
    return {"verdict": judged(kind), "text": f"{text}."}


def _told(row: Mapping[str, Any], holm: bool = True) -> str:
    p = row["p_holm"] if holm else row["p"]
    shown = "< 0.001" if p < 0.001 else f"= {p:.3f}"
    ends = f"{row['ci_low']:+.1f} to {row['ci_high']:+.1f}"
    return f"{row['difference']:+.1f} ({ends}, {'Holm ' if holm else ''}p {shown})"


def _range(rows: pd.DataFrame) -> str:
    return f"{rows['difference'].min():+.1f} to {rows['difference'].max():+.1f}"


def _where_it_counts(said: dict[str, list[Finding]], lines: Sequence[Line]) -> dict[str, list[Finding]]:
    why = why_no_merge_counts(lines)
    return {name: resting_on_scores(found, why) for name, found in said.items()}


def why_no_merge_counts(lines: Sequence[Line]) -> str:
    """Why the merges compare nothing (`why_no_result`); "" where one is above chance in X, or chance levels
    are not known, as in pools of earlier versions.
    """
    levels, rights = chance_levels(lines), [right_of(line) for line in lines]
    why, shared = "", seeds_share_items(lines)
    for model in rights[0] if levels else ():  # the first one ends it nearly always
        table = mean_intervals([{model: one[model]} for one in rights if model in one], shared=shared)
        why = why_no_result(table.assign(chance=table["task"].map(levels).astype(float)))
        if not why:
            break
    return why


def findings_of_questions(lines: Sequence[Line], margin: float) -> dict[str, list[Finding]]:
    """{"question 1", "question 4": findings} of runs of `questions.asked_runs`; 4 needs two CT budgets."""
    budgets = questions.budgets_of(lines)
    said = {"question 1": findings_of_selectors(questions.selector_contrasts(lines), margin)}
    if len(budgets) < 2:
        return _where_it_counts(said, lines)
    flat = [finding_of_plateau(questions.flattening(lines), margin)] if len(budgets) > 2 else []
    grown = findings_of_discarded(questions.discarded_growth(lines), budgets)
    gained = findings_of_plateau(questions.plateau_contrasts(lines), margin)
    return _where_it_counts(said | {"question 4": [*grown, *flat, *gained]}, lines)
