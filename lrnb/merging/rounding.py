"""The one rounding at the end of a merge: to the output's type, refused where a value leaves its range."""

from __future__ import annotations

import numpy as np

from lrnb.checkpoints.reading import BFLOAT16
from lrnb.errors import UserError


def cast(x: np.ndarray, dtype: np.dtype, name: str, bad: int | None = None) -> np.ndarray:
    """`x` in `dtype`; UserError where an entry leaves its range. `bad`: how many of x are known to.

    Results that stay on a GPU come in `dtype` already.
    """
    if x.dtype == np.float64 and dtype == BFLOAT16:
        x = to_odd(x)
    with np.errstate(over="ignore"):
        result = x.astype(dtype, copy=False) if isinstance(x, np.ndarray) else x
    if bad is None or (result is not x and not bad):
        bad = result.size - int(np.count_nonzero(np.isfinite(result)))
    if bad:
        wider = "" if dtype.itemsize > 2 else ", or write float32"
        raise UserError(
            f"{name!r}: {bad:,} merged entries are beyond {dtype.name}'s range. "
            f"Lower lam or the weights{wider}"
        )
    return result


def to_odd(x: np.ndarray) -> np.ndarray:
    """float64 as float32, rounded to odd: rounding that once more, to bfloat16, is rounding once."""
    with np.errstate(over="ignore"):
        near = x.astype(np.float32)
    inward = np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0)), near)
    return np.where(inward == x, inward, (inward.view(np.uint32) | 1).view(np.float32))
