"""DELLA: of each task vector entries are dropped at random, small ones rather than large ones; then the sum.

In a row of n entries (a vector is one row) the entry whose magnitude has place r, 0 the smallest, is kept
with

    p_r    = density - epsilon + 2 * epsilon * r / (n - 1)        (density where n is 1)
    tau_i  kept with probability p_r, and divided by it (`rescale`)
    theta  = base + lam * sum(w_i * tau_i)

p_r is rounded to a multiple of 2^-32. Which entries are kept follows from `seed`, the tensor's name, the
parent's place and the entry's index alone, as in `dare_linear.py`, which is this with epsilon 0. Of equal
magnitudes the first has the lower place.

Source: Deep et al. 2024, "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based
Sampling", arXiv 2406.11617, section 3.1 (MagPrune); density and epsilon as in mergekit 0.1.5, which scales as
`dare_linear.py` says.

Six numbers in one row, density 0.5 and epsilon 0.3: p goes from 0.2 for the smallest to 0.8 for the largest.
Kept are p1, p2, p3 and p5 of CT, and p3, p4 and p5 of SFT; CT's 0.8 is divided by 0.8.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (della_linear(BASE, parents, density=0.5, epsilon=0.3, seed=7) - BASE).round(3).tolist()
[1.0, -0.568, 1.445, -0.688, -0.147, 0.0]
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
from lrnb.merging.methods.dare_linear import DARE_KIT, Dropout
from lrnb.merging.random_bits import ALL, random_words
from lrnb.merging.registry import Look, Mergekit, Method, PerParent, option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import Span, TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class MagPrune(Dropout):
    """Which entries are kept."""

    epsilon: tuple[float, ...] = option(
        "how much likelier the largest of a row are kept, and less the smallest", 0.15, low=0, high=0.5,
        per_parent=True, mergekit="epsilon",
    )  # fmt: skip

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """Probabilities lie between 0 and 1; where all is kept, nothing is drawn."""
        for parent, density, epsilon in zip(parents, self.density, self.epsilon, strict=True):
            if density < 1 and not epsilon < min(density, 1 - density):
                both = f"{spell('density')} minus and plus {spell('epsilon')}"
                return f"needs {both} inside of 0 to 1; of {parent} these are {density:g} and {epsilon:g}"
        return super().complaint(parents, spell)

    def scope(self) -> str:
        """Rows are of a tensor."""
        return "tensor"

    def limits(self, parent: int, row: int) -> np.ndarray:
        """(row,) uint64: by place, below which random number an entry is kept."""
        density, epsilon = self.density[parent], self.epsilon[parent] * (self.density[parent] < 1)
        places = np.arange(row) / (row - 1) if row > 1 else np.full(row, 0.5)
        return np.round((density - epsilon + 2 * epsilon * places) * ALL).astype(np.uint64)

    def drawn(self, tau: np.ndarray, parent: int, limits: np.ndarray, name: str, start: int) -> np.ndarray:
        """A parent's task vector after the draw: whole rows of a tensor, from entry `start` on."""
        words = random_words(int(self.seed), name, parent, start, len(tau))
        mine = by_place(tau.reshape(-1, len(limits)), limits).reshape(-1)
        kept = formulas.keep(tau, words < mine)
        return kept / (mine / ALL).astype(np.float32) if self.rescale else kept


def by_place(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each entry the value of its place among the magnitudes of its row; rows (k, n), values (n,)."""
    keys = abs(rows).view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(
        rows.shape[1], dtype=np.uint64
    )  # unlike each other, and smaller first where magnitudes are equal
    keys.sort(axis=1)
    found = np.empty(rows.shape, values.dtype)
    np.put_along_axis(found, (keys & np.uint64(ALL - 1)).astype(np.int64), values[None, :], axis=1)
    return found


@dataclass(frozen=True, kw_only=True)
class DellaLinear(MagPrune, Combining):
    """What is kept of each task vector, summed."""


def della_linear(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """DELLA's drop and a sum, formula above. density: a number, or one per parent; options: all others of
    `DellaLinear`, such as epsilon and seed. Tensors, result and errors as in `ties.ties`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


def prepare_magprune(vectors: TaskVectors, names: list[str], options: Any) -> Stepwise:
    """Nothing is settled but the probabilities by place; `options.combined` takes what is kept."""
    name = names[0]
    shape = vectors.base[name].shape
    row = max(shape[-1] if shape else 1, 1)
    limits = [options.limits(parent, row) for parent in range(len(vectors.parents))]

    def formula(taus: list[Array], start: int) -> Array:
        rows = [formulas.in_main_memory(tau) for tau in taus]
        kept = [options.drawn(tau, i, limits[i], name, start) for i, tau in enumerate(rows)]
        return formulas.like(options.combined(kept), taus[0])

    def formula_of(span: Span) -> Formula:
        return formula

    return Stepwise(vectors, names, formula_of, row=row)


DELLA_KIT = Mergekit("della_linear", ignored=DARE_KIT.ignored)

METHOD = Method(
    name="della_linear",
    label="DELLA linear",
    summary="drop entries at random, the small ones of a row likelier, scale up the others, sum",
    source="Deep et al. 2024, arXiv 2406.11617",
    look=Look("#AA4499", "diamond-tall"),
    options=DellaLinear,
    prepare=prepare_magprune,
    cost=18,
    mergekit=DELLA_KIT,
)
