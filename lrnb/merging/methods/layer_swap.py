"""Layer swapping: the layers near input and output from one parent, those between from the other.

    layers l = 0 to L - 1;   b, t, w = round(bottom * L), round(top * L), round(transition * L)
    theta_l = outer's                     l < b or l >= L - t
            = (outer's + inner's) / 2     the w layers beside these
            = inner's                     between

What lies outside the layers (embeddings, last norm, head) is the outer parent's. Shares are of the number of
layers, so that one setting serves models of any depth. The base gives dtypes and is compared; its values do
not enter.

Source: Bandarkar et al. 2024, "Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large Language Models",
arXiv 2410.01335, section 3: the top and bottom layers of a language expert replace those of a task expert,
with transition layers averaged. The paper counts layers; of what lies outside them it does not say enough to
follow, and here they go with the layers beside them.

>>> import numpy as np
>>> layers = [f"layers.{i}.w" for i in range(4)]
>>> model = lambda x: {name: np.float32([x]) for name in layers}
>>> found = layer_swap(model(0), {"ct": model(1), "sft": model(2)}, bottom=0.25, top=0.25, transition=0.25)
>>> [float(found[name][0]) for name in layers]      # CT, the mean, the mean, CT
[1.0, 1.5, 1.5, 1.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.layers import Place, no_layers, places_of
from lrnb.merging.linear import OfParents
from lrnb.merging.registry import Look, Method, Options, option
from lrnb.merging.task_vectors import TaskVectors


@dataclass(frozen=True, kw_only=True)
class LayerSwap(Options):
    bottom: float = option(
        "share of the layers, from the input on, of the outer parent", 0.25, low=0, high=1,
        search=(0.125, 0.25, 0.5),
    )  # fmt: skip
    top: float = option(
        "share of the layers, up to the output, of the outer parent", 0.125, low=0, high=1,
        search=(0.125, 0.25),
    )  # fmt: skip
    transition: float = option("share of the layers, on each side, that is averaged", 0.0, low=0, high=0.5)
    outer: str = option("the parent at input and output", "ct", kind="parent")

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """Shares of one whole."""
        if self.bottom + self.top + 2 * self.transition > 1:
            return f"needs {spell('bottom')} + {spell('top')} + 2 * {spell('transition')} to be at most 1"
        return ""

    def unfit(self, names: Sequence[str]) -> str:
        """There have to be layers."""
        return no_layers(names)

    def scope(self) -> str:
        """Each tensor has its own shares."""
        return "tensor"

    def share(self, place: Place) -> float:
        """That of the outer parent at a place."""
        layer, layers = place
        if not 0 <= layer < layers:
            return 1.0
        bottom, top, width = (round(x * layers) for x in (self.bottom, self.top, self.transition))
        if layer < bottom or layer >= layers - top:
            return 1.0
        return 0.5 if layer < bottom + width or layer >= layers - top - width else 0.0


def layer_swap(base: Tensors, parents: Mapping[str, Tensors] | Sequence[Tensors], **options: Any) -> Tensors:
    """Layer swapping of two dicts of tensors, formula above; options: those of `LayerSwap`. Result and errors
    as in `average`; UserError where no tensor is called like a layer's."""
    return merge_tensors(METHOD, base, parents, options)


def _prepare(vectors: TaskVectors, names: list[str], options: LayerSwap) -> OfParents:
    """Nothing but the shares of a tensor."""
    share = options.share(places_of(vectors.names)[names[0]])
    shares = [share if parent == options.outer else 1 - share for parent in vectors.parents]
    return OfParents(vectors, names, shares, whole=True)


METHOD = Method(
    name="layer_swap",
    label="layer swap",
    summary="layers near input and output from ct, those between from sft, a transition averaged",
    source="Bandarkar et al. 2024, arXiv 2410.01335",
    look=Look("#B8860B", "star-square"),
    options=LayerSwap,
    prepare=_prepare,
    parents=(2, 2),
    cost=11,
)
