"""Other answers to the question of TIES-SV: which of its lost entries should a parent win back?

Slack takes those that were lost by the narrowest margin. Here the same number, round(slack * |D|) of the lost
entries D, is taken by another rule:

    magnitude  the largest |tau| of the protected parent
    random     at random, by a seed (`random_bits.py`)
    layer      whole layers, from the smallest mean margin up; the last one in part, by margin

so that two merges differ in the choice alone. Of equal scores the entry with the lowest index comes first.
What lies outside the layers counts as a layer for each tensor. A rule that weighs entries by gradients is one
more `Selector`: an array a tensor, and a score from it and the task vector.

The question is the first that Tao et al. 2024 (arXiv 2407.03994) leave open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.cpu import NONE, Ballot, Operands, Scan, Worker
from lrnb.merging.election import Scope, count_votes, stop_after
from lrnb.merging.layers import layer_of
from lrnb.merging.random_bits import random_words
from lrnb.merging.sums import PORTION
from lrnb.merging.task_vectors import Span, T
from lrnb.merging.thresholds import ALL, NEVER, bracket, locate
from lrnb.merging.trimming import Merging

RULES = ("margin", "magnitude", "random", "layer")
SAMPLED = 256  # one of so many entries guides the search
LARGEST_BITS = np.uint32(0x7F7FFFFF)  # of the largest float32


class Losses(NamedTuple):
    """The losses of the protected parent in a span: their indices `at`, and what tells of them."""

    worker: Worker
    span: Span
    data: Operands
    ballot: Ballot
    at: np.ndarray

    def margins(self) -> np.ndarray:
        """By how much each was lost."""
        parents = range(len(self.data.parents))
        deltas = [self.worker.deltas_at(self.data, p, self.at) for p in parents]
        return np.asarray(
            formulas.margin(formulas.trim_all(deltas, self.ballot.thresholds), self.ballot.weights)
        )


class Selector(Protocol):
    def scores(self, losses: Losses) -> np.ndarray:
        """float32, at least 0 and finite; the largest are won back first."""
        ...


@dataclass(frozen=True)
class ByMagnitude:
    def scores(self, losses: Losses) -> np.ndarray:
        return abs(losses.worker.deltas_at(losses.data, losses.ballot.own, losses.at))


@dataclass(frozen=True)
class ByChance:
    seed: int

    def scores(self, losses: Losses) -> np.ndarray:
        name, start, stop = losses.span[:3]
        words = random_words(self.seed, name, losses.ballot.own, start, stop - start)
        return (words[losses.at] >> 8).astype(np.float32)  # 24 bits are all that float32 holds


@dataclass(frozen=True)
class ByMargin:
    def scores(self, losses: Losses) -> np.ndarray:
        """Larger for narrower margins, and different where these are: floats are in the order of their
        bits."""
        return (LARGEST_BITS - losses.margins().view(np.uint32)).view(np.float32)


@dataclass(frozen=True)
class Chosen:
    """What is won back: all losses in the tensors `whole`; elsewhere, or in `part`, those with a score above
    `least`, and of those equal to it the ones before entry `stop` of the scope."""

    rule: Selector
    least: np.float32
    stop: int
    whole: frozenset[str] = frozenset()
    part: frozenset[str] | None = None

    def won(self, worker: Worker, span: Span, data: Operands, ballot: Ballot) -> np.ndarray:
        """As `election.WonBack.won`."""
        if self.part is not None and span.name not in self.whole | self.part:
            return np.empty(0, np.int64)
        at = worker.losses(data, ballot)
        if span.name in self.whole:
            return at
        scores = self.rule.scores(Losses(worker, span, data, ballot, at))
        return at[(scores > self.least) | ((scores == self.least) & (span.first + at < self.stop))]


@dataclass(frozen=True)
class SelectedSlack:
    """Wins back the share `slack` of the protected parent's lost conflicts, by a rule of its own."""

    own: int
    slack: float
    rule: Selector
    by_layer: bool = False

    def settle(self, scope: Scope, options: Merging) -> Scope:
        """The scope with its election decided; see `election.settle_election`."""
        scope = count_votes(replace(scope, ballot=replace(scope.ballot, own=self.own, xi=NONE)), options)
        if self.by_layer:
            return replace(scope, choice=_layers(scope, self.slack))
        ends = _largest(scope, scope.spans(), self.rule, lambda lost: round(self.slack * lost), self.slack)
        return replace(scope, choice=Chosen(self.rule, *ends))


def selector_slack(rule: str, own: int, slack: float, seed: int) -> SelectedSlack:
    """The slack of one of RULES but margin."""
    rules: dict[str, Selector] = {"magnitude": ByMagnitude(), "random": ByChance(seed), "layer": ByMargin()}
    return SelectedSlack(own, slack, rules[rule], by_layer=rule == "layer")


def _largest(
    scope: Scope, spans: list[Span], rule: Selector, wanted: Callable[[int], int], share: float
) -> tuple[np.float32, int]:
    """(least score, the entry up to which it counts) of the wanted(number of losses) largest scores.

    A sample brackets the score and one pass proves it, as in `thresholds.py`; share: about how many of the
    losses are wanted.
    """
    sample, widen = _sample(scope, spans, rule), 1.0
    while True:
        low, high = bracket(sample, share, widen)
        found = _run(scope, spans, rule, lambda scores: (len(scores), _scan(scores, low, high)))  # noqa: B023
        quota = wanted(sum(lost for lost, _ in found))
        if not quota:
            return NEVER, 0
        if kth := locate(quota, (low, high), [scan for _, scan in found]):
            return kth.value, stop_after(spans, kth.equal, quota - kth.above, _marks(scope, rule, kth.value))
        widen *= 4


def _run(scope: Scope, spans: list[Span], rule: Selector, look: Callable[[np.ndarray], T]) -> list[T]:
    """One pass that looks at the scores of every span."""

    def one(worker: Worker, span: Span, data: Operands) -> T:
        return look(rule.scores(_losses(scope, worker, span, data)))

    return scope.vectors.run(spans, one)


def _losses(scope: Scope, worker: Worker, span: Span, data: Operands) -> Losses:
    ballot = scope.at(span)
    return Losses(worker, span, data, ballot, worker.losses(data, ballot))


def _scan(scores: np.ndarray, low: np.float32, high: np.float32) -> Scan:
    over, at_high, at_low = (int(np.count_nonzero(x)) for x in (scores > high, scores == high, scores == low))
    return Scan(over, at_high, at_low, scores[(low < scores) & (scores < high)])


def _sample(scope: Scope, spans: list[Span], rule: Selector) -> np.ndarray:
    """Scores at the beginning of every span, ascending; none of a small scope."""
    if sum(span.stop - span.start for span in spans) <= ALL:
        return np.empty(0, np.float32)
    sizes = [max(1024, (span.stop - span.start) // SAMPLED) for span in spans]
    some = [s._replace(stop=min(s.stop, s.start + n)) for s, n in zip(spans, sizes, strict=True)]
    return np.sort(np.concatenate(_run(scope, some, rule, np.copy)))


def _marks(scope: Scope, rule: Selector, value: np.float32) -> Callable[[Span], np.ndarray]:
    """Where a span's losses have just this score."""

    def marked(span: Span) -> np.ndarray:
        losses = _losses(scope, scope.vectors.workers[0], span, scope.vectors.operands(span))
        marks = np.zeros(span.stop - span.start, bool)
        marks[losses.at[rule.scores(losses) == value]] = True
        return marks

    return marked


def _layers(scope: Scope, slack: float) -> Chosen:
    """Whole layers by their mean margin, as long as there are enough entries left to win back."""
    lost, names = _by_layer(scope)
    left, whole = round(slack * sum(n for n, _ in lost.values())), list[str]()
    for group in sorted(lost, key=lambda group: lost[group][1]):
        count = lost[group][0]
        if count > left:
            return _in_part(scope, frozenset(whole), frozenset(names[group]), left, count)
        left, whole = left - count, whole + names[group]
    return Chosen(ByMargin(), NEVER, 0, frozenset(whole), frozenset())


def _in_part(scope: Scope, whole: frozenset[str], part: frozenset[str], left: int, count: int) -> Chosen:
    spans = [span for span in scope.spans() if span.name in part]
    ends = _largest(scope, spans, ByMargin(), lambda _: left, left / count)
    return Chosen(ByMargin(), *ends, whole, part)


def _by_layer(scope: Scope) -> tuple[dict[str, tuple[int, float]], dict[str, list[str]]]:
    """{layer: (losses, their mean margin)} and {layer: tensors}; layers without any loss come first."""

    def one(worker: Worker, span: Span, data: Operands) -> tuple[int, float]:
        margins = _losses(scope, worker, span, data).margins()
        return len(margins), float(margins.astype(np.float64).sum())

    size = max(PORTION, scope.vectors.workers[0].span)  # so that sums do not depend on spans
    spans = scope.vectors.spans(scope.names, [cut.stop for cut in scope.cuts], size=size)
    sums: dict[str, list[float]] = {}
    names: dict[str, list[str]] = {}
    for name in scope.names:
        names.setdefault(_layer(name), []).append(name)
    for span, (count, total) in zip(spans, scope.vectors.run(spans, one), strict=True):
        seen = sums.setdefault(_layer(span.name), [0, 0.0])
        seen[0], seen[1] = seen[0] + count, seen[1] + total
    return {group: (int(n), total / n if n else 0.0) for group, (n, total) in sums.items()}, names


def _layer(name: str) -> str:
    return str(layer) if (layer := layer_of(name)) >= 0 else name
