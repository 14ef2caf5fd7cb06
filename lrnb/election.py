"""Trimming and electing signs: the part that TIES, TIES-SV and the conflict tables share.

TIES: Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models", arXiv
2306.01708. A scope (the whole model, or one tensor) is passed over in pieces, always in the same
order: to find each parent's cut, to count elected signs where that matters, and to elect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lrnb.params import UserError
from lrnb.select import Cut, Trimmer, find_cut
from lrnb.vectors import Piece, TaskVectors

PerParent = float | Mapping[str, float] | Sequence[float] | None


class Slack(Protocol):
    """What TIES-SV adds to an election; `lrnb.ties_sv.Slack` is the one implementation."""

    def observe(self, total: np.ndarray, trimmed: list[np.ndarray]) -> None: ...
    def settle(self, zero_up: bool) -> None: ...
    def reserve(self, total: np.ndarray, trimmed: list[np.ndarray], up: np.ndarray) -> int: ...


@dataclass(frozen=True)
class Rules:
    """The options of trimming and election, one value a parent; made and checked by `rules`."""

    densities: list[float]
    weights: list[np.float32]
    zero_sign: str
    at_threshold: str


@dataclass
class Elected:
    """One piece after election. `up` is True where the elected sign is +."""

    piece: Piece
    trimmed: list[np.ndarray]
    up: np.ndarray
    reserved: int

    def agreeing(self) -> list[np.ndarray]:
        """For each parent, where its trimmed entry is nonzero and has the elected sign."""
        return [((x > 0) & self.up) | ((x < 0) & ~self.up) for x in self.trimmed]

    def discarded(self) -> list[np.ndarray]:
        """For each parent, where its trimmed entry is nonzero and lost the election."""
        return [((x > 0) & ~self.up) | ((x < 0) & self.up) for x in self.trimmed]


@dataclass
class Tally:
    """Counts of entries in one tensor (or one model) after trimming and election."""

    n: int = 0
    kept: list[int] = field(default_factory=list)  # one count a parent
    discarded: list[int] = field(default_factory=list)
    overlap: int = 0  # entries kept by every parent
    conflicts: int = 0  # entries where kept signs differ
    reserved: int = 0

    @classmethod
    def zero(cls, parents: int) -> Tally:
        return cls(kept=[0] * parents, discarded=[0] * parents)

    def add(self, elected: Elected) -> None:
        """Count one more piece."""
        lost = elected.discarded()
        nonzero = [x != 0 for x in elected.trimmed]
        agree = np.logical_or.reduce(elected.agreeing())
        self.n += elected.up.size
        self.kept = _plus(self.kept, nonzero)
        self.discarded = _plus(self.discarded, lost)
        self.overlap += int(np.count_nonzero(np.logical_and.reduce(nonzero)))
        self.conflicts += int(np.count_nonzero(agree & np.logical_or.reduce(lost)))
        self.reserved += elected.reserved


def _plus(counts: list[int], masks: list[np.ndarray]) -> list[int]:
    new = [int(np.count_nonzero(mask)) for mask in masks]
    return [a + b for a, b in zip(counts, new, strict=True)]


def per_parent(
    parents: list[str], given: PerParent, default: float, name: str, low: float, high: float
) -> list[float]:
    """One value a parent, from a number, a mapping or a sequence; UserError outside [low, high]."""
    if isinstance(given, Mapping):
        if unknown := set(given) - set(parents):
            raise UserError(f"{name}: no parent {sorted(unknown)[0]!r}; parents are {parents}")
        values = [float(given.get(parent, default)) for parent in parents]
    elif isinstance(given, Sequence):
        values = [float(value) for value in given]
    else:
        values = [float(default if given is None else given)] * len(parents)
    if len(values) != len(parents):
        raise UserError(f"{name}: {len(values)} values for {len(parents)} parents {parents}")
    if wrong := [value for value in values if not low <= value <= high]:
        raise UserError(f"{name} must lie in [{low}, {high}], got {wrong[0]}")
    return values


def rules(
    parents: list[str],
    density: PerParent,
    weights: PerParent = None,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
) -> Rules:
    """Checked options. UserError names the option and its range."""
    for name, value, known in (
        ("zero_sign", zero_sign, ("majority", "positive")),
        ("at_threshold", at_threshold, ("keep-all", "exact")),
    ):
        if value not in known:
            raise UserError(f"{name} must be one of {known}, got {value!r}")
    densities = per_parent(parents, density, 1.0, "density", 0.0, 1.0)
    if 0.0 in densities:
        raise UserError("density must be above 0: 0 keeps nothing. 0.2 keeps a fifth")
    numbers = per_parent(parents, weights, 1.0, "weights", 0.0, 1e30)
    if not any(numbers):
        raise UserError("weights: all are 0. Give at least one parent a weight above 0")
    return Rules(densities, [np.float32(w) for w in numbers], zero_sign, at_threshold)


def cuts(vectors: TaskVectors, names: list[str], rules: Rules) -> list[Cut]:
    """Where each parent is trimmed over the scope `names`; remembered in `vectors`."""
    found, n = [], vectors.size(names)
    for parent, density in zip(vectors.parents, rules.densities, strict=True):
        key = (parent, density, rules.at_threshold, tuple(names))
        if key not in vectors.cuts:

            def deltas(parent: str = parent) -> Iterator[np.ndarray]:
                return (vectors.delta(parent, piece) for piece in vectors.pieces(names))

            vectors.cuts[key] = find_cut(deltas, n, density, rules.at_threshold)
        found.append(vectors.cuts[key])
    return found


def _trimmed(
    vectors: TaskVectors, names: list[str], cuts: list[Cut]
) -> Iterator[tuple[Piece, list[np.ndarray]]]:
    trimmers = [Trimmer(cut) for cut in cuts]
    for piece in vectors.pieces(names):
        yield (
            piece,
            [
                trim(vectors.delta(parent, piece))
                for parent, trim in zip(vectors.parents, trimmers, strict=True)
            ],
        )


def weighted_sum(arrays: Sequence[np.ndarray], weights: Sequence[np.float32]) -> np.ndarray:
    """Sum of weight * array, float32, in the order given."""
    total: np.ndarray = arrays[0] * weights[0]
    for x, weight in zip(arrays[1:], weights[1:], strict=True):
        total = total + x * weight
    return total


def elect(
    vectors: TaskVectors, names: list[str], rules: Rules, slack: Slack | None = None
) -> Iterator[Elected]:
    """Trim and elect over one scope, piece by piece in the scope's order.

    The elected sign is that of the weighted sum. Where the sum is exactly 0, `zero_sign="majority"`
    takes the sign that was elected at more entries of the scope, as `resolve_zero_signs` of the
    TIES authors does, - if both were elected equally often (their code's outcome too);
    "positive" takes +.
    """
    found, lead = cuts(vectors, names, rules), 0
    if slack is not None or rules.zero_sign == "majority":
        for _, trimmed in _trimmed(vectors, names, found):
            total = weighted_sum(trimmed, rules.weights)
            lead += int(np.count_nonzero(total > 0)) - int(np.count_nonzero(total < 0))
            if slack is not None:
                slack.observe(total, trimmed)
    zero_up = rules.zero_sign == "positive" or lead > 0
    if slack is not None:
        slack.settle(zero_up)
    for piece, trimmed in _trimmed(vectors, names, found):
        total = weighted_sum(trimmed, rules.weights)
        up = total >= 0 if zero_up else total > 0
        reserved = slack.reserve(total, trimmed, up) if slack is not None else 0
        yield Elected(piece, trimmed, up, reserved)


def disjoint_mean(elected: Elected, weights: Sequence[np.float32]) -> np.ndarray:
    """Weighted mean of the entries that have the elected sign; 0 where there are none."""
    agree = elected.agreeing()
    top = weighted_sum([x * a for x, a in zip(elected.trimmed, agree, strict=True)], weights)
    bottom = weighted_sum(agree, weights)
    return top / (bottom + (bottom == 0))  # top is 0 there too
