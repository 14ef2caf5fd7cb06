"""Rows of embeddings that hold NaN or Inf, by their tokens: often those that no text has."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from lrnb.checkpoints.reading import EMBEDDINGS, HEAD
from lrnb.checkpoints.tokens import read_tokens

STEP = 4096  # rows looked at together
SHOWN = 5


def bad_rows(folder: Path) -> Callable[[str, np.ndarray], str]:
    """What a message says of a table of embeddings that is not finite, after the count of its entries."""

    def told(name: str, tensor: np.ndarray) -> str:
        if not name.endswith((*EMBEDDINGS, HEAD)) or not isinstance(tensor, np.ndarray) or tensor.ndim != 2:
            return "."
        found = rows_not_finite(tensor)
        tokens = known.by_id() if (known := read_tokens(folder)) else {}
        some = [f"{x} ({repr(tokens[x][:24]) if x in tokens else 'no token'})" for x in islice(found, SHOWN)]
        more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        return (
            f", in {len(found):,} of {len(tensor):,} rows: {', '.join(some)}{more}. If no text has these "
            "tokens, set their rows to the mean of the others and save it again."
        )

    return told


def rows_not_finite(table: np.ndarray) -> list[int]:
    """Numbers of the rows that hold NaN or Inf, a few thousand rows at a time."""
    parts = ((start, np.isfinite(table[start : start + STEP])) for start in range(0, len(table), STEP))
    return [start + int(row) for start, fine in parts for row in np.flatnonzero(~fine.all(axis=1))]
