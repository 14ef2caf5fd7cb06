"""Breadcrumbs with an election: the bands of the task vectors, and of each entry those of the elected sign.

    tau_i  as `breadcrumbs.py` keeps it
    sign   = sign(sum(w_i * tau_i)), + where that is 0
    theta  = base + lam * (sum of the w_i * tau_i that have this sign; with normalize their mean)

Source: mergekit 0.1.5, breadcrumbs_ties (no paper): the masks of arXiv 2312.06795, the election of TIES.

Six numbers, gamma 1/6 and density 3/6: CT keeps p2, p3 and p5, SFT p1, p3 and p5. At p5 -0.6 outvotes 0.5.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> merged = breadcrumbs_ties(BASE, parents, density=3 / 6, gamma=1 / 6)
>>> (merged - BASE).round(3).tolist()
[-0.45, -0.25, 0.7, 0.0, -0.6, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrnb.merging.combining import Electing
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.methods.breadcrumbs import BAND_KIT, Band, prepare_band
from lrnb.merging.registry import Look, Method, PerParent


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsTies(Band, Electing):
    """The band of each task vector, elected."""


def breadcrumbs_ties(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """Breadcrumbs with an election, formula above; arguments, result and errors as in `breadcrumbs`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


METHOD = Method(
    name="breadcrumbs_ties",
    label="Breadcrumbs-TIES",
    summary="drop the largest and the smallest entries, elect a sign per entry, sum those that agree",
    source="mergekit 0.1.5, after arXiv 2312.06795",
    look=Look("#44AA99", "triangle-right"),
    options=BreadcrumbsTies,
    prepare=prepare_band,
    cost=18,
    mergekit=replace(BAND_KIT, name="breadcrumbs_ties"),
)
