"""LiNeS: task arithmetic whose factor grows with the depth of the layer.

    theta_l = base_l + sum(lambda_i(l) * tau_i,l),    lambda_i(l) = first_i + (last_i - first_i) * l / (L - 1)

for the layers l = 0 to L - 1. Embeddings have the first layer's factor, the last norm and the head the last
layer's. One number for all parents, or one each: CT loud near the input and SFT in depth is `--lam-first ct=1
--lam-first sft=0.5 --lam-last ct=0.5 --lam-last sft=1`.

Source: Wang et al. 2024, "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
arXiv 2410.17146, equation of section 4 (alpha = first, alpha + beta = last). There one alpha serves all
parents and follows from the sizes of their task vectors; here both ends are given.

>>> import numpy as np
>>> model = lambda x: {f"layers.{i}.w": np.float32([x]) for i in range(3)}
>>> found = lines(model(0), {"ct": model(1), "sft": model(2)}, lam_first={"ct": 1, "sft": 0}, lam_last=1)
>>> [float(x[0]) for x in found.values()]
[1.0, 2.0, 3.0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.layers import no_layers, places_of
from lrnb.merging.linear import OfTaskVectors
from lrnb.merging.registry import Look, Method, Options, PerParent, option
from lrnb.merging.task_vectors import TaskVectors


@dataclass(frozen=True, kw_only=True)
class LayerLambdas(Options):
    lam_first: tuple[float, ...] = option(
        "factor on task vectors in the first layer", 0.5, per_parent=True, search=(0.2, 0.5), label="λ first"
    )
    lam_last: tuple[float, ...] = option(
        "factor on task vectors in the last layer", 1.0, per_parent=True, search=(0.5, 1.0), label="λ last"
    )

    def unfit(self, names: Sequence[str]) -> str:
        """There have to be layers."""
        return no_layers(names)

    def scope(self) -> str:
        """Each tensor has its own factors."""
        return "tensor"

    def factors(self, depth: float) -> list[float]:
        """Each parent's factor at a depth, from 0 to 1."""
        pairs = zip(self.lam_first, self.lam_last, strict=True)
        return [first + (last - first) * depth for first, last in pairs]


def lines(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    lam_first: PerParent = 0.5,
    lam_last: PerParent = 1.0,
) -> Tensors:
    """LiNeS of dicts of tensors, formula above. Result and errors as in `average`; UserError where no tensor
    is called like a layer's."""
    return merge_tensors(METHOD, base, parents, {"lam_first": lam_first, "lam_last": lam_last})


def _prepare(vectors: TaskVectors, names: list[str], options: LayerLambdas) -> OfTaskVectors:
    """Nothing but the factors of a tensor."""
    return OfTaskVectors(vectors, names, options.factors(places_of(vectors.names)[names[0]].depth))


METHOD = Method(
    name="lines",
    label="LiNeS",
    summary="task arithmetic whose factors go from --lam-first to --lam-last with the layers",
    source="Wang et al. 2024, arXiv 2410.17146",
    look=Look("#CF1C90", "star-diamond"),
    options=LayerLambdas,
    prepare=_prepare,
    cost=11,
)
