"""SCE: select the entries that differ most between the parents, weigh parents by what is left, elect, merge.

Each tensor by itself:

    select     entries among the select_topk share of largest variance over the parents; the others are 0
    calculate  w_i = sum(tau_i^2) / sum over all parents of sum(tau^2), of what is selected
    erase      entries against the sign of sum(tau_i), which is + where that is 0
    theta      = base + sum(w_i * tau_i) / sum(w_i), over the parents whose entry is left

The parent that moved a tensor most has the largest say in it: the opposite of `--equalise norm`.

Source: Wan et al. 2024, "FuseChat", arXiv 2408.07990, section 3.3, as in mergekit 0.1.5,
merge_methods/sce.py. The share is of the entries whose variance is not 0; there the whole part of that
number, here round(). Equal variances at the threshold are all selected.

Six numbers, the three of the largest variance, p1, p4 and p5; 1.04 and 0.755 are the sums of squares there:

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (sce(BASE, parents, select_topk=0.5) - BASE).round(3).tolist()
[0.8, 0.0, 0.0, -0.55, -0.6, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.derived import least_of_largest, sums_of
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.registry import Look, Mergekit, Method, Options, option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class SCE(Options):
    select_topk: float = option(
        "the share of entries, by variance, that is merged", 1.0, low=0, high=1, above=True,
        search=(0.1, 0.5, 1.0), mergekit="select_topk",
    )  # fmt: skip

    def scope(self) -> str:
        """A tensor by itself."""
        return "tensor"

    def passes(self) -> int:
        """One to select, one for the weights."""
        return 2 + (self.select_topk < 1)


def sce(
    base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], *, select_topk: float = 1.0
) -> Tensors:
    """SCE, formula above. Tensors, result and errors as in `average`; of dicts each tensor by itself."""
    return merge_tensors(METHOD, base, parents, {"select_topk": select_topk})


def _prepare(vectors: TaskVectors, names: list[str], options: SCE) -> Stepwise:
    """Goes through the tensor for the threshold, where there is one, and for the weights."""
    least = np.float32(0)
    if options.select_topk < 1:
        least = least_of_largest(vectors, names, variance, options.select_topk)
    chosen = partial(_selected, least=least)
    squares = sums_of(vectors, names, lambda taus: [tau * tau for tau in chosen(taus)])
    whole, n = squares.sum(), len(vectors.parents)
    weights = [*map(np.float32, squares / whole)] if whole else [np.float32(1 / n)] * n
    return Stepwise(vectors, names, lambda span: lambda taus, _: _erased(chosen(taus), weights))


def variance(taus: Sequence[Array]) -> Array:
    """Of every entry over the parents, divided by their number."""
    n = np.float32(len(taus))
    mean = formulas.plain_sum(taus) / n
    apart = [tau - mean for tau in taus]
    return formulas.plain_sum([x * x for x in apart]) / n


def _selected(taus: Sequence[Array], least: np.float32) -> list[Array]:
    kept = variance(taus) >= least
    return [formulas.keep(tau, kept) for tau in taus]


def _erased(taus: Sequence[Array], weights: Sequence[np.float32]) -> Array:
    """The weighted mean of the entries that have the sign of the plain sum."""
    agree = formulas.agreeing(taus, [np.float32(1)] * len(taus))
    kept = [formulas.keep(tau, yes) for tau, yes in zip(taus, agree, strict=True)]
    bottom = formulas.weighted_sum(agree, weights)
    return formulas.weighted_sum(kept, weights) / (bottom + (bottom == 0))


METHOD = Method(
    name="sce",
    label="SCE",
    summary="the entries that differ most, weighed by sums of squares, elected, averaged",
    source="Wan et al. 2024, arXiv 2408.07990",
    look=Look("#A6761D", "triangle-ne"),
    options=SCE,
    prepare=_prepare,
    cost=16,
    mergekit=Mergekit("sce", ignored={"int8_mask": "it changes no result"}),
)
