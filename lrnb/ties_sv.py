"""TIES with a slack variable (TIES-SV): SFT wins back the conflicts that it lost most narrowly.

Source: Tao et al. 2024, "Unlocking the Potential of Model Merging for Low-Resource Languages",
Findings of EMNLP 2024, arXiv 2407.03994.

For one entry, c and s are the trimmed task vectors of CT and SFT, w_c and w_s their weights. TIES
elects the sign of the larger of |w_c c| and |w_s s|. As CT sees more tokens its task vector grows
and more of SFT is discarded. A slack xi >= 0 tips the scales:

    sign = sign(s)   where  |w_s s| + xi >= |w_c c|,   at conflicts (c and s nonzero, signs differ)

xi is given itself (`slack_threshold`), or as the fraction `slack` = rho of the discarded SFT
entries D to win back: they are ranked by delta = |w_c c| - |w_s s|, and the round(rho |D|) smallest
are reserved; of equal delta those with the lowest index. rho = 0 is TIES bit for bit; with rho = 1
SFT wins every conflict. An exact tie (delta = 0) that the zero-sign rule gave to CT belongs to D
and comes first; this is how "SFT wins every conflict" holds for ties too.

Six numbers, density 1, weights 1, base 0. Conflicts are entries 0, 1, 2 and 4; CT wins 0, 1 and 2
by deltas 2, 1 and 5, SFT wins 4:

>>> import numpy as np
>>> base = np.zeros(6, np.float32)
>>> ct  = np.float32([ 5, -3,  6,  2, -1,  0])
>>> sft = np.float32([-3,  2, -1,  4,  3, -2])
>>> ties_sv(base, ct, sft, density=1, slack=0).tolist()      # TIES: D = {0, 1, 2}
[5.0, -3.0, 6.0, 3.0, 3.0, -2.0]
>>> ties_sv(base, ct, sft, density=1, slack=1/3).tolist()    # one won back: entry 1, delta 1
[5.0, 2.0, 6.0, 3.0, 3.0, -2.0]
>>> ties_sv(base, ct, sft, density=1, slack_threshold=2).tolist()  # deltas up to 2: entries 0 and 1
[-3.0, 2.0, 6.0, 3.0, 3.0, -2.0]
>>> ties_sv(base, ct, sft, density=1, slack=1).tolist()      # SFT wins every conflict
[-3.0, 2.0, -1.0, 3.0, 3.0, -2.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lrnb.election import PerParent, Rules, Scope, count_votes, per_parent, rules, stop_after
from lrnb.merge import Plan, Tensors, run_on_tensors, ties_plan
from lrnb.params import UserError
from lrnb.select import ALL, Bracket, bracket, locate, sample_size
from lrnb.vectors import Span
from lrnb.workers import Ballot, Operands, View, Worker


def ties_sv(
    base: Tensors,
    ct: Tensors,
    sft: Tensors,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    weights: PerParent = None,
    lam: float = 1.0,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
    normalize: bool = True,
) -> Tensors:
    """TIES-SV merge of two parents (formula above). Give one of `slack` and `slack_threshold`.

    Tensors are numpy or torch, or dicts of them (a dict is one scope). `density` and `weights` are
    numbers, or {"ct": x, "sft": y}. Returns base's kind, shapes and dtypes. UserError where tensors
    do not match or an option is out of range.
    """

    def plan(parents: list[str]) -> Plan:
        checked = rules(parents, density, weights, zero_sign, at_threshold, normalize)
        return ties_plan(checked, lam, slack=slack_rule(parents, slack, slack_threshold))

    return run_on_tensors("ties_sv", base, {"ct": ct, "sft": sft}, plan)


def slack_rule(
    parents: list[str],
    slack: float | None = None,
    slack_threshold: float | None = None,
    protect: str = "sft",
) -> ShareSlack | ThresholdSlack:
    """The slack of every scope. UserError unless exactly one slack is given, in range."""
    if (slack is None) == (slack_threshold is None):
        raise UserError("ties_sv: give one of slack (a fraction) and slack_threshold (a magnitude)")
    if protect not in parents:
        raise UserError(f"ties_sv: protect names {protect!r}, but the parents are {parents}")
    own = parents.index(protect)
    if slack is not None:
        return ShareSlack(own, per_parent(["slack"], slack, 0.0, "slack", 0.0, 1.0)[0])
    xi = per_parent(["xi"], slack_threshold, 0.0, "slack_threshold", 0.0, 1e30)[0]
    return ThresholdSlack(own, np.float32(xi))


@dataclass(frozen=True)
class ThresholdSlack:
    """Wins back every lost conflict with |w_s s| + xi >= |what the others bring together|."""

    own: int
    xi: np.float32

    def settle(self, scope: Scope, rules: Rules) -> Scope:
        """The scope with its election decided; see `election.elect`."""
        scope = count_votes(scope, rules)
        return replace(scope, ballot=replace(scope.ballot, own=self.own, xi=self.xi, by_sum=False))


@dataclass(frozen=True)
class ShareSlack:
    """Wins back the share `slack` of the protected parent's lost conflicts, narrowest first.

    The margin of a lost conflict is |weighted sum|: with two parents just |w_c c| - |w_s s|, and
    with more the distance by which all others together outvote the protected parent.
    """

    own: int
    slack: float

    def settle(self, scope: Scope, rules: Rules) -> Scope:
        """The scope with its election decided; see `election.elect`."""
        scope = replace(scope, ballot=replace(scope.ballot, own=self.own))
        spans, sample, widen = scope.spans(), self._sample(scope), 1.0
        while True:
            bounds = bracket(sample, 1 - self.slack, widen)
            look = partial(_observe, bounds=bounds)
            views = scope.view(spans, look)
            scope = scope.with_zero(rules.zero_sign, sum(view.lead for view in views))
            if (decided := self._decide(scope, spans, bounds, views)) is not None:
                return decided
            widen *= 4

    def _decide(
        self, scope: Scope, spans: list[Span], bounds: Bracket, views: Sequence[View]
    ) -> Scope | None:
        """xi, and the entry up to which margins of just xi are won; None if xi is not in the bracket.

        The exact ties that go against the protected parent come first, with margin 0.
        """
        side = 0 if scope.ballot.zero > 0 else 1  # the protected entries' sign where ties go against them
        level, lost = sum(view.even[side] for view in views), sum(view.lost for view in views)
        wanted = round(self.slack * (level + lost))
        if wanted <= level:
            counts = np.array([view.even[side] for view in views])
            return self._decided(scope, spans, np.float32(0), counts, wanted)
        rank = lost - (wanted - level) + 1  # from the largest margin
        found = locate(rank, bounds, [view.margins for view in views])
        if found is None:
            return None
        below = lost - found.above - int(found.equal.sum())
        return self._decided(scope, spans, found.value, found.equal, wanted - level - below)

    def _decided(
        self, scope: Scope, spans: list[Span], xi: np.float32, counts: np.ndarray, quota: int
    ) -> Scope:
        def at_xi(span: Span) -> np.ndarray:
            deltas = [scope.vectors.delta(parent, span) for parent in scope.vectors.parents]
            near = np.abs(weighted_sum(trimmed(deltas, scope.at(span)), scope.ballot)) == xi
            _, lost = margins_of([x[near] for x in deltas], scope.at(span))  # of few entries: it is slow
            near[near] = lost
            return near

        stop = stop_after(spans, counts, quota, at_xi)
        return replace(scope, ballot=replace(scope.ballot, xi=xi), xi_stop=stop)

    def _sample(self, scope: Scope) -> np.ndarray:
        """Margins of a sample of the lost conflicts, exact ties among them, ascending; empty for small
        scopes."""
        n = scope.vectors.size(scope.names)
        if n <= ALL:
            return np.empty(0, np.float32)
        deltas = scope.vectors.sample(scope.names, sample_size(n) // 4)[0]  # margins take more room
        thresholds = np.array([cut.threshold for cut in scope.cuts], np.float32)
        margins, lost = margins_of(list(deltas), replace(scope.ballot, thresholds=thresholds))
        return np.sort(margins[lost])


def _observe(worker: Worker, data: Operands, ballot: Ballot, *, bounds: Bracket) -> View:
    return worker.observe(data, ballot, *bounds)


def trimmed(deltas: Sequence[np.ndarray], ballot: Ballot) -> list[np.ndarray]:
    """The deltas without what is below the thresholds."""
    return [x * (np.abs(x) >= t) for x, t in zip(deltas, ballot.thresholds, strict=True)]


def weighted_sum(kept: Sequence[np.ndarray], ballot: Ballot) -> np.ndarray:
    """In the order of the parents, as the compiled loops add."""
    total = kept[0] * ballot.weights[0]
    for x, weight in zip(kept[1:], ballot.weights[1:], strict=True):
        total = total + x * weight
    return total


def margins_of(deltas: Sequence[np.ndarray], ballot: Ballot) -> tuple[np.ndarray, np.ndarray]:
    """|weighted sum| of each entry, and where the protected parent loses a conflict (bool)."""
    kept = trimmed(deltas, ballot)
    total = weighted_sum(kept, ballot)
    own, sign = kept[ballot.own], np.where(total == 0, ballot.zero, total)
    against = np.logical_or.reduce([np.sign(x) == -np.sign(own) for x in kept])
    return np.abs(total), (np.sign(own) == -np.sign(sign)) & (own != 0) & against
