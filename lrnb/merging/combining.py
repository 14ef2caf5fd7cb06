"""How task vectors of which something was dropped become one: their weighted sum, or that of an election.

mergekit's methods are pairs of these: breadcrumbs and breadcrumbs_ties, dare_linear and dare_ties,
della_linear and della. All arithmetic is float32, in the order of the parents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.registry import Options, no_weight, option

Array = Any


@dataclass(frozen=True, kw_only=True)
class Combining(Options):
    """lam * sum(w_i * tau_i), with normalize divided by sum(w_i)."""

    weights: tuple[float, ...] = option(
        "a parent's weight", 1.0, per_parent=True, named=True, mergekit="weight", flag="weight"
    )
    normalize: bool = option("divide by the weights", False, mergekit="normalize")
    lam: float = option(
        "factor on the merged task vector", 1.0, search=(0.5, 0.75, 1.0), parameter="lams",
        mergekit="lambda", label="λ",
    )  # fmt: skip

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """Nothing can be divided by 0, and weights of 0 add nothing."""
        if self.normalize and not np.float32(sum(self.weights)):
            return f"cannot divide by the sum of {spell('weights')}, which is 0; leave normalize out"
        return no_weight([*map(np.float32, self.weights)], spell)

    def combined(self, taus: Sequence[Array]) -> Array:
        """What is added to the base."""
        total = formulas.weighted_sum(taus, [*map(np.float32, self.weights)])
        total = total / np.float32(sum(self.weights)) if self.normalize else total
        return total * np.float32(self.lam)


@dataclass(frozen=True, kw_only=True)
class Electing(Combining):
    """lam * the sum of those w_i * tau_i that have the sign of their sum; with normalize their mean.

    As in mergekit a sum of 0 counts as +, and nothing is divided unless it is asked for: TIES takes the mean.
    """

    weights: tuple[float, ...] = option(
        "a parent's weight", 1.0, low=0, per_parent=True, named=True, mergekit="weight", flag="weight"
    )

    def combined(self, taus: Sequence[Array]) -> Array:
        """What is added to the base."""
        agreed = formulas.agreed(taus, [*map(np.float32, self.weights)], self.normalize)
        return agreed * np.float32(self.lam)


def empty_shares(parents: Sequence[str], shares: Sequence[float], entries: int) -> list[str]:
    """Warnings about parents of which nothing is kept."""
    none = [p for p, share in zip(parents, shares, strict=True) if round(share * entries) == 0]
    return [f"{parent}: this density keeps none of {entries:,} entries" for parent in none]
