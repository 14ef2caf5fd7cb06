"""DARE with an election: entries dropped at random, and of each entry those of the elected sign.

    tau_i  as `dare_linear.py` keeps and scales it
    sign   = sign(sum(w_i * tau_i)), + where that is 0
    theta  = base + lam * (sum of the w_i * tau_i that have this sign; with normalize their mean)

Source: Yu et al. 2023, arXiv 2311.03099, which sends what DARE leaves through TIES; without TIES's trimming,
and by default without its mean, as in mergekit 0.1.5. `dare_linear.py` says how mergekit scales.

Six numbers, density 0.5, seed 7, as there: at p5 -1.2 outvotes 1.0.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (dare_ties(BASE, parents, density=0.5, seed=7) - BASE).round(3).tolist()
[1.6, -0.5, 1.4, -1.1, -1.2, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrnb.merging.combining import Electing
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.methods.dare_linear import DARE_KIT, Dropout, prepare_dropout
from lrnb.merging.registry import Look, Method, PerParent


@dataclass(frozen=True, kw_only=True)
class DareTies(Dropout, Electing):
    """What is kept of each task vector, elected."""


def dare_ties(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """DARE with an election, formula above; arguments, result and errors as in `dare_linear`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


METHOD = Method(
    name="dare_ties",
    label="DARE-TIES",
    summary="drop entries at random, scale up, elect a sign per entry, sum those that agree",
    source="Yu et al. 2023, arXiv 2311.03099",
    look=Look("#332288", "hexagram"),
    options=DareTies,
    prepare=prepare_dropout,
    cost=16,
    mergekit=replace(DARE_KIT, name="dare_ties"),
)
