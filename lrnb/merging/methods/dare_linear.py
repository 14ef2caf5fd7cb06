"""DARE: of each task vector entries are dropped at random and the others scaled up; then the sum.

    tau_i  kept with probability density, and divided by it (`rescale`)
    theta  = base + lam * sum(w_i * tau_i)

Which entries are kept follows from `seed`, the tensor's name, the parent's place and the entry's index alone,
see `lrnb/merging/random_bits.py`: another number of threads or another sharding gives the same bytes.

Source: Yu et al. 2023, "Language Models are Super Mario", arXiv 2311.03099, section 3.1. mergekit 0.1.5
scales by the ratio of sum(|tau|) before and after, a tensor at a time, which is about 1 / density, and its
random numbers depend on the device and on the order of the tensors.

Six numbers, density 0.5: seed 7 keeps p1, p2, p3 and p5 of CT and p3, p4 and p5 of SFT, twice as large.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (dare_linear(BASE, parents, density=0.5, seed=7) - BASE).round(3).tolist()
[1.6, -0.5, 1.4, -1.1, -0.2, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.combining import Combining
from lrnb.merging.cpu import Formula
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.random_bits import random_marks, random_words, whole_seed
from lrnb.merging.registry import Look, Mergekit, Method, Options, PerParent, option
from lrnb.merging.shared_options import trimmed_density_option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import Span, TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class Dropout(Options):
    """Which entries are kept."""

    density: tuple[float, ...] = trimmed_density_option()
    rescale: bool = option("divide what is kept by its probability", True, mergekit="rescale")
    seed: float = option("of the random numbers, a whole number", 0, low=0)

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """A seed is counted."""
        return whole_seed(self.seed, spell) or super().complaint(parents, spell)

    def dropped(self, taus: Sequence[Array], name: str, start: int) -> list[Array]:
        """Every parent's task vector after the draw, entries of a tensor from `start` on."""
        return [self._draw(tau, i, name, start) for i, tau in enumerate(taus)]

    def _draw(self, tau: Array, parent: int, name: str, start: int) -> Array:
        words = random_words(int(self.seed), name, parent, start, len(tau))
        kept = formulas.keep(tau, formulas.like(random_marks(self.density[parent], words), tau))
        return kept / np.float32(self.density[parent]) if self.rescale else kept


@dataclass(frozen=True, kw_only=True)
class DareLinear(Dropout, Combining):
    """What is kept of each task vector, summed."""


def dare_linear(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """DARE, formula above. density: a number, or one per parent; options: all others of `DareLinear`, such as
    seed. Tensors, result and errors as in `ties.ties`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


def prepare_dropout(vectors: TaskVectors, names: list[str], options: Any) -> Stepwise:
    """Nothing is settled; `options.combined` takes what is kept."""

    def formula_of(span: Span) -> Formula:
        return lambda taus, start: options.combined(options.dropped(taus, span.name, start))

    return Stepwise(vectors, names, formula_of)


DARE_KIT = Mergekit("dare_linear", ignored={"int8_mask": "it changes no result"})

METHOD = Method(
    name="dare_linear",
    label="DARE",
    summary="drop entries of each task vector at random, scale up the others, sum",
    source="Yu et al. 2023, arXiv 2311.03099",
    look=Look("#6699CC", "hexagon"),
    options=DareLinear,
    prepare=prepare_dropout,
    cost=14,
    mergekit=DARE_KIT,
)
