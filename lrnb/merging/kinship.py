"""Whether parents look trained from the base that is given, by a sample of their task vectors.

Task vectors from a base that is not the parents' own share what lies between the two bases, so they point the
same way; trained apart from one base they do not. So do those of two budgets of one training, and a sibling
of the base may be too near to be told: numbers are in docs/merging.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from lrnb.merging.registry import Method
from lrnb.merging.task_vectors import SAMPLE, TaskVectors, square

LONG = 1.0  # |task vector| / |base|; two unrelated models of equal size come to about 1.4
SAME_WAY = 0.5  # cosine of two task vectors
FAR = (
    "{name}: its task vector is {size:.2f} times as long as the base; it was probably not trained from this "
    "base. Check the base"
)
FAR_APART = (
    "{name}: differs from {first} by {size:.2f} times the length of {first}; they probably have no base in "
    "common. Check the models"
)
ALIKE = (
    "{one} and {other}: their task vectors point the same way (cosine {cosine:.2f}): either this base is not "
    "the one they were trained from, or they are of one training, as are two budgets. Check the base"
)


def kinship_doubts(method: Method, vectors: TaskVectors) -> list[str]:
    """A warning for every parent that does not look trained from this base, or related to the first one."""
    deltas, base = _sampled(vectors)
    sizes = dict(zip(vectors.parents, relative_sizes(deltas, base), strict=True))
    text, first = FAR if method.base else FAR_APART, vectors.parents[0]
    doubts = [text.format(name=name, size=x, first=first) for name, x in sizes.items() if x > LONG]
    if method.base and not doubts:
        doubts = _alike(dict(zip(vectors.parents, deltas, strict=True)))
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=5)
    return doubts


def relative_sizes(deltas: np.ndarray, base: np.ndarray) -> list[float]:
    """|task vector| / |base| of every parent: far below 1 for those trained from this base."""
    own, each = square(base), [square(x) for x in deltas]
    return [float(np.sqrt(x / own)) if own else float(x > 0) for x in each]


def _sampled(vectors: TaskVectors) -> tuple[np.ndarray, np.ndarray]:
    """deltas (parents, n) and base (n,), float32, of the same entries each time."""
    if n := vectors.size(vectors.names):
        return vectors.sample(vectors.names, min(n, SAMPLE))
    return np.zeros((len(vectors.parents), 0), np.float32), np.zeros(0, np.float32)


def _alike(deltas: Mapping[str, np.ndarray]) -> list[str]:
    """A warning for every two parents whose task vectors point the same way, but are not the same."""
    wide = {name: x.astype(np.float64) for name, x in deltas.items()}
    found = []
    for one, other in combinations(wide, 2):
        a, b = wide[one], wide[other]
        with np.errstate(invalid="ignore", over="ignore"):  # Inf and NaN are refused where all is read
            lengths = float(np.sqrt((a @ a) * (b @ b)))
            cosine = float(a @ b) / lengths if lengths else 0.0
        if cosine > SAME_WAY and not np.array_equal(a, b):
            found.append(ALIKE.format(one=one, other=other, cosine=cosine))
    return found
