"""What the paper published (Tao et al. 2024), beside what a pool of seeds says, and what each could detect.

The paper gives each of these as one number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import optimize

from lrnb import statistics
from lrnb.analysis import results
from lrnb.analysis.kinds import label
from lrnb.analysis.pool_answers import pooled_leads
from lrnb.analysis.pool_lines import BASELINE, Line, contrast, right_of, seeds_share_items
from lrnb.study.parameters import budget_name

LARGEST_LEAD = 4.69  # points; the largest mean lead over CT-then-SFT, below 10B CT tokens
MORE_DISCARDED = 4.0  # points of SFT's entries that more CT tokens discard
SLACK_GAIN = 0.52  # points; TIES-SV over TIES, mean of three Bengali tasks
COLUMNS = ["what", "paper", "where", "here", "ci_low", "ci_high", "seeds", "detectable", "items_needed"]


def beside_the_paper(lines: Sequence[Line]) -> pd.DataFrame:
    """A row a claim of the paper: what, paper, where, here, ci_low, ci_high, seeds, detectable, items_needed.

    In points. where: the model of the pool that is meant; here: its value, with a 95% interval over seeds and
    items; detectable: the smallest true difference that the pool would find four times out of five;
    items_needed: how many items a paired test of two models would need to find the paper's number so often,
    with as many items that only one of the two has right as here (none where items play no part, or too few
    differ). Claims of what the pool has not are left out. lines: two seeds or more.
    """
    rows = [_of_scores(what, paper, row, lines) for what, paper, row in _claimed(pooled_leads(lines))]
    if len(lines[0]["shares"]) > 1:
        rows.insert(1, _more_discarded(lines))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"items_needed": "Int64"})


def run_beside_the_paper(differences: pd.DataFrame, detectable: pd.DataFrame) -> pd.DataFrame:
    """What one run's scores say to the paper's claims: what, paper, where, here, ci_low, ci_high, detectable.

    differences: of `comparisons.compare_methods`; detectable: of `trust.detectable_differences`, the true
    difference that this run's items would find four times out of five. In points.
    """
    task = results.headline(differences)
    found = detectable[detectable["task"] == task].set_index("baseline")["points"]
    rows = [
        {"what": what, "paper": paper, **_here(row), "detectable": found[row["baseline"]]}
        for what, paper, row in _claimed(differences[differences["task"] == task])
    ]
    return pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("seeds", "items_needed")])


def _claimed(leads: pd.DataFrame) -> Iterator[tuple[str, float, pd.Series]]:
    """The paper's claims of scores, and the row of a table of differences that each is held against."""
    over, slack = (leads[leads["baseline"] == name] for name in (BASELINE, "ties"))
    if len(over):
        best = over.loc[over["difference"].idxmax()]
        yield "largest mean lead over CT-then-SFT", LARGEST_LEAD, best
    if len(slack):
        yield "TIES-SV over TIES", SLACK_GAIN, slack.sort_values("ct_tokens").iloc[-1]


def _here(row: pd.Series) -> dict[str, object]:
    """The model that a row is of, its difference and the interval."""
    where = f"{label(row['method'])} at {budget_name(row['ct_tokens'])} CT tokens"
    return {"where": where, "here": row["difference"], "ci_low": row["ci_low"], "ci_high": row["ci_high"]}


def _of_scores(what: str, paper: float, row: pd.Series, lines: Sequence[Line]) -> dict[str, object]:
    model, other = ((row[key], row["ct_tokens"]) for key in ("method", "baseline"))
    rights = [right for line in lines if model in (right := right_of(line))]
    samples = [contrast(right, model, other) for right in rights]
    least = 100 * statistics.detectable_over_seeds(samples, shared=seeds_share_items(lines))
    discordant = float(np.mean([np.mean(np.concatenate(tasks) != 0) for tasks in samples]))
    needed = items_needed(paper, discordant) if 100 * discordant > paper else None
    told = {"seeds": len(samples), "detectable": least, "items_needed": needed}
    return {"what": what, "paper": paper, **_here(row), **told}


def _more_discarded(lines: Sequence[Line]) -> dict[str, object]:
    budgets = sorted(map(int, lines[0]["shares"]))
    few, many = (
        np.array([100 * line["shares"][str(budget)]["sft_discarded_share"] for line in lines])
        for budget in (budgets[0], budgets[-1])
    )
    found, least = statistics.over_runs(many - few), statistics.detectable_over_runs(many - few)
    where = f"from {budget_name(budgets[0])} to {budget_name(budgets[-1])} CT tokens"
    ends = {"here": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
    told = {"seeds": len(lines), "detectable": least, "items_needed": None}
    return {
        "what": "more of SFT's entries discarded",
        "paper": MORE_DISCARDED,
        "where": where,
        **ends,
        **told,
    }


def items_needed(points: float, discordant: float) -> int:
    """Items of which McNemar's test finds a true difference of `points` with 80% power.

    discordant: the share of items that only one of the two models has right, at least the difference.
    """
    share = points / 100

    def missing(log_n: float) -> float:
        least = statistics.minimum_detectable_difference(round(np.exp(log_n)), discordant=discordant)
        return share - (discordant if np.isnan(least) else least)

    return round(np.exp(optimize.brentq(missing, np.log(4), np.log(1e9), xtol=1e-6)))
