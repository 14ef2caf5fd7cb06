"""What if: the numbers of an election at any density, weights, trim scope and slack, from an atlas.

No weights of models are read: the same election is run on the atlas's sample, with thresholds from each
parent's magnitudes. How near that comes: docs/conflicts.md; tests/conflicts/test_atlas.py holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from lrnb.conflicts import kernels as loops
from lrnb.conflicts.atlas import Atlas, sizes
from lrnb.conflicts.counts import (
    MODEL,
    PLACE,
    Account,
    columns,
    masses_of,
    setting,
    sums,
    with_model,
    with_shares,
)  # fmt: skip
from lrnb.errors import UserError
from lrnb.merging.election import quotas
from lrnb.merging.equalising import even_sizes
from lrnb.merging.methods.ties_sv import TiesSV
from lrnb.merging.registry import PerParent

FATES = ("alone", "agreed", "won", "reserved", "discarded")  # of an entry that trimming kept
NONE = np.float32(-1)  # a slack that wins nothing back
QUARTER = np.uint32(21)  # bits of a float32 below the quarter of its octave


@dataclass(frozen=True)
class WhatIf:
    """One election on a sample.

    thresholds: (T, P); weights: (P,); zeros: (T,) the sign of exact ties. xi, until: (T,), the parent
    `protect` wins back its losses by a smaller margin than xi, and those by just xi before entry `until` of
    the sample (xi below 0: none). by_sum: how margins are measured, see `lrnb/merging/methods/ties_sv.py`.
    """

    atlas: Atlas
    thresholds: np.ndarray
    weights: np.ndarray
    zeros: np.ndarray
    xi: np.ndarray
    until: np.ndarray
    protect: str
    by_sum: bool = True

    @property
    def own(self) -> int:
        return self.atlas.parents.index(self.protect)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns and rows as `counts.shares` gives them; counts are not whole numbers."""
        s, p = self.atlas.sample, len(self.weights)
        counts = np.zeros((len(self.xi), 2 * p + loops.SHARED))
        lanes = np.zeros((len(self.xi), p, loops.MASSES * loops.LANES))
        below = np.nextafter(self.xi, -np.float32(np.inf))
        loops.account_sample(
            *s.operands, s.runs, s.stands, self.thresholds, self.weights, self.zeros, self.own, self.xi,
            below, self.until, self.by_sum, counts, lanes,
        )  # fmt: skip
        head = {column: self.atlas.tensors[column].array for column in PLACE}
        found = columns(self.atlas.parents, self.own, Account(counts, masses_of(lanes)))
        table = pd.DataFrame({**head, **found, "xi": np.where(self.xi >= 0, self.xi, np.nan)})
        return with_shares(with_model(table), self.protect)

    def sums(self, where: str = MODEL) -> Mapping[str, float]:
        """n, counts, masses and shares of a part of the model, see `Atlas.rows`."""
        return sums(self.table.iloc[self.atlas.rows(where)], self.protect)

    @cached_property
    def _decided(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every entry of the sample the margin by which the protected parent lost it, -1 where it did not,
        and its fate."""
        n = self.atlas.sample.entries.shape[1]
        margins, fates = np.empty(n, np.float32), np.empty(n, np.uint8)
        loops.decide_sample(
            *self.atlas.sample.operands, self.atlas.sample.runs, self.thresholds, self.weights, self.zeros,
            self.own, margins, fates,
        )  # fmt: skip
        return margins, fates

    def _won(self, some: np.ndarray) -> np.ndarray:
        """Whether slack wins back entries of the sample, by their positions."""
        margins, tensors = self._decided[0][some], self.atlas.sample.tensors[some]
        xi = self.xi[tensors]
        return (margins >= 0) & ((margins < xi) | ((margins == xi) & (some < self.until[tensors])))

    def margins(
        self, rows: Sequence[int] | np.ndarray | None = None, bars: int = 80
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The protected parent's losses by margin: (lost, won, edges), each (bars + 1,).

        won: the part that slack wins back. rows: the tensors' numbers (default all). The last counts are of
        what lies beyond the last edge, which is where 99.5% of the losses end.
        """
        some = self._losses(rows)
        margins, weights = self._decided[0][some], self.atlas.sample.weights[some]
        fine, width = 32 * bars, float(margins.max(initial=0)) or 1.0
        seen = np.cumsum(np.bincount((margins * (fine / width)).astype(int), weights, fine + 1))
        last = width * (np.searchsorted(seen, 0.995 * seen[-1]) + 1) / fine
        bins = np.minimum((margins * (bars / last)).astype(int), bars)
        lost, won = (np.bincount(bins, n, bars + 1) for n in (weights, weights * self._won(some)))
        return lost, won, np.linspace(0, last, bars + 1)

    def _losses(self, rows: Sequence[int] | np.ndarray | None) -> np.ndarray:
        """Positions in the sample of the conflicts that the protected parent lost, in some tensors."""
        lost = self._decided[0] >= 0
        return np.flatnonzero(lost if rows is None else lost & self.atlas.sample.of(rows))

    def by_magnitude(self, rows: Sequence[int] | np.ndarray) -> pd.DataFrame:
        """The protected parent's kept entries in some tensors, by magnitude: low, high, and FATES."""
        s = self.atlas.sample
        some = np.flatnonzero(s.of(rows) & (self._decided[1] > 0))
        fate = self._decided[1][some] - 1
        lost = np.flatnonzero(fate == loops.BEATEN - 1)
        fate[lost] += ~self._won(some[lost])
        bins = np.abs(s.entries[self.own, some]).view(np.uint32) >> QUARTER
        first, stop = (bins.min(), bins.max() + 1) if len(bins) else (0, 0)
        counts = np.bincount((bins - first) * len(FATES) + fate, s.weights[some], (stop - first) * len(FATES))
        edges = (np.arange(first, stop + 1, dtype=np.uint32) << QUARTER).view(np.float32).astype(float)
        counted = dict(zip(FATES, counts.reshape(-1, len(FATES)).T, strict=True))
        return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **counted})


def what_if(
    atlas: Atlas,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    protect: str | None = None,
    weights: PerParent = None,
    trim_scope: str = "model",
    zero_sign: str = "majority",
    equalise: str = "none",
) -> WhatIf:
    """The election at another setting; options as in `counts.shares`, equal magnitudes all kept.

    equalise: with trim scope model alone, since one weight a parent counts here for all tensors.

    protect: by default whom the atlas protects. zero_sign majority: the sign that the majority had at the
    atlas's own setting. UserError where an option is out of range.
    """
    options = setting(
        atlas.parents, density=density, slack=slack, slack_threshold=slack_threshold,
        protect=protect or atlas.protect, weights=weights, trim_scope=trim_scope, zero_sign=zero_sign,
        equalise=equalise,
    )  # fmt: skip
    if equalise != "none" and trim_scope != "model":
        raise UserError("what_if: equalise goes with trim_scope model; give counts.shares the models")
    tensors = len(atlas.tensors)
    majority = atlas.tensors[f"{trim_scope}_zero"].to_numpy(np.float32)
    found = WhatIf(
        atlas,
        _thresholds(atlas, options),
        np.array(options.weights, np.float32),
        majority if zero_sign == "majority" else np.ones(tensors, np.float32),
        np.full(tensors, NONE),
        np.full(tensors, atlas.sample.entries.shape[1]),
        options.protect,
    )
    if equalise != "none":
        found = replace(found, weights=(found.weights * _even(found, equalise)).astype(np.float32))
    if options.slack_threshold is not None:
        return replace(found, xi=np.full(tensors, np.float32(options.slack_threshold)), by_sum=False)
    return _with_slack(found, options.slack, trim_scope) if options.slack else found


def _even(found: WhatIf, how: str) -> np.ndarray:
    """(P,) the factors of `merging/equalising.py`: by the exact lengths, or the estimated sums of what is
    kept."""
    parents = found.atlas.parents
    if how == "share":
        row = found.sums()
        return np.array(even_sizes(how, [row[f"{parent}_kept_mass"] for parent in parents]))
    row = sizes(found.atlas).iloc[-1]
    return np.array(even_sizes(how, [row[f"{parent}_l2"] for parent in parents]))


def _thresholds(atlas: Atlas, options: TiesSV) -> np.ndarray:
    """(T, P) float32"""
    n = atlas.tensors["n"].to_numpy()
    if options.trim_scope == "model":
        found = [atlas.magnitudes.whole.thresholds(0, quotas(options, int(n.sum())))] * len(n)
    else:
        found = [atlas.magnitudes.thresholds(t, quotas(options, int(one))) for t, one in enumerate(n)]
    return np.array(found, np.float32)


def _with_slack(found: WhatIf, share: float, trim_scope: str) -> WhatIf:
    """The share of the losses won back, narrowest first, of equal margins the first: over the model or in
    each tensor, as in a merge."""
    lost, tensors = found._losses(None), len(found.xi)
    margins, weights = found._decided[0][lost], found.atlas.sample.weights[lost]
    stops = np.searchsorted(lost, found.atlas.sample.stops(tensors))
    parts = [(0, len(lost))] if trim_scope == "model" else list(pairwise([0, *stops]))
    ends = [(a, *loops.reach(margins[a:b], weights[a:b], share)) for a, b in parts]
    xi = np.array([bits for _, bits, _ in ends], np.uint32).view(np.float32)
    until = np.array([lost[a + n - 1] + 1 if n else 0 for a, _, n in ends])
    return replace(found, xi=np.broadcast_to(xi, tensors), until=np.broadcast_to(until, tensors))
