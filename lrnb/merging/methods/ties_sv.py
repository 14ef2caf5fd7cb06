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

This file finds xi; `reserve_by` is another choice of the same number of entries. In `merging/kernels.py` xi
is applied to each entry by `_elect`, then `_win_back`, and another choice by `won` in `merge_ties`; on a GPU
in `Torch` of `merging/gpu.py`. A change there goes into `formulas.won_back` too.

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

`reserve_by` ranks D by another rule (`merging/selectors.py`), the number won back stays the same:

>>> ties_sv(base, ct, sft, density=1, slack=1/3, reserve_by="magnitude").tolist()    # |-3|: entry 0
[-3.0, -3.0, 6.0, 3.0, 3.0, -2.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lrnb.checkpoints.importance import BY_ENTRY
from lrnb.merging import formulas
from lrnb.merging.cpu import Ballot, Operands, Tally, View, Worker
from lrnb.merging.election import Scope, count_votes, settle_election, stop_after
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.importance import by_gradient
from lrnb.merging.methods import ties
from lrnb.merging.random_bits import whole_seed
from lrnb.merging.registry import Look, Method, PerParent, option
from lrnb.merging.selectors import RULES, SelectedSlack, selector_slack
from lrnb.merging.task_vectors import Span, TaskVectors
from lrnb.merging.thresholds import ALL, Bracket, bracket, locate, sample_size
from lrnb.merging.trimming import Merging, share


@dataclass(frozen=True, kw_only=True)
class TiesSV(Merging):
    """The options of TIES, and the slack."""

    slack: float | None = option(
        "the share of lost entries won back", None, low=0, high=1, search=(0.1, 0.3, 0.5), parameter="slacks",
        mergekit="slack", label="slack ρ",
    )  # fmt: skip
    slack_threshold: float | None = option(
        "the same as a margin of magnitude", None, low=0, mergekit="slack_threshold"
    )
    protect: str = option("the parent that slack is for", "sft", kind="parent", mergekit="protect")
    reserve_by: str = option(
        "which lost entries come first: narrowest margin, largest magnitude, at random, layer by layer, "
        "largest F * tau^2 or |g * tau|",
        "margin", choices=(*RULES, *BY_ENTRY),
    )  # fmt: skip
    importance: str | None = option("folder of lrnb importance, for fisher and gradient", None, kind="folder")
    seed: float | None = option("of the random numbers, a whole number", None, low=0)

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """Besides what TIES refuses, both slacks or none."""
        if (self.slack is None) == (self.slack_threshold is None):
            return f"needs one of {spell('slack')} (a share) and {spell('slack_threshold')} (a magnitude)"
        if self.slack is None and self.reserve_by != "margin":
            return f"takes {spell('reserve_by')} with {spell('slack')}, a share; a magnitude goes by margin"
        if (self.importance is None) == (self.reserve_by in BY_ENTRY):
            kinds = " or ".join(BY_ENTRY)
            return f"takes {spell('importance')} with {spell('reserve_by')} {kinds}, and needs it there"
        return whole_seed(self.seed or 0, spell) or super().complaint(parents, spell)

    def passes(self) -> int:
        """A share needs a look at the lost entries, which counts the votes too; another rule than margin has
        a pass of its own, layers two."""
        if self.slack is None:
            return super().passes()
        more = {"margin": int(self.zero_sign == "positive"), "layer": 2}.get(self.reserve_by, 1)
        return super().passes() + more

    def measured(self, parents: Sequence[str], entries: int, tally: Tally) -> dict[str, Any]:
        """reserved_share is of the conflicts that TIES alone would have taken from the protected parent."""
        left = int(tally.lost[list(parents).index(self.protect)])
        won = {"reserved": tally.reserved, "reserved_share": share(tally.reserved, tally.reserved + left)}
        return super().measured(parents, entries, tally) | won

    def refuse(self, vectors: TaskVectors) -> None:
        """Scores that do not fit these models."""
        if self.importance is not None:
            by_gradient(self.importance, self.reserve_by, vectors)

    def rule(self, vectors: TaskVectors) -> ShareSlack | ThresholdSlack | SelectedSlack:
        """The slack of every scope."""
        own = list(vectors.parents).index(self.protect)
        if self.slack is not None and self.importance is not None:
            return SelectedSlack(own, self.slack, by_gradient(self.importance, self.reserve_by, vectors))
        if self.slack is not None and self.reserve_by != "margin":
            return selector_slack(self.reserve_by, own, self.slack, int(self.seed or 0))
        if self.slack is not None:
            return ShareSlack(own, self.slack)
        return ThresholdSlack(own, np.float32(self.slack_threshold))


def ties_sv(
    base: Tensors,
    ct: Tensors,
    sft: Tensors,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    **options: Any,
) -> Tensors:
    """TIES-SV merge of two parents (formula above). Give one of `slack` and `slack_threshold`.

    Tensors are numpy or torch, or dicts of them. density: a number, or {"ct": x, "sft": y}; options: all
    others of `TiesSV`. Result and errors as in `ties.ties`.
    """
    given = {"density": density, "slack": slack, "slack_threshold": slack_threshold, **options}
    return merge_tensors(METHOD, base, {"ct": ct, "sft": sft}, given)


def _prepare(vectors: TaskVectors, names: list[str], options: TiesSV) -> ties.Elected:
    """As TIES; the pass that counts votes looks at what the protected parent loses, too."""
    return ties.Elected(settle_election(vectors, names, options, options.rule(vectors)))


@dataclass(frozen=True)
class ThresholdSlack:
    """Wins back every lost conflict with |w_s s| + xi >= |what the others bring together|."""

    own: int
    xi: np.float32

    def settle(self, scope: Scope, options: Merging) -> Scope:
        """The scope with its election decided; see `election.settle_election`."""
        scope = count_votes(scope, options)
        return replace(scope, ballot=replace(scope.ballot, own=self.own, xi=self.xi, by_sum=False))


@dataclass(frozen=True)
class ShareSlack:
    """Wins back the share `slack` of the protected parent's lost conflicts, narrowest first.

    The margin of a lost conflict is |weighted sum|: with two parents just |w_c c| - |w_s s|, and
    with more the distance by which all others together outvote the protected parent.
    """

    own: int
    slack: float

    def settle(self, scope: Scope, options: Merging) -> Scope:
        """The scope with its election decided; see `election.settle_election`."""
        scope = replace(scope, ballot=replace(scope.ballot, own=self.own))
        spans, sample, widen = scope.spans(), self._sample(scope), 1.0
        while True:
            bounds = bracket(sample, 1 - self.slack, widen)
            look = partial(_observe, bounds=bounds)
            views = scope.view(spans, look)
            scope = scope.with_zero(options.zero_sign, sum(view.lead for view in views))
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
            ballot, deltas = scope.at(span), [scope.vectors.delta(p, span) for p in scope.vectors.parents]
            taus = formulas.trim_all(deltas, ballot.thresholds)
            near = formulas.margin(taus, ballot.weights) == xi
            near[near] = losses([tau[near] for tau in taus], ballot)  # of few entries: it is slow
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
        taus = formulas.trim_all(deltas, scope.ballot.thresholds)
        return np.sort(formulas.margin(taus, scope.ballot.weights)[losses(taus, scope.ballot)])


def _observe(worker: Worker, data: Operands, ballot: Ballot, *, bounds: Bracket) -> View:
    return worker.observe(data, ballot, *bounds)


def losses(taus: Sequence[np.ndarray], ballot: Ballot) -> np.ndarray:
    """Where the protected parent loses a conflict."""
    gamma = formulas.elect(taus, ballot.weights, ballot.zero)
    return formulas.discarded(taus[ballot.own], gamma) & formulas.conflict(taus)


def _needs(options: Mapping[str, Any]) -> str:
    rule = str(options.get("reserve_by"))
    return rule if rule in BY_ENTRY else ""


def _from_mergekit(given: dict[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    """Where nobody is named, the one model that is called like sft is protected."""
    likely = [name for name in parents if "sft" in name.lower()]
    return given if "protect" in given or len(likely) != 1 else given | {"protect": likely[0]}


METHOD = Method(
    name="ties_sv",
    label="TIES-SV",
    summary="ties, and sft wins back the conflicts that it lost most narrowly",
    source="Tao et al. 2024, arXiv 2407.03994",
    look=Look("#CC79A7", "triangle-down"),
    options=TiesSV,
    prepare=_prepare,
    after=ties.METHOD,
    notebook="02_merge/03_ties_sv",
    cost=20,
    needs=_needs,
    mergekit=replace(ties.KIT, name="ties_sv", translate=_from_mergekit),
)
