"""Hypothesis strategies for small models: heavy ties, exact cancellation, denormals, mixed dtypes."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from support.reference import BF16

settings.register_profile("lrnb", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("lrnb")

DENORMAL = [1e-40, -1e-40, 1e-45, 6e-8, -6e-8]  # of float32 and bfloat16, and of float16
GRID = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 0.1, -0.1, *DENORMAL]
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]
WIDE = [*DTYPES, np.dtype(np.float64)]
values = st.one_of(st.sampled_from(GRID), st.floats(-100, 100, width=32))
shapes = st.sampled_from([(1,), (3,), (2, 3), (), (0, 2), (7,)])
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@st.composite
def models(draw, parents: int = 2):
    """(base, {label: parent}): the same names and shapes; a dtype each tensor, now and then float64;
    some deltas all zero; some with input and output embeddings that are one array."""
    layout = draw(st.lists(shapes, min_size=1, max_size=3))
    dtypes = draw(st.sampled_from([DTYPES, DTYPES, WIDE]))
    base, found = {}, {label: {} for label in ("ct", "sft", "third")[:parents]}
    for i, shape in enumerate(layout):
        name = f"t{len(layout) - i}.weight"
        base[name] = draw(array(shape, draw(st.sampled_from(dtypes))))
        others: list[np.ndarray] = []
        for parent in found.values():
            parent[name] = draw(like(base[name], dtypes, others))
            others.append(parent[name])
    if draw(st.sampled_from([False, False, True])):
        for tensors in (base, *found.values()):
            tensors[HEAD] = tensors[EMBEDDING] = tensors.pop("t1.weight")
    return base, found


@st.composite
def array(draw, shape, dtype):
    size = int(np.prod(shape))
    flat = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    if dtype == np.float64:
        flat = flat * (1 + 2.0**-40)  # what float32 cannot hold
    return laid_out(flat.astype(dtype).reshape(shape), draw(layouts))


@st.composite
def like(draw, base, dtypes=DTYPES, others=()):
    """Equal to base; base plus small steps (ties); another parent's steps mirrored (exact cancellation);
    or anything. Of its own dtype."""
    dtype = draw(st.sampled_from([base.dtype, *dtypes]))
    kind = draw(st.sampled_from(["same", "steps", "steps", "mirror", "any"]))
    if kind == "same":
        return base.copy()
    wide = np.float64 if np.float64 in (base.dtype, dtype) else np.float32
    if kind == "mirror" and others:
        other = base.astype(wide) * 2 - draw(st.sampled_from(others)).astype(wide)
    else:
        other = draw(array(base.shape, np.dtype(np.float32))).astype(wide)
        other = base.astype(wide) + other if kind == "steps" else other
    return laid_out(np.asarray(other).astype(dtype), draw(layouts))


layouts = st.sampled_from(["plain", "plain", "columns", "gaps", "backwards"])


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values, contiguous or not."""
    if layout == "columns" and x.ndim > 1:
        return np.asfortranarray(x)
    if layout == "gaps":
        wide = np.zeros((*x.shape, 2), x.dtype)
        wide[..., 0] = x
        return wide[..., 0]
    if layout == "backwards" and x.ndim:
        return x[::-1].copy()[::-1]
    return x


densities = st.sampled_from([0.01, 0.2, 0.34, 0.5, 0.75, 1.0])
weights = st.sampled_from([0.0, 0.3, 1.0, 1.0, 2.0])
