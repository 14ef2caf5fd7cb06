"""Consensus task arithmetic: of the sum of all task vectors, the entries that several parents want.

    m_i    = |tau_i| >= tall * |tau - tau_i|         tau = sum(tau_j): does the entry matter to parent i?
    theta  = base + lam * tau where at least `agree` of the m_i hold, base elsewhere

With two parents |tau - tau_i| is the other's |tau_j|. agree 2 drops what one parent alone wants ("selfish"
weights) or none; agree 1 drops only what none wants. An entry that no parent moved is in no mask's way: its
sum is 0.

Source: Wang et al. 2024, "Localizing Task Information for Improved Model Merging and Compression", arXiv
2405.07813, equations for TALL-masks (section 4) and Consensus Merging (section 5); the paper chooses tall
from 0.2 to 0.6 for each parent on validation data, here it is one number for all.

Six numbers: both want p1, p3 and p5. At p4 CT's 0.2 is less than 0.4 * 0.55, so SFT is alone with it, as at
p6; at p2 CT is.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (consensus_ta(BASE, parents) - BASE).round(3).tolist()
[0.35, 0.0, 0.7, 0.0, -0.1, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.registry import Look, Method, Options, option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class ConsensusTA(Options):
    tall: float = option(
        "how large an entry must be beside the others' sum", 0.4, low=0, search=(0.2, 0.4, 0.6)
    )
    agree: float = option("how many parents must want an entry, a whole number", 2, low=0)
    lam: float = option(
        "factor on the merged task vector", 1.0, search=(0.5, 0.75, 1.0), parameter="lams", label="λ"
    )

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """More parents than there are never agree."""
        if self.agree != int(self.agree) or self.agree > len(parents):
            return f"needs {spell('agree')} to be a whole number up to {len(parents)}, got {self.agree:g}"
        return ""

    def combined(self, taus: Sequence[Array]) -> Array:
        """What is added to the base."""
        total = formulas.plain_sum(taus)
        votes = sum((abs(tau) >= abs(total - tau) * np.float32(self.tall)) * np.float32(1) for tau in taus)
        return formulas.keep(total * np.float32(self.lam), votes >= self.agree)


def consensus_ta(
    base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], **options: Any
) -> Tensors:
    """Consensus task arithmetic, formula above; options: those of `ConsensusTA`. Tensors, result and errors
    as in `average`."""
    return merge_tensors(METHOD, base, parents, options)


def _prepare(vectors: TaskVectors, names: list[str], options: ConsensusTA) -> Stepwise:
    """Nothing is settled."""
    return Stepwise(vectors, names, lambda span: lambda taus, _: options.combined(taus))


METHOD = Method(
    name="consensus_ta",
    label="Consensus TA",
    summary="the sum of task vectors, at the entries that several parents want",
    source="Wang et al. 2024, arXiv 2405.07813",
    look=Look("#7F3C8D", "hourglass"),
    options=ConsensusTA,
    prepare=_prepare,
    parents=(2, 0),
    cost=13,
)
