"""NuSlerp: slerp of two task vectors, added to the base.

    theta = base + sin((1 - t) o) / sin(o) * tau_1  +  sin(t o) / sin(o) * tau_2

o is the angle between the task vectors of a tensor; `t` the share of the second, or w_2 / (w_1 + w_2) where
weights are given. Parallel, opposite and zero task vectors as in `slerp.py`.

Source: mergekit 0.1.5, merge_methods/nuslerp.py, with its defaults (a tensor is one vector: nuslerp_flatten).
There weights may be negative, weights that cancel count as t = 0.5, the line is taken where 1 - cos(o)^2 is
at most 1e-16, opposite task vectors are not told from others, and without a base the models themselves are
turned; that is `slerp` here.

>>> import numpy as np
>>> base = np.float32([1, 1])
>>> nuslerp(base, base + np.float32([1, 0]), base + np.float32([0, 1]), t=1 / 3).round(3).tolist()
[1.8660000562667847, 1.5]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.linear import OfTaskVectors
from lrnb.merging.methods.slerp import on_arc
from lrnb.merging.registry import Look, Mergekit, Method, Options, PerParent, no_weight, option
from lrnb.merging.sums import dot_products
from lrnb.merging.task_vectors import TaskVectors


@dataclass(frozen=True, kw_only=True)
class NuSlerp(Options):
    t: float | None = option(
        "share of the second task vector, 0.5 without weights", None, low=0, high=1, search=(0.3, 0.5, 0.7)
    )
    weights: tuple[float, ...] | None = option(
        "a parent's weight", None, low=0, per_parent=True, named=True, mergekit="weight", flag="weight"
    )

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """t and weights say the same."""
        if self.t is not None and self.weights is not None:
            return f"takes {spell('t')} or {spell('weights')}, not both"
        return no_weight(self.weights, spell)

    def share(self) -> float:
        """That of the second task vector."""
        if self.weights is not None:
            return self.weights[1] / sum(self.weights)
        return 0.5 if self.t is None else self.t

    def recipe(self, parents: Sequence[str]) -> dict[str, Any]:
        """The share, however it was given."""
        return {"t": self.share()}

    def scope(self) -> str:
        """Each tensor has its own angle."""
        return "tensor"

    def passes(self) -> int:
        """One for the angles."""
        return 2


def nuslerp(
    base: Tensors, first: Tensors, second: Tensors, *, t: float | None = None, weights: PerParent = None
) -> Tensors:
    """NuSlerp of two models over their base, formula above; give `t` (default 0.5) or two weights.

    Tensors, result and errors as in `average`; of dicts each tensor by itself.
    """
    return merge_tensors(METHOD, base, [first, second], {"t": t, "weights": weights})


def _prepare(vectors: TaskVectors, names: list[str], options: NuSlerp) -> OfTaskVectors:
    """Goes through all models once for the angle."""
    factors, _ = on_arc(dot_products(vectors, names, "deltas"), options.share())
    return OfTaskVectors(vectors, names, factors)


METHOD = Method(
    name="nuslerp",
    label="NuSlerp",
    summary="base + slerp of two task vectors, by --t or --weight",
    source="mergekit 0.1.5",
    look=Look("#999933", "cross"),
    options=NuSlerp,
    prepare=_prepare,
    parents=(2, 2),
    mergekit=Mergekit("nuslerp", fixed={"nuslerp_flatten": True, "nuslerp_row_wise": False}),
)
