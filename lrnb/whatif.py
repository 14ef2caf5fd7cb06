"""What if: the numbers of an election at any density, weights, trim scope and slack, from an atlas.

No weights are read. Thresholds come from each parent's own histogram (128 bins an octave, exact where
magnitudes lie on bin edges, as those of bfloat16 checkpoints do); what both parents decide together
comes from the joint histogram (4 bins an octave): of a bin what lies at its lower edge, and a rest spread
evenly. Counts, as shares of the kept entries, are within 0.5 percentage points of the exact ones for the
model and 2 for a tensor above 100,000 entries of which trimming keeps at least 1,000;
tests/test_atlas.py holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lrnb import slack_kernels
from lrnb import whatif_kernels as kernels
from lrnb.atlas import Atlas
from lrnb.conflicts import slack_of, with_model, with_shares
from lrnb.election import PerParent, rules
from lrnb.histograms import PER, Histograms
from lrnb.params import UserError
from lrnb.ties_sv import ThresholdSlack

PARENTS = ["ct", "sft"]


@dataclass(frozen=True)
class WhatIf:
    """One election, estimated.

    thresholds: (T, 2); views: (T, 2, 5, B); xi, level: (T,), SFT wins back its losses by a smaller margin
    than xi, and the share `level` of those by just xi (xi below 0: none). results: (T, B, RESULTS),
    entries and sums by SFT's bins, see `whatif_kernels.decide`.
    """

    atlas: Atlas
    weights: np.ndarray
    zeros: np.ndarray
    thresholds: np.ndarray
    views: np.ndarray
    xi: np.ndarray
    level: np.ndarray

    @cached_property
    def results(self) -> np.ndarray:
        out = np.empty((*self.views.shape[::3], kernels.RESULTS))
        for t, row in enumerate(out):
            kernels.decide(*self._of(t), self.xi[t], self.level[t], row)
        return out

    def _of(self, t: int) -> tuple[Any, ...]:
        return *_tensor(self.atlas.histograms, t), *self.views[t], self.weights, self.zeros[t]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns and rows as `conflicts.shares` gives them; counts are not whole numbers."""
        kept = self.views[:, :, : kernels.LOW].sum(axis=3)  # (T, 2, N and MASS)
        r = self.results.sum(axis=1)
        columns = {
            "ct_kept": kept[:, 0, 0],
            "sft_kept": kept[:, 1, 0],
            "ct_discarded": r[:, kernels.LOST],
            "sft_discarded": r[:, kernels.LOST + 1],
            "overlap": r[:, kernels.OVERLAP],
            "conflicts": r[:, kernels.CONFLICTS],
            "reserved": r[:, kernels.RESERVED],
            "ct_kept_mass": kept[:, 0, 1],
            "sft_kept_mass": kept[:, 1, 1],
            "ct_discarded_mass": r[:, kernels.LOST_MASS],
            "sft_discarded_mass": r[:, kernels.LOST_MASS + 1],
            "ct_overlap_mass": r[:, kernels.OVERLAP_MASS],
            "sft_overlap_mass": r[:, kernels.OVERLAP_MASS + 1],
            "ct_conflict_mass": r[:, kernels.CONFLICT_MASS],
            "sft_conflict_mass": r[:, kernels.CONFLICT_MASS + 1],
            "ceded_mass": r[:, kernels.CEDED],
            "reserved_mass": r[:, kernels.WON],
            "xi": np.where(self.xi >= 0, self.xi, np.nan),
        }
        head = self.atlas.tensors[["tensor", "layer", "module", "n"]]
        return with_shares(with_model(head.assign(**columns)))

    def margins(
        self, rows: np.ndarray | None = None, bars: int = 80
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """SFT's losses by delta = |w tau_CT| - |w tau_SFT|: (lost, won, edges), each (bars + 1,).

        won: the part that slack wins back.

        rows: the tensors' numbers (default all). The last counts are of what lies beyond the last edge,
        which is where 99.5% of the losses end.
        """
        some = np.arange(len(self.views)) if rows is None else rows
        widest = max((float(self.views[t, 0, kernels.HIGH].max()) for t in some), default=0.0)
        edges = np.linspace(0, (widest or 1.0) * self.weights[0], 8 * bars + 1)
        lost, _ = self._margins(some, edges)
        share = np.cumsum(lost) / max(lost.sum(), 1e-30)
        shown = edges[min(int(np.searchsorted(share, 0.995)) + 1, len(edges) - 1)]
        edges = np.linspace(0, shown, bars + 1)
        return *self._margins(some, edges), edges

    def _margins(self, some: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lost, won = np.zeros(len(edges)), np.zeros(len(edges))
        scratch = _scratch(self.atlas.histograms)
        for t in some:
            slack_kernels.margins(*self._of(t), self.xi[t], self.level[t], scratch, edges, lost, won)
        return lost, won


def what_if(
    atlas: Atlas,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    weights: PerParent = None,
    trim_scope: str = "model",
    zero_sign: str = "majority",
) -> WhatIf:
    """The election at another setting; options as in `conflicts.shares`, equal magnitudes all kept.

    zero_sign majority: the sign that the majority had at the atlas's own setting. UserError where an
    option is out of range.
    """
    checked = rules(PARENTS, density, weights, zero_sign)
    rule = slack_of(slack, slack_threshold)
    if not all(checked.weights):
        raise UserError(
            "what_if: a weight of 0 cannot be told from histograms; count it with conflicts.shares"
        )
    if trim_scope not in ("model", "tensor"):
        raise UserError(f"trim_scope must be model or tensor, got {trim_scope!r}")
    h = atlas.histograms
    thresholds = _thresholds(h, atlas, checked.densities, trim_scope)
    views = np.array([_views(h, t, pair) for t, pair in enumerate(thresholds)])
    majority = atlas.tensors[f"{trim_scope}_zero"].to_numpy(float)
    zeros = majority if zero_sign == "majority" else np.ones(len(views))
    xi, level = np.full(len(views), -1.0), np.zeros(len(views))
    found = WhatIf(atlas, np.array(checked.weights, float), zeros, thresholds, views, xi, level)
    if isinstance(rule, ThresholdSlack):
        xi[:], level[:] = rule.xi, 1.0
    elif rule.slack:
        xi[:], level[:] = _slack(found, rule.slack, trim_scope)
    return found


def _thresholds(h: Histograms, atlas: Atlas, densities: list[float], trim_scope: str) -> np.ndarray:
    """(T, 2)"""
    n = atlas.tensors["n"].to_numpy()
    if trim_scope == "model":
        own, ns = h.whole.own, np.array([n.sum()])
    else:
        own, ns = h.own, n
    cuts = [
        [kernels.cut(own[t, p], h.fine, round(densities[p] * int(ns[t]))) for p in (0, 1)]
        for t in range(len(ns))
    ]
    return np.broadcast_to(np.array(cuts), (len(n), 2))


def _views(h: Histograms, t: int, thresholds: np.ndarray) -> np.ndarray:
    out = np.empty((2, kernels.ROWS, h.same.shape[1]))
    for p in (0, 1):
        kernels.view(h.own[t, p], h.fine, PER, thresholds[p], out[p])
    return out


def _tensor(h: Histograms, t: int) -> tuple[np.ndarray, ...]:
    return h.same[t], h.opposite[t], h.ties[t], h.full[t]


def _scratch(h: Histograms) -> np.ndarray:
    return np.empty((h.same.shape[1] ** 2, 9))


def _slack(found: WhatIf, share: float, trim_scope: str) -> tuple[np.ndarray, np.ndarray]:
    """(xi, level) of every tensor, over the whole model or each by itself. As in a merge, of the losses by
    just xi those with the lowest index are won back: the first tensors' before the others'."""
    h = found.atlas.histograms
    scratch = _scratch(h)
    if trim_scope == "model":
        views = _views(h.whole, 0, found.thresholds[0])
        model = (*_tensor(h.whole, 0), *views, found.weights, found.zeros[0])
        xi, quota = slack_kernels.slack_margin(*model, share, scratch)
        at_xi = np.array([kernels.at_margin(*found._of(t), xi) for t in range(len(found.views))])
        before = np.cumsum(at_xi) - at_xi
        return np.full(len(at_xi), xi), np.clip((quota - before) / np.maximum(at_xi, 1e-30), 0, 1)
    pairs = [slack_kernels.slack_margin(*found._of(t), share, scratch) for t in range(len(found.views))]
    xi, quotas = np.array(pairs).reshape(-1, 2).T
    at_xi = np.array([kernels.at_margin(*found._of(t), xi[t]) for t in range(len(xi))])
    return xi, np.clip(quotas / np.maximum(at_xi, 1e-30), 0, 1)
