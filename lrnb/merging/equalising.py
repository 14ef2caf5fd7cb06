"""Weights that even out how loud the parents are, before an election or a sum.

A parent that was trained longer has the longer task vector and wins more elections by that alone. Its weight
is multiplied by a factor f_i; over a scope (the model, or a tensor where that is the trim scope)

    norm    f_i proportional to 1 / |tau_i|             |tau_i| the length of the whole task vector
    share   f_i proportional to 1 / sum(|tau_i|)        over the entries that trimming leaves: the sums
                                                        f_i * sum(|tau_i|) become equal
    square  f_i proportional to |tau_i|^2               the opposite pole: the loud get louder

and the factors' mean is 1, so that parents of one length keep their weights. Weights that are given count
besides: with norm and weights (1, 2) the second is twice as loud. A parent that is equal to the base has no
length; its factor is 1 and it takes no part.

Sources: norm, "NAN", arXiv 2505.16148, by its formula (weights proportional to 1 / norm); square, MetaGPT,
Zhou et al. 2024, arXiv 2406.11385, whose lambda_i = |tau_i|^2 / sum(|tau_k|^2) is task arithmetic with this
and 1/n for each. share is ours: it asks whether an election is a race of magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrnb.merging.registry import option
from lrnb.merging.sums import dot_products, masses
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.thresholds import Cut


def equalise_option() -> Any:
    """The field of a method's options."""
    text = (
        "weights evened out: by 1 / length of the task vectors, by equal sums of magnitudes, or by length^2"
    )
    return option(text, "none", choices=("none", "norm", "share", "square"))


def equalising_passes(how: str) -> int:
    """How often the inputs are gone through for the factors."""
    return 0 if how == "none" else 1


def equalising_factors(
    vectors: TaskVectors, names: list[str], how: str, cuts: Sequence[Cut] = ()
) -> list[float]:
    """The factor of each parent over the scope `names`, trimmed at `cuts`; see above."""
    if how == "none":
        return [1.0] * len(vectors.parents)
    if how == "share":
        return even_sizes(how, masses(vectors, names, cuts))
    return even_sizes(how, np.sqrt(np.diag(dot_products(vectors, names, "deltas"))))


def even_sizes(how: str, sizes: Sequence[float] | np.ndarray) -> list[float]:
    """The factors that follow from the parents' lengths or, for `share`, from their sums of magnitudes."""
    given = np.asarray(sizes, float)
    some = np.where(given > 0, given, np.nan)
    return evened(some**2 if how == "square" else 1 / some)


def evened(factors: np.ndarray) -> list[float]:
    """The factors with a mean of 1; 1 in the place of NaN."""
    there = factors[~np.isnan(factors)]
    return np.nan_to_num(factors / (there.mean() if len(there) else 1), nan=1.0).tolist()
