"""Slerp: from one model to another along the arc between them, instead of the straight line.

Every tensor is a vector by itself; `a` and `b` are the two models', `t` the share of `b`, and o their angle:

    theta = sin((1 - t) o) / sin(o) * a  +  sin(t o) / sin(o) * b,      cos(o) = a.b / (|a| |b|)

Where the angle says nothing the line is taken, theta = (1 - t) a + t b: where |cos(o)| > 0.9995, parallel
vectors and opposite ones, and where a vector is zero. On the line an entry that is equal in both stays as it
is, so a tensor that nobody changed keeps its bits.

Source: Shoemake 1985, "Animating Rotation with Quaternion Curves"; for weights as in mergekit 0.1.5,
merge_methods/slerp.py, with the same threshold. There a zero vector is taken for one at a right angle, and
dot products are float32; here they are float64.

In the plane, a third of the way from east to north (t = 1/3 of 90 degrees is 30 degrees):

>>> import numpy as np
>>> slerp(np.float32([1, 0]), np.float32([0, 1]), t=1 / 3).round(3).tolist()
[0.8659999966621399, 0.5]
>>> slerp(np.float32([1, 0]), np.float32([3, 0]), t=1 / 4).tolist()      # parallel: the line
[1.5, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.linear import OfParents
from lrnb.merging.registry import Look, Mergekit, Method, Options, option
from lrnb.merging.sums import dot_products
from lrnb.merging.task_vectors import TaskVectors

LINEAR = 0.9995  # |cosine| from which on the line is taken


@dataclass(frozen=True, kw_only=True)
class Slerp(Options):
    t: float = option("share of the second model", 0.5, low=0, high=1, search=(0.3, 0.5, 0.7), mergekit="t")

    def scope(self) -> str:
        """Each tensor has its own angle."""
        return "tensor"

    def passes(self) -> int:
        """One for the angles."""
        return 2


def slerp(first: Tensors, second: Tensors, *, t: float = 0.5) -> Tensors:
    """Slerp of two tensors or dicts of tensors (numpy or torch), formula above; in a dict each by itself.

    Returns the kind, shapes and dtypes of `first`. UserError where they do not match, or t is out of range.
    """
    return merge_tensors(METHOD, first, [first, second], {"t": t})


def _prepare(vectors: TaskVectors, names: list[str], options: Slerp) -> OfParents:
    """Goes through both models once for their angle."""
    shares, curved = on_arc(dot_products(vectors, names, "parents"), options.t)
    return OfParents(vectors, names, shares, keep=not curved)


def on_arc(gram: np.ndarray, t: float) -> tuple[tuple[float, float], bool]:
    """How much of each vector is taken, from their dot products (2, 2); and whether by the arc's formula."""
    product = float(np.sqrt(gram[0, 0]) * np.sqrt(gram[1, 1]))
    cosine = float(gram[0, 1]) / product if product else 1.0
    if abs(cosine) > LINEAR:
        return (1 - t, t), False
    angle = np.arccos(cosine)
    first, second = np.sin([(1 - t) * angle, t * angle]) / np.sin(angle)
    return (float(first), float(second)), True


METHOD = Method(
    name="slerp",
    label="slerp",
    summary="along the arc from one model to another, by --t; needs no base",
    source="Shoemake 1985; as in mergekit 0.1.5",
    look=Look("#882255", "star"),
    options=Slerp,
    prepare=_prepare,
    parents=(2, 2),
    base=False,
    mergekit=Mergekit("slerp", base="first"),
)
