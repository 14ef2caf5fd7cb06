"""PCB-Merging: an entry counts by its own size and by how it goes with the other parents' entries.

Over the model, with n parents and Norm(x) = (x - min x) / (max x - min x), 0 where these are equal:

    u_ij     = Norm(tau_i * tau_j)
    beta_i   = softmax(n * u_ii) * sum over j of softmax(u_ij)
    beta_i   = 0 but for the density share of largest
    theta    = base + lam * sum(beta_i * tau_i) / sum(beta_i),    base where all are 0

Source: Du et al. 2024, "Parameter Competition Balancing for Model Merging", arXiv 2410.02396, section 4:
intra- and inter-balancing, drop, rescale. The paper leaves Norm open; it is the one from least to largest
here, as in its authors' code, which otherwise is another formula (no softmax, outliers cut off, tanh); the
paper's is taken. Softmaxes are multiplied by the number of entries, which the last line cancels, so that
float32 holds them. The exponential is that of the processor's library: an entry at the threshold may fall the
other way elsewhere.

Six numbers, density 1/2. The products tau_ct * tau_sft run from -0.36 (p1) to 0.12 (p3):

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> ((pcb(BASE, parents, density=1 / 2) - BASE).round(2) + 0).tolist()
[0.8, 0.0, 0.36, -0.55, 0.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lrnb.merging import formulas
from lrnb.merging.combining import empty_shares
from lrnb.merging.cpu import Operands, Worker
from lrnb.merging.derived import least_of_largest, sums_of
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.registry import Look, Method, Options, PerParent, option
from lrnb.merging.shared_options import density_option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import Span, TaskVectors

Array = Any


@dataclass(frozen=True, kw_only=True)
class PCB(Options):
    density: tuple[float, ...] = density_option((0.05, 0.1, 0.2))
    lam: float = option(
        "factor on the merged task vector", 1.0, search=(0.5, 0.75, 1.0), parameter="lams", label="λ"
    )

    def passes(self) -> int:
        """Ranges, sums, a threshold for each parent, the merge."""
        return 3 + len(self.density)

    def doubts(self, parents: Sequence[str], entries: int) -> list[str]:
        """Of every parent of which nothing is kept."""
        return empty_shares(parents, self.density, entries)


def pcb(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    lam: float = 1.0,
) -> Tensors:
    """PCB-Merging, formula above. density: a number, or one per parent. Tensors, result and errors as in
    `ties.ties`."""
    return merge_tensors(METHOD, base, parents, {"density": density, "lam": lam})


@dataclass(frozen=True)
class Balance:
    """What the whole model settles: of every pair the least product and the factor of Norm, (n, n) float32;
    and entries / sum of exponentials, of own (n,) and of pairs (n, n)."""

    least: np.ndarray
    factor: np.ndarray
    own: np.ndarray
    pairs: np.ndarray

    def beta(self, taus: Sequence[Array], i: int) -> Array:
        """How much each entry of parent i counts."""
        shares = [formulas.exponential(self.norm(taus, i, j)) * self.pairs[i, j] for j in range(len(taus))]
        own = formulas.exponential(self.norm(taus, i, i) * np.float32(len(taus))) * self.own[i]
        return own * formulas.plain_sum(shares)

    def norm(self, taus: Sequence[Array], i: int, j: int) -> Array:
        """u_ij"""
        return (taus[i] * taus[j] - self.least[i, j]) * self.factor[i, j]


def _prepare(vectors: TaskVectors, names: list[str], options: PCB) -> Stepwise:
    """Goes through the model for ranges, for sums and, for each parent, for its threshold."""
    balance, lam = _balance(vectors, names), np.float32(options.lam)
    leasts = [
        least_of_largest(vectors, names, partial(balance.beta, i=i), share)
        for i, share in enumerate(options.density)
    ]

    def step(taus: Sequence[Array], _: int) -> Array:
        betas = [balance.beta(taus, i) for i in range(len(taus))]
        betas = [formulas.keep(beta, beta >= least) for beta, least in zip(betas, leasts, strict=True)]
        bottom = formulas.plain_sum(betas)
        top = formulas.plain_sum([beta * tau for beta, tau in zip(betas, taus, strict=True)])
        return top / (bottom + (bottom == 0)) * lam

    return Stepwise(vectors, names, lambda span: step)


def _balance(vectors: TaskVectors, names: list[str]) -> Balance:
    n, size = len(vectors.parents), max(vectors.size(names), 1)
    least, largest = _ranges(vectors, names)
    spread = largest - least
    factor = np.divide(1, spread, out=np.zeros((n, n), np.float32), where=spread > 0)
    ones = np.ones((n, n), np.float32)
    plain = Balance(least, factor, ones[0], ones)

    def terms(taus: list[Array]) -> list[Array]:
        own = [plain.norm(taus, i, i) * np.float32(n) for i in range(n)]
        return [formulas.exponential(x) for x in own + [plain.norm(taus, *pair) for pair in np.ndindex(n, n)]]

    sums = sums_of(vectors, names, terms)
    shares = np.divide(size, sums, out=np.zeros(n + n * n), where=sums > 0).astype(np.float32)
    return Balance(least, factor, shares[:n], shares[n:].reshape(n, n))


def _ranges(vectors: TaskVectors, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest product of every two parents, (n, n) float32. UserError where a task vector
    is not finite, or so large that a product is not."""

    def look(taus: list[Array], _: int) -> np.ndarray:
        products = [[taus[i] * tau for tau in taus] for i in range(len(taus))]
        ends = [
            [(float(x.min()), float(x.max())) if len(x) else (np.inf, -np.inf) for x in row]
            for row in products
        ]
        return np.array(ends)

    def one(worker: Worker, span: Span, data: Operands) -> list[np.ndarray]:
        return worker.look(data, look)

    n = len(vectors.parents)
    found = [x for seen in vectors.run(vectors.spans(names), one) for x in seen]
    every = np.stack(found or [np.zeros((n, n, 2))])
    if not np.isfinite(every).all():
        vectors.refuse_deltas()
    least, largest = every[..., 0].min(axis=0), every[..., 1].max(axis=0)
    return least.astype(np.float32), largest.astype(np.float32)


METHOD = Method(
    name="pcb",
    label="PCB",
    summary="entries weighed by their size and by how they go with the other parents', the least dropped",
    source="Du et al. 2024, arXiv 2410.02396",
    look=Look("#A5AA99", "bowtie"),
    options=PCB,
    prepare=_prepare,
    cost=25,
)
