"""What a run says about the paper's claims, in sentences made from its own numbers and no others.

Each finding has a claim, a verdict and a text. A difference "holds" only where its p-value, after
Holm's correction, is below 0.05 and its interval leaves zero out; anything else is not
distinguishable, whichever way the point lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lrnb import summary, trust
from lrnb.params import budget_name
from lrnb.style import MERGED, label

HOLDS, FAILS, OPEN = "holds", "does not hold", "not distinguishable"
ALPHA = 0.05
SCARCE = "Merging beats CT-then-SFT while CT data is scarce (the smallest budget)"
GIVEN = "Merging beats SFT-en and the base (this run has no CT-then-SFT)"
RICHER = "Merging beats CT-then-SFT at larger budgets, too"
FADES = "The advantage of merging fades as CT sees more tokens"
SLACK = "TIES-SV wins back some of what TIES loses"
GROWS = "CT's task vector grows, and more of SFT is discarded at the election"
CHANCE = "The scores are above chance"
BASE = "Training and merging improve on the base itself"
Finding = dict[str, str]


def findings(scores: pd.DataFrame, items: pd.DataFrame, table: pd.DataFrame) -> list[Finding]:
    """Everything the scores say: chance, the lead of each merge, whether it fades, slack.

    scores, items: of `summary.gather`; table: of `summary.compare`.
    """
    task = summary.headline(scores)
    rows = table[table["task"] == task]
    names = summary.baselines(items)
    merged = rows[rows["baseline"].isin(names)]
    found = [above_chance(scores, items), *beyond_base(items)]
    budgets = sorted(merged["ct_tokens"].unique())
    for budget, name in product(budgets, names):
        claim = GIVEN if name != "ct_then_sft" else SCARCE if budget == budgets[0] else RICHER
        found += [_lead(row, claim) for row in _records(merged[merged["baseline"] == name], budget)]
    found += _fading(items, budgets) if "ct_then_sft" in names else []
    slack = rows[rows["baseline"] == "ties"]
    for budget in sorted(slack["ct_tokens"].unique()):
        found += [_lead(row, SLACK) for row in _records(slack, budget)]
    return found


def _records(rows: pd.DataFrame, budget: int) -> list[dict[str, Any]]:
    part = rows[rows["ct_tokens"] == budget].set_index("method")
    return [{"method": m, **part.loc[m].to_dict()} for m in MERGED if m in part.index]


def verdict(value: float, low: float, high: float, p: float) -> str:
    """holds (above zero), does not hold (below zero), or not distinguishable."""
    if p < ALPHA and low > 0:
        return HOLDS
    return FAILS if p < ALPHA and high < 0 else OPEN


def points(value: float) -> str:
    """3.14 -> '3.1 points above', -2 -> '2.0 points below'; 0.0 is 'level with'."""
    if abs(value) < 0.05:
        return "level with"
    return f"{abs(value):.1f} points {'above' if value > 0 else 'below'}"


def _lead(row: dict[str, Any], claim: str) -> Finding:
    kind = verdict(row["difference"], row["ci_low"], row["ci_high"], row["p_holm"])
    text = (
        f"At {budget_name(int(row['ct_tokens']))} CT tokens {label(row['method'])} is "
        f"{points(row['difference'])} {label(row['baseline'])} "
        f"(95% interval {_interval(row)}, Holm p {_p(row['p_holm'])}, n = {int(row['n'])})"
    )
    ends = {HOLDS: "it is better", FAILS: "it is worse", OPEN: "not distinguishable"}
    return {"claim": claim, "verdict": kind, "text": f"{text}: {ends[kind]}."}


def _interval(row: dict[str, Any]) -> str:
    return f"[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _fading(items: pd.DataFrame, budgets: list[int]) -> list[Finding]:
    """The lead at the smallest budget against the lead at the largest, on the same items."""
    if len(budgets) < 2:
        return []
    present = [m for m in MERGED if m in set(items["method"])]
    tests = {m: summary.fade(items, m, budgets) for m in present}
    corrected = summary.stats.holm([t.p for t in tests.values()])
    return [_fade_text(m, budgets, tests[m], float(p)) for m, p in zip(present, corrected, strict=True)]


def _fade_text(method: str, budgets: list[int], test: Any, p: float) -> Finding:
    value, low, high = (100 * x for x in (test.value, test.ci_low, test.ci_high))
    kind = verdict(value, low, high, p)
    how = "shrinks" if value >= 0 else "grows"
    text = (
        f"From {budget_name(int(budgets[0]))} to {budget_name(int(budgets[-1]))} CT tokens the "
        f"lead of {label(method)} over CT-then-SFT {how} by {abs(value):.1f} points "
        f"(95% interval of the shrinking {_interval({'ci_low': low, 'ci_high': high})}, "
        f"Holm p {_p(p)})"
    )
    tail = {HOLDS: "it fades", FAILS: "it grows", OPEN: "not distinguishable from no change"}
    return {"claim": FADES, "verdict": kind, "text": f"{text}: {tail[kind]}."}


def above_chance(scores: pd.DataFrame, items: pd.DataFrame) -> Finding:
    """How many scores in X are above chance, above the majority class, and how many collapsed."""
    tasks = summary.tasks_in_x(scores)
    marked = trust.marks(scores, items)
    rows = marked[marked["task"].isin(tasks)]
    above, clear, one = (int(rows[column].sum()) for column in ("above", "clear", "collapsed"))
    kind = HOLDS if above == len(rows) else FAILS if above == 0 else OPEN
    text = (
        f"Of {len(rows)} scores in X (models times tasks), {above} have a 95% interval wholly "
        f"above chance, and {clear} wholly above the majority class as well; in {one} of the {len(rows)} the "
        "model gives one answer to more than 60% of the items."
    )
    names = {OPEN: "in part"}
    return {"claim": CHANCE, "verdict": names.get(kind, kind), "text": text}


def beyond_base(items: pd.DataFrame) -> list[Finding]:
    """How many of the CT-then-SFT and merged models are better than the untouched base, in X."""
    models = items[items["method"].isin([*MERGED, "ct_then_sft"])]["model"].unique()
    if not len(models) or "base" not in set(items["method"]):
        return []
    tests = {str(m): summary.against(items, str(m), "base") for m in models}
    corrected = summary.stats.holm([t.p for t in tests.values()])
    kinds = {
        m: verdict(t.value, t.ci_low, t.ci_high, float(p))
        for (m, t), p in zip(tests.items(), corrected, strict=True)
    }
    better, worse = ([m for m, k in kinds.items() if k == kind] for kind in (HOLDS, FAILS))
    who = "merges" if "ct_then_sft" not in set(items["method"]) else "CT-then-SFT and merges"
    text = (
        f"Of {len(tests)} models ({who}, all budgets), {len(better)} are better "
        f"than the base on the mean of the tasks in X{_named(better)}, {len(worse)} worse"
        f"{_named(worse)}, {len(tests) - len(better) - len(worse)} not distinguishable from it "
        f"(paired, Holm over {len(tests)})."
    )
    kind = HOLDS if len(better) == len(tests) else "in part" if better else FAILS if worse else OPEN
    return [{"claim": BASE, "verdict": kind, "text": text}]


def _named(models: list[str]) -> str:
    names = [" ".join([label(m.partition("@")[0]), m.partition("@")[2]]).strip() for m in models]
    return f" ({', '.join(names)})" if names else ""


def findings_of_shares(shares: pd.DataFrame) -> list[Finding]:
    """Whether τ CT and the discarded SFT share grow with the budget, at the fixed density.

    These are counts over all weights of one run: no interval, and no word on other seeds.
    """
    rows = shares[(shares["tensor"] == "(model)") & (shares["setting"] == "fixed")]
    rows = rows.sort_values("ct_tokens")
    if len(rows) < 2:
        return []
    share = 100 * rows["sft_discarded"] / rows["sft_kept"]
    grows = rows["ct_l2"].is_monotonic_increasing and share.is_monotonic_increasing
    names = " / ".join(budget_name(int(t)) for t in rows["ct_tokens"])
    text = (
        f"At {names} CT tokens the L2 norm of CT's task vector is {_list(rows['ct_l2'], '.2f')} "
        f"(SFT's {rows['sft_l2'].iloc[0]:.2f}), and at density "
        f"{rows['density'].iloc[0]:g} the election discards {_list(share, '.1f')}% of the "
        "SFT entries that trimming kept. Counted over all weights of this one run."
    )
    return [{"claim": GROWS, "verdict": HOLDS if grows else FAILS, "text": text}]


def _list(values: pd.Series, form: str) -> str:
    return " / ".join(format(v, form) for v in values)


def of_failures(
    broken: pd.DataFrame, wrong: pd.DataFrame, near: pd.DataFrame, slopes: pd.DataFrame, tasks: Sequence[str]
) -> list[str]:
    """What the four tables of `lrnb.failures` say, in sentences; tasks: all that were scored."""
    return [*_of_writing(broken, wrong), _of_overlap(near, tasks), _of_slopes(slopes)]


def _of_writing(broken: pd.DataFrame, wrong: pd.DataFrame) -> list[str]:
    if not len(broken):
        return [
            "No answer was generated in this study: the options were scored by likelihood. So there are no "
            "unparsable byte sequences and no answers in the wrong script to count."
        ]
    found = [f"Unparsable bytes: {_worst(broken, 'replaced')}."]
    own = wrong[~wrong["task"].str.endswith("_en")]
    if len(own) and own["wrong"].isna().all():
        found += ["The script of X is Latin or not named (`script`): English cannot be told from X by it."]
    if wrong["wrong"].notna().any():
        found += [f"Answers mostly in another script than the task's: {_worst(wrong, 'wrong')}."]
    return found


def _worst(table: pd.DataFrame, column: str) -> str:
    """The highest share in X and in English, with model, task and interval."""
    parts = []
    for name, english in (("in X", False), ("in English", True)):
        rows = table[(table["task"].str.endswith("_en") == english) & table[column].notna()]
        if len(rows):
            r = rows.loc[rows[column].idxmax()]
            parts.append(
                f"{name} at most {r[column]:.1f}% ({_named([r['model']])[2:-1]}, {r['task']}; 95% interval "
                f"{r['ci_low']:.1f} to {r['ci_high']:.1f}, n = {r['n']})"
            )
    return "; ".join(parts)


def _of_overlap(near: pd.DataFrame, tasks: Sequence[str]) -> str:
    untold = [task for task in tasks if task not in set(near["task"])]
    tail = f" Not told for {', '.join(untold)}: no errors between options of different overlap."
    tail = tail if untold else ""
    if not len(near):
        return "Whether errors follow character overlap cannot be told." + tail
    sure = near[near["p_holm"] < ALPHA]["task"].value_counts(sort=False)
    where = ": " + ", ".join(f"{task} ({n})" for task, n in sure.items()) if len(sure) else ""
    took, chance = (np.average(near[column], weights=near["n"]) for column in ("nearest", "expected"))
    return (
        f"Wrong answers go to the wrong option with the highest character overlap more often than chance in "
        f"{sure.sum()} of {len(near)} pairs of model and task (Holm){where}; over all pairs in {took:.1f}% "
        f"of the errors that can tell, against {chance:.1f}% expected." + tail
    )


def _of_slopes(slopes: pd.DataFrame) -> str:
    known = slopes.dropna(subset=["slope", "ci_low"]).sort_values("slope", ascending=False)
    if not len(known) and slopes["slope"].notna().any():
        return "Accuracy against the SFT entries kept: no item's answer differs between the merges."
    if not len(known):
        most = int(slopes["budgets"].max()) if len(slopes) else 0
        return f"Accuracy against the SFT entries kept: too few points ({most} budgets) for a slope."
    top = known.iloc[0]
    sure = known[(known["p_holm"] < ALPHA) & (known["ci_low"] > 0)]["task"]
    return (
        f"Steepest on the share of SFT entries kept: {top['task']}, {top['slope']:+.1f} points for each 10% "
        f"kept (95% interval {top['ci_low']:+.1f} to {top['ci_high']:+.1f}, {top['merges']} merges at "
        f"{top['budgets']} budgets). Clearly "
        f"rising (Holm): {', '.join(sure) if len(sure) else 'no task'}. CT differs between these merges, too."
    )
