"""Model Breadcrumbs: of each task vector the outliers and the smallest entries are dropped, the rest is
summed.

    tau_i  kept where |tau_i| is among the (gamma + density) largest shares and not among the gamma largest
    theta  = base + lam * sum(w_i * kept tau_i)

The thresholds are exact k-th magnitudes, k = round(share * n), of each tensor (the paper's layer) or of the
model; equal magnitudes at one go together (or by lowest index, `at_threshold`). Where density + gamma is more
than 1 fewer outliers are dropped.

Source: Davari and Belilovsky 2023, "Model Breadcrumbs", arXiv 2312.06795, section 3; gamma and density as in
mergekit 0.1.5, which takes the whole part of share * n.

Six numbers, gamma 1/6: CT loses its 0.8 and SFT its -0.55; density 3/6 keeps the next three.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> merged = breadcrumbs(BASE, parents, density=3 / 6, gamma=1 / 6)
>>> (merged - BASE).round(3).tolist()      # CT: p2, p3 and p5; SFT: p1, p3 and p5
[-0.45, -0.25, 0.7, 0.0, -0.1, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.combining import Combining, empty_shares
from lrnb.merging.cpu import Formula
from lrnb.merging.election import cuts
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.registry import Look, Mergekit, Method, Options, PerParent, Published, option
from lrnb.merging.shared_options import WIDEN, at_threshold_option, trim_scope_option, trimmed_density_option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import Span, TaskVectors
from lrnb.merging.thresholds import NEVER, Cut


@dataclass(frozen=True, kw_only=True)
class Band(Options):
    """Which entries stay."""

    density: tuple[float, ...] = trimmed_density_option()
    gamma: tuple[float, ...] = option(
        "the share of largest entries dropped", 0.01, low=0, high=1, per_parent=True, mergekit="gamma"
    )
    at_threshold: str = at_threshold_option()
    trim_scope: str = trim_scope_option("tensor")

    def scope(self) -> str:
        """As asked for."""
        return self.trim_scope

    def passes(self) -> int:
        """Two for the thresholds."""
        return 3

    def doubts(self, parents: Sequence[str], entries: int) -> list[str]:
        """Of every parent of which nothing is kept."""
        return empty_shares(parents, self.density, entries)

    def outliers(self) -> tuple[float, ...]:
        """The share of largest entries that is dropped of each parent."""
        return tuple(min(g, 1 - d) for g, d in zip(self.gamma, self.density, strict=True))


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Band, Combining):
    """The band of each task vector, summed."""


class Kept(NamedTuple):
    """As `election.Trimming`."""

    density: tuple[float, ...]
    at_threshold: str


def breadcrumbs(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """Model Breadcrumbs, formula above. density: a number, or one per parent; options: all others of
    `Breadcrumbs`. Tensors, result and errors as in `ties.ties`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


def prepare_band(vectors: TaskVectors, names: list[str], options: Any) -> Stepwise:
    """Goes through the scope twice, for the thresholds below and above; `options.combined` takes the
    bands."""
    tops, rule = options.outliers(), options.at_threshold
    both = tuple(min(1.0, d + t) for d, t in zip(options.density, tops, strict=True))
    lows = cuts(vectors, names, Kept(both, rule))
    highs = cuts(vectors, names, Kept(tops, rule)) if any(tops) else [Cut(NEVER, 0)] * len(tops)

    def formula_of(span: Span) -> Formula:
        ends: list[tuple[np.float32, np.float32]] = [
            (low.at(span), high.at(span)) for low, high in zip(lows, highs, strict=True)
        ]
        return lambda taus, _: options.combined(
            [formulas.band(tau, *end) for tau, end in zip(taus, ends, strict=True)]
        )

    return Stepwise(vectors, names, formula_of, [cut.stop for cut in (*lows, *highs)])


#: mergekit trims every tensor by itself and keeps exactly k entries
BAND_KIT = Mergekit(
    "breadcrumbs",
    defaults={"at_threshold": "exact"},
    fixed={"rescale": False},
    ignored={"int8_mask": "it changes no result"},
)

METHOD = Method(
    name="breadcrumbs",
    label="Breadcrumbs",
    summary="drop the largest and the smallest entries of each task vector, sum the rest",
    source="Davari and Belilovsky 2023, arXiv 2312.06795",
    look=Look("#117733", "triangle-left"),
    options=Breadcrumbs,
    prepare=prepare_band,
    cost=16,
    mergekit=BAND_KIT,
    published=(Published({"density": 0.9, "gamma": 0.05, "lam": 0.5}, WIDEN),),
)
