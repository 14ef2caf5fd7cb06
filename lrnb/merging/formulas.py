"""TIES and TIES-SV as formulas, on arrays of numpy or torch: what a merge does to every entry.

`taus` are the parents' trimmed task vectors, one array a parent; `weights` one number a parent, of the
arrays' type; `gamma` is the elected sign, 1 or -1 at every entry. Sums are taken in the order of the parents.
`kernels.py` computes the same an entry at a time.

Sources: TIES, Yadav et al. 2023, arXiv 2306.01708, section 3; the slack of TIES-SV, Tao et al. 2024, arXiv
2407.03994.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add, and_, or_
from typing import Any

import numpy as np

Array = Any  # of numpy or torch
Real = float | np.floating[Any]


def trim(tau: Array, threshold: Real) -> Array:
    """tau where |tau| reaches the threshold, 0 elsewhere."""
    return _where(abs(tau) >= threshold, tau, 0.0)


def band(tau: Array, low: Real, high: Real) -> Array:
    """tau where |tau| reaches low and not high, 0 elsewhere."""
    size = abs(tau)
    return keep(tau, (size >= low) & (size < high))


def keep(tau: Array, kept: Array) -> Array:
    """tau where `kept`, 0 elsewhere; of finite numbers, of which a product is several times as fast."""
    return tau * kept


def trim_all(taus: Iterable[Array], thresholds: Iterable[Real]) -> list[Array]:
    """Every parent's task vector, trimmed at its threshold."""
    return [trim(tau, threshold) for tau, threshold in zip(taus, thresholds, strict=True)]


def weighted_sum(arrays: Sequence[Array], weights: Sequence[Real]) -> Array:
    """sum of w * x."""
    total = arrays[0] * weights[0]
    for x, weight in zip(arrays[1:], weights[1:], strict=True):
        total = total + x * weight
    return total


def plain_sum(arrays: Sequence[Array]) -> Array:
    """sum of x, in order."""
    return reduce(add, arrays[1:], arrays[0])


def exponential(x: Array) -> Array:
    """e^x"""
    return _module(x).exp(x)


def elect(taus: Sequence[Array], weights: Sequence[Real], zero: Real) -> Array:
    """gamma: the sign of the weighted sum, and `zero` where that is exactly 0."""
    total = weighted_sum(taus, weights)
    return _where(total > 0, 1.0, _where(total < 0, -1.0, float(zero)))


def mean(taus: Sequence[Array], weights: Sequence[Real], gamma: Array, normalize: bool = True) -> Array:
    """The weighted mean of the entries whose sign is gamma, without `normalize` their weighted sum."""
    agree = [tau * gamma > 0 for tau in taus]
    top = sum(_where(yes, tau * w, 0.0) for yes, tau, w in zip(agree, taus, weights, strict=True))
    bottom = sum(yes * w for yes, w in zip(agree, weights, strict=True))
    return top / (bottom + (bottom == 0)) if normalize else top


def agreeing(taus: Sequence[Array], weights: Sequence[Real]) -> list[Array]:
    """Where each has the sign of the weighted sum; a sum of 0 counts as +."""
    up = weighted_sum(taus, weights) >= 0
    return [((tau > 0) & up) | ((tau < 0) & ~up) for tau in taus]


def agreed(taus: Sequence[Array], weights: Sequence[Real], normalize: bool) -> Array:
    """`mean` of the entries whose sign is that of the weighted sum; a sum of 0 counts as +."""
    agree = agreeing(taus, weights)
    top = weighted_sum([keep(tau, yes) for tau, yes in zip(taus, agree, strict=True)], weights)
    if not normalize:
        return top
    bottom = weighted_sum(agree, weights)
    return top / (bottom + (bottom == 0))


def mean_of_kept(taus: Sequence[Array]) -> Array:
    """The mean of the entries that are not 0."""
    ones = [np.float32(1)] * len(taus)
    count = weighted_sum([tau != 0 for tau in taus], ones)
    return plain_sum(taus) / (count + (count == 0))


def in_main_memory(x: Array) -> np.ndarray:
    """An array as one of numpy."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu().numpy())


def like(array: np.ndarray, x: Array) -> Array:
    """An array as `x` is one: numpy's, or torch's on the same device."""
    return array if isinstance(x, np.ndarray) else sys.modules["torch"].from_numpy(array).to(x.device)


def discarded(tau: Array, gamma: Array) -> Array:
    """Where an entry was kept and the election discards it."""
    return tau * gamma < 0


def conflict(taus: Sequence[Array]) -> Array:
    """Where some parent is above 0 and some parent below."""
    return reduce(or_, [tau > 0 for tau in taus]) & reduce(or_, [tau < 0 for tau in taus])


def overlap(taus: Sequence[Array]) -> Array:
    """Where every parent's entry was kept."""
    return reduce(and_, [tau != 0 for tau in taus])


def margin(taus: Sequence[Array], weights: Sequence[Real]) -> Array:
    """By how much an election was won: |w_c c| - |w_s s| at a conflict that c wins."""
    return abs(weighted_sum(taus, weights))


def won_back(
    taus: Sequence[Array], weights: Sequence[Real], gamma: Array, own: int, xi: Real, by_sum: bool
) -> Array:
    """Where slack gives parent `own` an entry: it lost a conflict there, and narrowly.

    by_sum: the margin is at most xi; else |w_s s| + xi reaches |w_c c|, the weighted sum of all others.
    The two differ in rounding alone.
    """
    if by_sum:
        narrow = margin(taus, weights) <= xi
    else:
        others = [w * (i != own) for i, w in enumerate(weights)]
        narrow = abs(taus[own] * weights[own]) + xi >= margin(taus, others)
    return discarded(taus[own], gamma) & conflict(taus) & narrow


def _where(condition: Array, x: Any, y: Any) -> Array:
    return _module(condition).where(condition, x, y)


def _module(x: Array) -> Any:
    """numpy or torch, whichever has made x."""
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]
