"""Localize-and-Stitch, its dataless form: each parent's largest entries, averaged where several have one.

    tau_i  trimmed to the `density` share of largest magnitudes
    theta  = base + sum(tau_i) / (how many of them are not 0)

Nothing is elected: where both parents keep an entry, the mean of the two is taken, whatever their signs. What
TIES-SV gives to one parent is halved here: the natural rival of slack.

Source: He et al. 2024, "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic", arXiv
2408.13656, sections 3.3 (dataless localization: the largest |tau|) and 3.4 (stitching: overlaps averaged).
Thresholds as in TIES: k = round(density * n) over the model, equal magnitudes kept.

Six numbers, density 3/6: CT keeps p1, p3 and p5, SFT p1, p4 and p5.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (localize_and_stitch(BASE, parents, density=3 / 6) - BASE).round(3).tolist()
[0.175, 0.0, 0.3, -0.55, -0.05, 0.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrnb.merging import formulas
from lrnb.merging.combining import empty_shares
from lrnb.merging.cpu import Formula
from lrnb.merging.election import cuts
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.registry import Look, Method, Options, PerParent
from lrnb.merging.shared_options import at_threshold_option, density_option, trim_scope_option
from lrnb.merging.stepwise import Stepwise
from lrnb.merging.task_vectors import Span, TaskVectors


@dataclass(frozen=True, kw_only=True)
class LocalizeAndStitch(Options):
    density: tuple[float, ...] = density_option((0.05, 0.1, 0.2))
    at_threshold: str = at_threshold_option()
    trim_scope: str = trim_scope_option("model")

    def scope(self) -> str:
        """As asked for."""
        return self.trim_scope

    def passes(self) -> int:
        """One for the thresholds."""
        return 2

    def doubts(self, parents: Sequence[str], entries: int) -> list[str]:
        """Of every parent of which nothing is kept."""
        return empty_shares(parents, self.density, entries)


def localize_and_stitch(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """Localize-and-Stitch, formula above. density: a number, or one per parent; options: at_threshold and
    trim_scope. Tensors, result and errors as in `ties.ties`."""
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


def _prepare(vectors: TaskVectors, names: list[str], options: LocalizeAndStitch) -> Stepwise:
    """Goes through the scope once, for the thresholds."""
    found = cuts(vectors, names, options)

    def formula_of(span: Span) -> Formula:
        thresholds = [cut.at(span) for cut in found]
        return lambda taus, _: formulas.mean_of_kept(
            [formulas.keep(tau, abs(tau) >= least) for tau, least in zip(taus, thresholds, strict=True)]
        )

    return Stepwise(vectors, names, formula_of, [cut.stop for cut in found])


METHOD = Method(
    name="localize_and_stitch",
    label="Localize-and-Stitch",
    summary="the largest entries of each task vector, averaged where several have one; no election",
    source="He et al. 2024, arXiv 2408.13656",
    look=Look("#DDCC77", "x"),
    options=LocalizeAndStitch,
    prepare=_prepare,
    cost=14,
)
