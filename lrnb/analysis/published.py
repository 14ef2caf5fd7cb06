"""What the paper published (Tao et al. 2024), beside what a pool of seeds says, and what each could detect.

The paper gives each of these as one number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize

from lrnb import statistics
from lrnb.analysis.kinds import label
from lrnb.analysis.pool_answers import pooled_leads
from lrnb.analysis.pool_lines import BASELINE, Line, contrast, right_of
from lrnb.study.parameters import budget_name

LARGEST_LEAD = 4.69  # points; the largest mean lead over CT-then-SFT, below 10B CT tokens
MORE_DISCARDED = 4.0  # points of SFT's entries that more CT tokens discard
SLACK_GAIN = 0.52  # points; TIES-SV over TIES, mean of three Bengali tasks


def beside_the_paper(lines: Sequence[Line]) -> pd.DataFrame:
    """A row a claim of the paper: what, paper, where, here, ci_low, ci_high, seeds, detectable, items_needed.

    In points. where: the model of the pool that is meant; here: its value, with a 95% interval over seeds and
    items; detectable: the smallest true difference that the pool would find four times out of five;
    items_needed: how many items a paired test of two models would need to find the paper's number so often,
    with as many items that only one of the two has right as here (none where items play no part). lines: two
    seeds or more.
    """
    leads = pooled_leads(lines)
    over = leads[leads["baseline"] == BASELINE]
    best = over.loc[over["difference"].idxmax()]
    slack = leads[leads["baseline"] == "ties"].sort_values("ct_tokens").iloc[-1]
    table = pd.DataFrame(
        [
            _of_scores("largest mean lead over CT-then-SFT", LARGEST_LEAD, best, lines),
            _more_discarded(lines),
            _of_scores("TIES-SV over TIES", SLACK_GAIN, slack, lines),
        ]
    )
    return table.astype({"items_needed": "Int64"})


def _of_scores(what: str, paper: float, row: pd.Series, lines: Sequence[Line]) -> dict[str, object]:
    model, other = ((row[key], row["ct_tokens"]) for key in ("method", "baseline"))
    samples = [contrast(right_of(line), model, other) for line in lines]
    least = 100 * statistics.detectable_over_seeds(samples, shared=False)
    discordant = float(np.mean([np.mean(np.concatenate(tasks) != 0) for tasks in samples]))
    where = f"{label(row['method'])} at {budget_name(row['ct_tokens'])} CT tokens"
    ends = {"here": row["difference"], "ci_low": row["ci_low"], "ci_high": row["ci_high"]}
    told = {"seeds": len(lines), "detectable": least, "items_needed": items_needed(paper, discordant)}
    return {"what": what, "paper": paper, "where": where, **ends, **told}


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
