"""Hypothesis strategies for small models: heavy ties, exact cancellation, denormals, mixed dtypes."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from reference import BF16

settings.register_profile("lrnb", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("lrnb")

GRID = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1e-40, -1e-40, 0.1, -0.1]
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]
values = st.one_of(st.sampled_from(GRID), st.floats(-100, 100, width=32))
shapes = st.sampled_from([(1,), (3,), (2, 3), (), (0, 2), (7,)])


@st.composite
def models(draw, parents: int = 2):
    """(base, {label: parent}): the same names and shapes; a dtype each tensor; some deltas all zero."""
    layout = draw(st.lists(shapes, min_size=1, max_size=3))
    base, found = {}, {label: {} for label in ("ct", "sft", "third")[:parents]}
    for i, shape in enumerate(layout):
        name = f"t{len(layout) - i}.weight"
        base[name] = draw(array(shape, draw(st.sampled_from(DTYPES))))
        for parent in found.values():
            parent[name] = draw(like(base[name]))
    return base, found


@st.composite
def array(draw, shape, dtype):
    size = int(np.prod(shape))
    flat = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    return flat.astype(dtype).reshape(shape)


@st.composite
def like(draw, base):
    """Equal to base, base plus small steps (ties), or anything; its own dtype; maybe not contiguous."""
    dtype = draw(st.sampled_from([base.dtype, *DTYPES]))
    kind = draw(st.sampled_from(["same", "steps", "steps", "any"]))
    if kind == "same":
        return base.copy()
    other = draw(array(base.shape, np.float32))
    if kind == "steps":
        other = base.astype(np.float32) + other
    other = other.astype(dtype)
    if other.ndim == 2 and draw(st.booleans()):
        other = np.asfortranarray(other)
    return other


densities = st.sampled_from([0.01, 0.2, 0.34, 0.5, 0.75, 1.0])
weights = st.sampled_from([0.0, 0.3, 1.0, 1.0, 2.0])
