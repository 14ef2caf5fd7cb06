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

from collections.abc import Callable

import numpy as np

from lrnb.election import PerParent, Slack, per_parent, rules
from lrnb.merge import DtypeOf, Pieces, Tensors, run_on_tensors, ties_pieces, weighted_sum
from lrnb.params import UserError
from lrnb.vectors import TaskVectors


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
) -> Tensors:
    """TIES-SV merge of two parents (formula above). Give one of `slack` and `slack_threshold`.

    Tensors are numpy or torch, or dicts of them (a dict is one scope). `density` and `weights` are
    numbers, or {"ct": x, "sft": y}. Returns base's kind, shapes and dtypes. UserError where tensors
    do not match or an option is out of range.
    """

    def pieces(vectors: TaskVectors, dtype_of: DtypeOf) -> Pieces:
        checked = rules(vectors.parents, density, weights, zero_sign, at_threshold)
        make = slack_maker(vectors.parents, checked.weights, slack, slack_threshold)
        return ties_pieces(vectors, dtype_of, checked, lam=lam, make_slack=make)

    return run_on_tensors("ties_sv", base, {"ct": ct, "sft": sft}, pieces)


def slack_maker(
    parents: list[str],
    weights: list[np.float32],
    slack: float | None = None,
    slack_threshold: float | None = None,
    protect: str = "sft",
) -> Callable[[], Slack]:
    """A maker of one slack rule a scope. UserError unless exactly one slack is given, in range."""
    if (slack is None) == (slack_threshold is None):
        raise UserError("ties_sv: give one of slack (a fraction) and slack_threshold (a magnitude)")
    if protect not in parents:
        raise UserError(f"ties_sv: protect names {protect!r}, but the parents are {parents}")
    own = parents.index(protect)
    if slack is not None:
        share = per_parent(["slack"], slack, 0.0, "slack", 0.0, 1.0)[0]
        return lambda: ShareSlack(own, share)
    xi = per_parent(["xi"], slack_threshold, 0.0, "slack_threshold", 0.0, 1e30)[0]
    return lambda: ThresholdSlack(own, weights, np.float32(xi))


def _lost(own: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Where the protected parent's entry is nonzero and the elected sign is the other one."""
    return ((own > 0) & ~up) | ((own < 0) & up)


def _conflicting(trimmed: list[np.ndarray], own: int, at: np.ndarray) -> np.ndarray:
    """Of the entries `at`, those where some parent has the sign opposite to the protected one."""
    positive = trimmed[own][at] > 0
    against = [np.where(positive, x[at] < 0, x[at] > 0) for x in trimmed]
    return at[np.logical_or.reduce(against)]


class ShareSlack:
    """Wins back the share `slack` of the protected parent's lost conflicts, narrowest first.

    The margin of a lost conflict is |weighted sum|: with two parents just |w_c c| - |w_s s|, and
    with more the distance by which all others together outvote the protected parent.
    """

    def __init__(self, own: int, slack: float) -> None:
        self.own, self.slack = own, slack
        self.margins = [np.empty(0, np.float32)]
        self.level = {True: 0, False: 0}  # exact ties by the sign of the protected entry
        self.xi, self.left = np.float32(0), 0  # margins below xi are won, of equal ones `left`

    def observe(self, total: np.ndarray, trimmed: list[np.ndarray]) -> None:
        """First pass: note every margin at which the protected parent loses."""
        own = trimmed[self.own]
        lost = ((own > 0) & (total < 0)) | ((own < 0) & (total > 0))
        self.margins.append(np.abs(total[np.flatnonzero(lost)]))
        level = _conflicting(trimmed, self.own, np.flatnonzero((total == 0) & (own != 0)))
        positive = int(np.count_nonzero(own[level] > 0))
        self.level[True] += positive
        self.level[False] += len(level) - positive

    def settle(self, zero_up: bool) -> None:
        """Between the passes: turn the share into xi and the number to win at xi itself."""
        margins, level = np.concatenate(self.margins), self.level[not zero_up]
        self.margins = []
        wanted = round(self.slack * (level + len(margins)))
        if wanted <= level:
            self.left = wanted
            return
        rank = wanted - level - 1
        self.xi = np.partition(margins, rank)[rank]
        self.left = rank + 1 - int(np.count_nonzero(margins < self.xi))

    def reserve(self, total: np.ndarray, trimmed: list[np.ndarray], up: np.ndarray) -> int:
        """Second pass: flip the elected sign `up` in place where won back; returns how many."""
        near = np.flatnonzero(_lost(trimmed[self.own], up) & (np.abs(total) <= self.xi))
        near = _conflicting(trimmed, self.own, near)
        margin = np.abs(total[near])
        equal = np.flatnonzero(margin == self.xi)
        won = np.delete(near, equal[self.left :])
        self.left -= min(self.left, len(equal))
        up[won] = ~up[won]
        return len(won)


class ThresholdSlack:
    """Wins back every lost conflict with |w_s s| + xi >= |what the others bring together|."""

    def __init__(self, own: int, weights: list[np.float32], xi: np.float32) -> None:
        self.own, self.weights, self.xi = own, weights, xi

    def observe(self, total: np.ndarray, trimmed: list[np.ndarray]) -> None:
        """Nothing to learn: xi is given."""

    def settle(self, zero_up: bool) -> None:
        """Nothing to settle."""

    def reserve(self, total: np.ndarray, trimmed: list[np.ndarray], up: np.ndarray) -> int:
        """Flip the elected sign `up` in place where won back; returns how many."""
        at = np.flatnonzero(_lost(trimmed[self.own], up))
        at = _conflicting(trimmed, self.own, at)
        entries = [x[at] for x in trimmed]
        own = np.abs(entries[self.own] * self.weights[self.own])
        rest = [i for i in range(len(trimmed)) if i != self.own]
        others = weighted_sum([entries[i] for i in rest], [self.weights[i] for i in rest])
        against = np.abs(others)
        won = at[own + self.xi >= against]
        up[won] = ~up[won]
        return len(won)
