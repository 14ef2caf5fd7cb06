"""What a run says about the paper's claims, in sentences made from its own numbers and no others.

Each finding has a claim, a verdict and a text. A difference "holds" only where its p-value, after
Holm's correction, is below 0.05, its interval leaves zero out, and both hold the noise of training: over
several seeds, or in one run with the noise that a pool of seeds knows. From the items of one run alone it is
"above" or "below" on those items. An interval within the margin is "the same within" it; anything else is not
distinguishable, whichever way the point lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis import comparisons, results, trust
from lrnb.analysis.comparisons import ITEMS_ONLY, ONE_SEED, WITH_TRAINING
from lrnb.analysis.kinds import label
from lrnb.analysis.no_result import resting_on_scores, why_no_result
from lrnb.analysis.published import MORE_DISCARDED
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import budget_name

HOLDS, FAILS, OPEN = "holds", "does not hold", "not distinguishable"
ABOVE, BELOW = "above, items only", "below, items only"  # of one run, without the noise of training
HERE, NOT_HERE, PART = "in this run", "not in this run", "in part"
ALPHA = 0.05
SCARCE = "Merging beats CT-then-SFT while CT data is scarce (the smallest budget)"
GIVEN = "Merging beats SFT-en and the base (this run has no CT-then-SFT)"
RICHER = "Merging beats CT-then-SFT at larger budgets, too"
FADES = "The advantage of merging fades as CT sees more tokens"
SLACK = "TIES-SV wins back some of what TIES loses"
GROWS = "CT's task vector grows, and more of SFT is discarded at the election"
CHANCE = "The scores are above chance"
BEYOND = "Training and merging improve on the base itself"
Finding = dict[str, str]


def findings_of_scores(
    scores: pd.DataFrame, items: pd.DataFrame, table: pd.DataFrame, margin: float = 0.0
) -> list[Finding]:
    """Everything the scores of one run say: chance, the lead of each merge, whether it fades, slack.

    scores, items: of `results.gather`; table: of `comparisons.compare_methods`, or of
    `pool_answers.with_training`, where training noise is known; margin: points within which two models are
    called the same.
    """
    task = results.headline(scores)
    rows = table[table["task"] == task]
    names = comparisons.baselines(items)
    merged = rows[rows["baseline"].isin(names)]
    found = beyond_base(items)
    budgets = sorted(merged["ct_tokens"].unique())
    for budget, name in product(budgets, names):
        claim = GIVEN if name != "ct_then_sft" else SCARCE if budget == budgets[0] else RICHER
        found += [
            finding_of_lead(row, claim, margin)
            for row in _records(merged[merged["baseline"] == name], budget)
        ]
    found += _fading(items, budgets, margin) if "ct_then_sft" in names else []
    slack = rows[rows["baseline"] == "ties"]
    for budget in sorted(slack["ct_tokens"].unique()):
        found += [finding_of_lead(row, SLACK, margin) for row in _records(slack, budget)]
    marked = trust.marks(scores, items)
    return [_above_chance(marked), *resting_on_scores(found, why_no_result(marked))]


def _records(rows: pd.DataFrame, budget: int) -> list[dict[str, Any]]:
    part = rows[rows["ct_tokens"] == budget].set_index("method")
    return [{"method": m, **part.loc[m].to_dict()} for m in METHODS if m in part.index]


def verdict(
    value: float, low: float, high: float, p: float, noise: str = WITH_TRAINING, margin: float = 0.0
) -> str:
    """holds (above zero), does not hold (below zero), the same within the margin, or not distinguishable.

    noise: what interval and p hold; from items only nothing holds, it is above or below on these items.
    """
    alone = {ITEMS_ONLY: ", items only", ONE_SEED: ", one seed"}.get(noise, "")
    if p < ALPHA and (low > 0 or high < 0):
        return f"{'above' if low > 0 else 'below'}{alone}" if alone else HOLDS if low > 0 else FAILS
    if -margin < low and high < margin:
        return same_within(margin) + alone
    return OPEN


def verdict_of(row: Mapping[str, Any], noise: str, margin: float) -> str:
    """The verdict on a row of differences, after Holm's correction."""
    return verdict(row["difference"], row["ci_low"], row["ci_high"], row["p_holm"], noise, margin)


def same_within(margin: float) -> str:
    return f"the same within {margin:g} point{'s' * (margin != 1)}"


def ending(kind: str, low: float, high: float, margin: float = 0.0) -> str:
    """A verdict on a difference as the end of a sentence."""
    ends = {HOLDS: "it is better", FAILS: "it is worse", ABOVE: "above it on these items, of one run",
            BELOW: "below it on these items, of one run",
            "above, one seed": "above it with one base and SFT-en, of one seed",
            "below, one seed": "below it with one base and SFT-en, of one seed"}  # fmt: skip
    small = kind in ends and -margin < low and high < margin
    return ends.get(kind, kind) + (f", and {same_within(margin)}" if small else "")


def points(value: float) -> str:
    """3.14 -> '3.1 points above', -2 -> '2.0 points below'; 0.0 is 'level with'."""
    if abs(value) < 0.05:
        return "level with"
    return f"{abs(value):.1f} points {'above' if value > 0 else 'below'}"


def finding_of_lead(row: dict[str, Any], claim: str, margin: float) -> Finding:
    """What a row of paired differences says to a claim; its `noise` is what interval and p hold."""
    noise = row.get("noise", ITEMS_ONLY)
    kind = verdict_of(row, noise, margin)
    text = (
        f"{_where_seen(row)}{label(row['method'])} is "
        f"{points(row['difference'])} {label(row['baseline'])} "
        f"(95% interval, {noise}, {_interval(row)}, Holm p {_p(row['p_holm'])}, n = {int(row['n'])})"
    )
    return {"claim": claim, "verdict": kind, "text": f"{text}: {ending(kind, *_ends(row), margin)}."}


def _where_seen(row: dict[str, Any]) -> str:
    return f"At {budget_name(int(row['ct_tokens']))} CT tokens " if row["ct_tokens"] else "Without CT "


def findings_of_pool(rows: pd.DataFrame, margin: float = 0.0) -> list[Finding]:
    """What a pool of seeds says of each merge, with `word` for its verdict; rows: `pool_answers.answer`.

    Or what several languages say: `languages.leads_over_languages`.
    """
    return [_pooled(row, margin) for row in rows.to_dict("records")]


def answer_in_a_sentence(rows: pd.DataFrame, margin: float = 0.0, why: str = "") -> str:
    """Which merges are better or worse than their baseline, and where, as HTML; rows of one baseline.

    Of a pool (`pool_answers.answer`), or of one run's differences with their `noise` and seeds = 1. why: of
    `why_no_result`, where the scores compare nothing; then that is the answer.
    """
    if why:
        return f"{escape(why)}: {no_comparison(int(rows['seeds'].max()) if len(rows) else 1)}."
    noise = rows["noise"] if "noise" in rows else [WITH_TRAINING] * len(rows)
    told = zip(rows.to_dict("records"), noise, strict=True)
    kinds = [verdict_of(row, one, margin) for row, one in told]
    ahead, behind, same = (
        _named_at(rows, [kind.startswith(words) for kind in kinds])
        for words in ((HOLDS, "above"), (FAILS, "below"), "the same")
    )
    other, budgets = label(rows["baseline"].iloc[0]), rows["ct_tokens"].nunique()
    whole = f"no merge is better than {other} at any of the {budgets} CT budgets" if budgets > 1 else (
        f"no merge is better than {other}")  # fmt: skip
    parts = [f"better than {other}: {ahead}" if ahead else whole]
    parts += [f"worse: {behind}"] * bool(behind) + [f"{same_within(margin)}: {same}"] * bool(same)
    rest = "the rest" if ahead or behind or same else "their differences"
    parts += [f"{rest} cannot be told from zero"] if OPEN in kinds else []
    over = "In this one run" if rows["seeds"].max() == 1 else f"Over {_drawn(rows.iloc[0].to_dict())}"
    return f"{over} {'; '.join(parts)}."


def no_comparison(seeds: int = 1) -> str:
    """What follows `why_no_result` in a headline."""
    return "this run compares nothing" if seeds == 1 else f"these {seeds} seeds compare nothing"


def _named_at(rows: pd.DataFrame, where: Sequence[bool]) -> str:
    """ "TIES and TIES-SV at every budget, average at 262k": the methods of the chosen rows."""
    every, found = rows["ct_tokens"].nunique(), dict[str, list[str]]()
    for method, own in rows[list(where)].groupby("method", sort=False):
        tokens = [budget_name(int(n)) for n in sorted(own["ct_tokens"])]
        place = "every budget" if 1 < every == len(tokens) else " and ".join(tokens)
        found.setdefault(place, []).append(label(method))
    return ", ".join(f"{' and '.join(methods)} at {place}" for place, methods in found.items())


def findings_of_fades(rows: pd.DataFrame, margin: float = 0.0) -> list[Finding]:
    """Whether the lead of each merge fades over a pool of seeds; rows: of `pool_answers.pooled_fades`."""
    return [_faded(row, margin) for row in rows.to_dict("records")]


def findings_of_map(leads: pd.DataFrame, margin: float = 0.0, why: str = "") -> list[Finding]:
    """In how many cells of a map each merge is better or worse; leads: of `region.cell_leads`.

    why: as `finding_of_mechanism` takes it.
    """
    found = [_on_map(method, rows, margin) for method, rows in leads.groupby("method", sort=False)]
    return resting_on_scores(found, why)


def _on_map(method: str, rows: pd.DataFrame, margin: float) -> Finding:
    kinds = [verdict_of(row, WITH_TRAINING, margin) for row in rows.to_dict("records")]
    better, worse, same, known = (kinds.count(k) for k in (HOLDS, FAILS, same_within(margin), OPEN))
    text = (
        f"{label(method)} against CT-then-SFT in {len(rows)} cells of at least {int(rows['seeds'].min())} "
        f"seeds: better in {better}{_where(rows, kinds, HOLDS)}, worse in {worse}"
        f"{_where(rows, kinds, FAILS)}, {same_within(margin)} in {same}, not distinguishable in {known} "
        "(95% intervals over seeds and items, Holm over the cells)."
    )
    kind = HOLDS if better and not worse else FAILS if worse and not better else PART if better else OPEN
    return {"verdict": kind, "text": text}


def _where(rows: pd.DataFrame, kinds: Sequence[str], kind: str) -> str:
    """The CT tokens of the cells of a kind, "" where there are none."""
    tokens = sorted({int(n) for n, own in zip(rows["ct_tokens"], kinds, strict=True) if own == kind})
    return f" (at {' / '.join(map(budget_name, tokens))} CT tokens)" if tokens else ""


def finding_of_mechanism(told: pd.DataFrame, why: str = "") -> Finding:
    """Whether the discarded share foretells the lead; told: of `region.foretold`.

    why: of `no_result.why_no_result`, where no score of the map is a result.
    """

    def shown(name: str) -> str:
        r, low, high = told.loc[name, ["r", "low", "high"]]
        return f"r = {r:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")

    within = told.loc["equal CT tokens"]
    kind = HOLDS if within["high"] < 0 else FAILS if within["low"] > 0 else OPEN
    text = (
        f"Within a seed the lead goes with SFT's discarded share at {shown('all')} over all cells, and at "
        f"{shown('equal CT tokens')} among cells of equal CT tokens, over {int(within['seeds'])} seeds. "
        "Where the mechanism predicts the lead, both are below zero."
    )
    return resting_on_scores([{"verdict": kind, "text": text}], why)[0]


def _faded(row: dict[str, Any], margin: float) -> Finding:
    kind = verdict_of(row, row.get("noise", WITH_TRAINING), margin)
    ahead = max(row["lead_first"], row["lead_last"]) > 0
    text = (
        f"From {budget_name(int(row['first']))} to {budget_name(int(row['last']))} CT tokens "
        f"{label(row['method'])} goes from {_signed(row['lead_first'])} to {_signed(row['lead_last'])} points"
        f" over CT-then-SFT, first minus last {_signed(row['difference'])} over {_drawn(row)} (95% "
        f"interval {_interval(row)}, Holm p {_p(row['p_holm'])})"
    )
    words = {HOLDS: "fades" if ahead else "falls behind", FAILS: "grows" if ahead else "catches up"}
    tails = {HOLDS: "the lead fades" if ahead else "it falls further behind",
             FAILS: "the lead grows" if ahead else "it catches up",
             OPEN: "not distinguishable from no change"}  # fmt: skip
    good = {HOLDS: FAILS, FAILS: HOLDS}.get(kind, kind) if not ahead else kind  # of a merge, not of a claim
    return {"verdict": good, "word": words.get(kind, kind), "text": f"{text}: {tails.get(kind, kind)}."}


def _pooled(row: dict[str, Any], margin: float) -> Finding:
    kind = verdict_of(row, row.get("noise", WITH_TRAINING), margin)
    text = (
        f"At {budget_name(int(row['ct_tokens']))} CT tokens {label(row['method'])} is "
        f"{points(row['difference'])} {label(row['baseline'])} over {_drawn(row)} "
        f"(95% interval {_interval(row)}, Holm p {_p(row['p_holm'])})"
    )
    tail = f"{text}: {ending(kind, *_ends(row), margin)}."
    word = {HOLDS: "better", FAILS: "worse"}.get(kind, kind)
    return {"verdict": kind, "word": word, "text": tail + _outside(row)}


def _drawn(row: dict[str, Any]) -> str:
    """What a mean is over: "15 seeds", "3 languages and 1 seed"."""
    seeds = f"{int(row['seeds'])} seed{'s' * (int(row['seeds']) != 1)}"
    return f"{int(row['languages'])} languages and {seeds}" if "languages" in row else seeds


def _outside(row: dict[str, Any]) -> str:
    """A sentence where the run at hand is not where single runs lie."""
    if not row.get("outside"):
        return ""
    ends = _interval({"ci_low": row["low"], "ci_high": row["high"]})
    return (f" This run, {row['own']:+.1f}, is outside of where 95% of single runs lie, {ends}.").replace(
        "-", "−"
    )


def _ends(row: dict[str, Any]) -> tuple[float, float]:
    return row["ci_low"], row["ci_high"]


def _interval(row: dict[str, Any]) -> str:
    return f"[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _fading(items: pd.DataFrame, budgets: list[int], margin: float) -> list[Finding]:
    """The lead at the smallest budget against the lead at the largest, on the same items."""
    if len(budgets) < 2:
        return []
    present = [m for m in METHODS if m in set(items["method"])]
    tests = {m: comparisons.fade(items, m, budgets) for m in present}
    corrected = statistics.holm([t.p for t in tests.values()])
    found = zip(present, corrected, strict=True)
    return [_fade_text(m, budgets, tests[m], float(p), margin) for m, p in found]


def _fade_text(method: str, budgets: list[int], test: Any, p: float, margin: float) -> Finding:
    value, low, high = (100 * x for x in (test.value, test.ci_low, test.ci_high))
    kind = verdict(value, low, high, p, ITEMS_ONLY, margin)
    how = "shrinks" if value >= 0 else "grows"
    text = (
        f"From {budget_name(int(budgets[0]))} to {budget_name(int(budgets[-1]))} CT tokens the "
        f"lead of {label(method)} over CT-then-SFT {how} by {abs(value):.1f} points "
        f"(95% interval of the shrinking, {ITEMS_ONLY}, {_interval({'ci_low': low, 'ci_high': high})}, "
        f"Holm p {_p(p)})"
    )
    tail = {ABOVE: "it fades on these items, in this run", BELOW: "it grows on these items, in this run",
            OPEN: "not distinguishable from no change"}  # fmt: skip
    return {"claim": FADES, "verdict": kind, "text": f"{text}: {tail.get(kind, kind)}."}


def _above_chance(marked: pd.DataFrame) -> Finding:
    """How many scores in X are above chance, above the majority class, and how many collapsed."""
    rows = marked[marked["task"].isin(results.tasks_in_x(marked))]
    above, clear, one = (int(rows[column].sum()) for column in ("above", "clear", "collapsed"))
    kind = HERE if above == len(rows) else NOT_HERE if above == 0 else PART
    text = (
        f"Of {len(rows)} scores in X (models times tasks), {above} have a 95% interval, {ITEMS_ONLY}, "
        f"wholly above chance, and {clear} wholly above the majority class as well; in {one} of the "
        f"{len(rows)} the model gives one answer to more than 60% of the items."
    )
    return {"claim": CHANCE, "verdict": kind, "text": text}


def beyond_base(items: pd.DataFrame) -> list[Finding]:
    """How many of the CT-then-SFT and merged models are better than the untouched base, in X."""
    right = comparisons.right_answers(items)
    models = [(method, tokens) for method, tokens in right if method in (*METHODS, "ct_then_sft")]
    if not models or ("base", 0) not in right:
        return []
    tests = {f"{m}@{budget_name(b)}": comparisons.against(right, (m, b), ("base", 0)) for m, b in models}
    corrected = statistics.holm([t.p for t in tests.values()])
    kinds = {
        m: verdict(t.value, t.ci_low, t.ci_high, float(p), ITEMS_ONLY)
        for (m, t), p in zip(tests.items(), corrected, strict=True)
    }
    better, worse = ([m for m, k in kinds.items() if k == kind] for kind in (ABOVE, BELOW))
    who = "merges" if "ct_then_sft" not in set(items["method"]) else "CT-then-SFT and merges"
    text = (
        f"Of {len(tests)} models ({who}, all budgets), {len(better)} are above "
        f"the base on the mean of the tasks in X{_named(better)}, {len(worse)} below it"
        f"{_named(worse)}, {len(tests) - len(better) - len(worse)} not distinguishable from it "
        f"(paired on this run's items alone, Holm over {len(tests)})."
    )
    kind = HERE if len(better) == len(tests) else PART if better else NOT_HERE if worse else OPEN
    return [{"claim": BEYOND, "verdict": kind, "text": text}]


def _named(models: list[str]) -> str:
    names = [" ".join([label(m.partition("@")[0]), m.partition("@")[2]]).strip() for m in models]
    return f" ({', '.join(names)})" if names else ""


def findings_of_shares(shares: pd.DataFrame, scores: pd.DataFrame | None = None) -> list[Finding]:
    """Whether τ CT and the discarded SFT share grow with the budget, at the fixed density.

    scores: of the run, where they are known; where they are no result nothing is claimed. These are counts
    over all weights of one run: no interval, and no word on other seeds.
    """
    rows = results.of_the_model(shares, "fixed").sort_values("ct_tokens")
    if len(rows) < 2:
        return []
    share = 100 * rows["sft_discarded"] / rows["sft_kept"]
    grows = rows["ct_l2"].is_monotonic_increasing and share.is_monotonic_increasing
    names = " / ".join(budget_name(int(t)) for t in rows["ct_tokens"])
    text = (
        f"At {names} CT tokens the L2 norm of CT's task vector is {_list(rows['ct_l2'], '.2f')} "
        f"(SFT's {rows['sft_l2'].iloc[0]:.2f}), and at density "
        f"{rows['density'].iloc[0]:g} the election discards {_list(share, '.1f')}% of the "
        f"SFT entries that trimming kept, {share.iloc[-1] - share.iloc[0]:+.1f} points from the first to the "
        f"last (the paper: {MORE_DISCARDED:+.0f}). Counted over all weights of this one run."
    )
    finding = {"claim": GROWS, "verdict": HERE if grows else NOT_HERE, "text": text}
    return resting_on_scores([finding], "" if scores is None else why_no_result(scores))


def _list(values: pd.Series, form: str) -> str:
    return " / ".join(format(v, form) for v in values)


def findings_of_failures(
    broken: pd.DataFrame, wrong: pd.DataFrame, near: pd.DataFrame, slopes: pd.DataFrame, tasks: Sequence[str]
) -> list[str]:
    """What the four tables of `lrnb.analysis.failures` say, in sentences; tasks: all that were scored."""
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
        counted = f"{most} budget{'s' * (most != 1)}"
        return f"Accuracy against the SFT entries kept: too few points ({counted}) for a slope."
    top = known.iloc[0]
    sure = known[(known["p_holm"] < ALPHA) & (known["ci_low"] > 0)]["task"]
    return (
        f"Steepest on the share of SFT entries kept: {top['task']}, {top['slope']:+.1f} points for each 10% "
        f"kept (95% interval {top['ci_low']:+.1f} to {top['ci_high']:+.1f}, {top['merges']} merges at "
        f"{top['budgets']} budgets). Clearly "
        f"rising (Holm): {', '.join(sure) if len(sure) else 'no task'}. CT differs between these merges, too."
    )
