"""DELLA: entries dropped at random by their place in a row, and of each entry those of the elected sign.

    tau_i  as `della_linear.py` keeps and scales it
    sign   = sign(sum(w_i * tau_i)), + where that is 0
    theta  = base + lam * (sum of the w_i * tau_i that have this sign; with normalize their mean)

Source: Deep et al. 2024, arXiv 2406.11617, sections 3.1 to 3.3 (drop, elect, fuse); the paper fuses by the
mean, mergekit 0.1.5 by the sum, which is the default here too. `dare_linear.py` says how mergekit scales.

Six numbers in one row, density 0.5, epsilon 0.3, as there:

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (della(BASE, parents, density=0.5, epsilon=0.3, seed=7) - BASE).round(3).tolist()
[1.0, -0.568, 1.445, -0.688, -0.882, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrnb.merging.combining import Electing
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.methods.della_linear import DELLA_KIT, MagPrune, prepare_magprune
from lrnb.merging.registry import Look, Method, PerParent


@dataclass(frozen=True, kw_only=True)
class Della(MagPrune, Electing):
    """What is kept of each task vector, elected."""


def della(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """DELLA, formula above; arguments, result and errors as in `della_linear`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


METHOD = Method(
    name="della",
    label="DELLA",
    summary="drop at random, the small ones of a row likelier, elect a sign per entry, sum those that agree",
    source="Deep et al. 2024, arXiv 2406.11617",
    look=Look("#661100", "diamond-wide"),
    options=Della,
    prepare=prepare_magprune,
    cost=20,
    mergekit=replace(DELLA_KIT, name="della"),
)
