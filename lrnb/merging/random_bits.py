"""Random numbers that belong to an entry: the same whatever the spans, the threads and the processor.

Entry i of tensor NAME in the task vector of parent number p has number i of the stream Philox-4x64-10 with
the key (seed, p * 2^32 + CRC-32 of NAME): a counter-based generator (Salmon et al. 2011, "Parallel Random
Numbers: As Easy as 1, 2, 3"), so any part of the stream is made without the part before it. Counter c, from
1, gives four words of 64 bits, taken as eight of 32, the low half of each first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

PER_COUNTER = 8  # 32-bit numbers
ALL = 1 << 32
LARGEST_SEED = 1 << 53  # up to here every whole number is a float


def whole_seed(seed: float, spell: Callable[[str], str]) -> str:
    """The complaint about a seed that is no whole number, or ""."""
    if seed == int(seed) and seed < LARGEST_SEED:
        return ""
    return f"needs {spell('seed')} to be a whole number below 2^53, got {seed:g}"


def random_words(seed: int, name: str, parent: int, start: int, count: int) -> np.ndarray:
    """(count,) uint32: the numbers of the entries from `start` on."""
    key = np.array([seed, (parent << 32) + zlib.crc32(name.encode("utf-8", "surrogatepass"))], np.uint64)
    stream, skip = np.random.Philox(key=key), start % PER_COUNTER
    stream.advance(start // PER_COUNTER)
    wide = np.random.Generator(stream).integers(0, ALL * ALL, (skip + count + 1) // 2, np.uint64)
    return wide.astype("<u8", copy=False).view("<u4")[skip : skip + count]


def random_marks(share: float, words: np.ndarray) -> np.ndarray:
    """Where a number lies in the first `share` of all numbers: each does with that probability."""
    limit = round(share * ALL)
    return words < np.uint32(limit) if limit < ALL else np.ones(len(words), bool)
