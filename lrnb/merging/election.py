"""Trimming and electing signs: the part that TIES, TIES-SV and the conflict tables share.

TIES: Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models", arXiv
2306.01708. A scope (the whole model, or one tensor) is gone through three times: to find each
parent's cut, to count elected signs, and to elect and merge. Any pass may run on several threads.

This file settles what a scope shares: cuts, the sign of exact ties, the margin. What happens to one entry is
in `kernels.py` (`_elect`, then `_win_back`) and, for arrays, in `formulas.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lrnb.merging.cpu import Ballot, Operands, Scan, Tally, View, Worker
from lrnb.merging.equalising import equalising_factors
from lrnb.merging.task_vectors import Span, TaskVectors
from lrnb.merging.thresholds import ALL, NEVER, Bracket, Cut, Kth, kth_largest, locate, sample_size
from lrnb.merging.trimming import Merging


class Trimming(Protocol):
    """The share of entries kept of each parent, and what happens at the threshold; see `Merging`."""

    @property
    def density(self) -> tuple[float, ...]: ...
    @property
    def at_threshold(self) -> str: ...


class WonBack(Protocol):
    """Which losses of a scope the protected parent wins back, where it is not by their margins."""

    def won(self, worker: Worker, span: Span, data: Operands, ballot: Ballot) -> np.ndarray:
        """Some of `worker.losses`."""
        ...


class Slack(Protocol):
    """What TIES-SV adds to an election; the implementations are in `lrnb/merging/methods/ties_sv.py`."""

    def settle(self, scope: Scope, options: Merging) -> Scope: ...


@dataclass(frozen=True)
class Scope:
    """One scope, ready to be merged: where each parent is cut, and the decisions that all spans share.

    `xi` is won back up to entry `xi_stop`, see `Ballot`; or `choice` says what is.
    """

    vectors: TaskVectors
    names: list[str]
    cuts: list[Cut]
    ballot: Ballot
    xi_stop: int = 0
    choice: WonBack | None = None

    def spans(self) -> list[Span]:
        return self.vectors.spans(self.names, [*(cut.stop for cut in self.cuts), self.xi_stop])

    def at(self, span: Span) -> Ballot:
        """The ballot of one span."""
        thresholds = tuple(cut.at(span) for cut in self.cuts)
        xi = self.ballot.xi
        if self.ballot.by_sum and span.first >= self.xi_stop:
            xi = np.nextafter(xi, -NEVER)
        return replace(self.ballot, thresholds=thresholds, xi=xi)

    def view(self, spans: Sequence[Span], look: Callable[[Worker, Operands, Ballot], View]) -> list[View]:
        """One pass that looks at every span."""
        return self.vectors.run(spans, lambda worker, span, data: look(worker, data, self.at(span)))

    def with_zero(self, zero_sign: str, lead: int) -> Scope:
        """The sign of exact zero sums settled."""
        up = zero_sign == "positive" or lead > 0
        return replace(self, ballot=replace(self.ballot, zero=np.float32(1 if up else -1)))


def total(tallies: Sequence[Tally], parents: int) -> Tally:
    """The sum of all counts."""
    plain = [sum(int(tally[i]) for tally in tallies) for i in range(4)]
    kept, lost = (np.array([t[i] for t in tallies], np.int64).reshape(-1, parents).sum(0) for i in (4, 5))
    return Tally(plain[0], plain[1], plain[2], plain[3], kept, lost)


def cuts(
    vectors: TaskVectors, names: list[str], options: Trimming, near: Sequence[Bracket] | None = None
) -> list[Cut]:
    """Where each parent is trimmed over the scope `names`; remembered in `vectors`.

    k = round(density * n) entries are kept (design, section 3). "keep-all" keeps every entry that
    equals the k-th magnitude, so that the result does not depend on order; "exact" keeps the ones
    with the lowest index until k are kept. near: of each parent two magnitudes between which its
    k-th lies, or twice the k-th itself, where a look at all (finite) entries has told them; else a
    sample is taken. UserError where a task vector is not finite.
    """
    key = (options.density, options.at_threshold, tuple(names))
    if key not in vectors.cuts:
        vectors.cuts[key] = _find_cuts(vectors, names, options, near)
    return vectors.cuts[key]


def quotas(options: Trimming, n: int) -> list[int]:
    """How many of n entries each parent keeps."""
    return [round(density * n) for density in options.density]


def _find_cuts(
    vectors: TaskVectors, names: list[str], options: Trimming, near: Sequence[Bracket] | None
) -> list[Cut]:
    n, spans = vectors.size(names), vectors.spans(names)
    ks = quotas(options, n)
    if not n:
        return [Cut(NEVER, 0) for _ in ks]
    if near and options.at_threshold == "keep-all" and all(low == high for low, high in near):
        return [Cut(low, n) if k else Cut(NEVER, 0) for k, (low, _) in zip(ks, near, strict=True)]
    found = _kths(vectors, names, spans, [max(k, 1) for k in ks], near)
    if options.at_threshold == "keep-all":
        return [Cut(kth.value, n) if k else Cut(NEVER, 0) for k, kth in zip(ks, found, strict=True)]
    return [_exact_cut(vectors, spans, i, k, kth) for i, (k, kth) in enumerate(zip(ks, found, strict=True))]


def _kths(
    vectors: TaskVectors, names: list[str], spans: list[Span], ks: list[int], near: Sequence[Bracket] | None
) -> list[Kth]:
    """Every parent's k-th largest magnitude."""

    def scan(bounds: Sequence[Bracket]) -> list[list[Scan]]:
        both = np.array(bounds, np.float32).T.copy()
        found = vectors.run(spans, lambda worker, span, data: worker.scan(data, (both[0], both[1])))
        if any(bad for _, bad in found):
            vectors.refuse_deltas()
        return [[scans[i] for scans, _ in found] for i in range(len(ks))]

    if near:
        found = [locate(*each) for each in zip(ks, near, scan(near), strict=True)]
        if None not in found:
            return found  # type: ignore[return-value]
    n = vectors.size(names)
    some = vectors.sample(names, sample_size(n))[0] if n > ALL else np.empty((len(ks), 0), np.float32)
    np.abs(some, out=some).sort(axis=1)
    return kth_largest(scan, list(some), ks, n)


def _exact_cut(vectors: TaskVectors, spans: list[Span], i: int, k: int, kth: Kth) -> Cut:
    if not k:
        return Cut(NEVER, 0)
    at, rank = place_of_nth(kth.equal, k - kth.above)
    last = vectors.run([spans[at]], lambda worker, span, data: worker.position(data, i, kth.value, rank))
    return Cut(kth.value, spans[at].first + last[0] + 1)


def place_of_nth(counts: np.ndarray, quota: int) -> tuple[int, int]:
    """The span that holds the `quota`-th marked entry, and its rank there, from 1."""
    seen = np.cumsum(counts)
    i = int(np.searchsorted(seen, quota))
    return i, quota - (int(seen[i - 1]) if i else 0)


def stop_after(
    spans: Sequence[Span], counts: np.ndarray, quota: int, marked: Callable[[Span], np.ndarray]
) -> int:
    """The index in the scope just after the `quota`-th marked entry; `counts` has those of each span."""
    if quota <= 0:
        return 0
    i, rank = place_of_nth(counts, quota)
    return spans[i].first + int(np.flatnonzero(marked(spans[i]))[rank - 1]) + 1


def settle_election(
    vectors: TaskVectors, names: list[str], options: Merging, slack: Slack | None = None
) -> Scope:
    """Trim one scope and settle everything that its election needs.

    The elected sign is that of the weighted sum. Where the sum is exactly 0, `zero_sign="majority"`
    takes the sign that was elected at more entries of the scope, as `resolve_zero_signs` of the
    TIES authors does, - if both were elected equally often (their code's outcome too);
    "positive" takes +. `equalise` changes the weights, see `lrnb/merging/equalising.py`.
    """
    found = cuts(vectors, names, options)
    thresholds = tuple(cut.threshold for cut in found)
    factors = equalising_factors(vectors, names, options.equalise, found)
    weights = tuple(np.float32(w * f) for w, f in zip(options.weights, factors, strict=True))
    ballot = Ballot(thresholds, weights, lam=np.float32(options.lam), normalize=options.normalize)
    scope = Scope(vectors, names, found, ballot)
    if slack is not None:
        return slack.settle(scope, options)
    return count_votes(scope, options)


def count_votes(scope: Scope, options: Merging) -> Scope:
    """The scope with the sign of exact zero sums settled; one pass unless it is given."""
    lead = 0
    if options.zero_sign == "majority":
        views = scope.view(scope.spans(), lambda worker, data, ballot: worker.vote(data, ballot))
        lead = sum(view.lead for view in views)
    return scope.with_zero(options.zero_sign, lead)
