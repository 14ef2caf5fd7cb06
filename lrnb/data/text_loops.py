"""What is computed for every character of a corpus: loops compiled by numba, on code points.

Integers only, so every processor finds the same. All loops stand in this file, since numba's cache looks at
the file of a function alone.
"""

# mypy: ignore-errors
# (numba infers the types of these functions when they are first called)

from __future__ import annotations

import numba
import numpy as np

compiled = numba.njit(nogil=True, cache=True)
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, of the rolling hash
LARGEST = np.uint32(0xFFFFFFFF)


@compiled
def mixed(x):
    """All bits of a uint64 from all of its bits: the last step of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def stretches(points, width):
    """A uint64 for every stretch of `width` code points, by a rolling hash; of a shorter text one for all."""
    width = min(width, len(points))
    found = np.empty(len(points) - width + 1, np.uint64)
    top = np.uint64(1)
    for _ in range(width):
        top *= BASE
    rolled = np.uint64(0)
    for i in range(len(points)):
        rolled = rolled * BASE + np.uint64(points[i] + 1)
        if i >= width:
            rolled -= top * np.uint64(points[i - width] + 1)
        if i >= width - 1:
            found[i - width + 1] = mixed(rolled)
    return found


@compiled
def sketch(hashes, factors, shifts, found):
    """MinHash: into `found` (uint32) the least hash * factor + shift modulo 2**32 of every permutation."""
    found[:] = LARGEST
    for i in range(len(hashes)):
        low = np.uint32(hashes[i])
        for k in range(len(found)):
            value = np.uint32(low * factors[k] + shifts[k])
            found[k] = min(found[k], value)


@compiled
def put_in(hashes, table):
    """Puts hashes into a table of a power of two places, 0 an empty one; it has to have room."""
    last = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        place = hashes[i] & last
        while table[place] != 0 and table[place] != hashes[i]:
            place = (place + np.uint64(1)) & last
        table[place] = hashes[i]


@compiled
def holds_any(hashes, table):
    """Whether one of the hashes is in a table made by `put_in`."""
    last = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        place = hashes[i] & last
        while table[place] != 0:
            if table[place] == hashes[i]:
                return True
            place = (place + np.uint64(1)) & last
    return False


@compiled
def place_in_band(own, band, rows, sketches, slots):
    """Where in a band's slots the sketches lie that are like `own` in that band, or its empty place."""
    start, last = band * rows, np.uint64(slots.shape[1] - 1)
    key = np.uint64(0)
    for k in range(start, start + rows):
        key = mixed(key * BASE + np.uint64(own[k]))
    place = key & last
    while slots[band, place] and not same_band(own, sketches[slots[band, place] - 1], start, rows):
        place = (place + np.uint64(1)) & last
    return place


@compiled
def same_band(one, other, start, rows):
    """Whether two sketches are equal in `rows` places from `start`."""
    for k in range(start, start + rows):  # noqa: SIM110 (compiled)
        if one[k] != other[k]:
            return False
    return True


@compiled
def has_twin(own, rows, least, sketches, slots, before):
    """Whether a sketch that is like `own` in a band is equal to it in `least` places or more."""
    for band in range(len(slots)):
        other = slots[band, place_in_band(own, band, rows, sketches, slots)]
        while other:
            if np.sum(own == sketches[other - 1]) >= least:
                return True
            other = before[other - 1, band]
    return False


@compiled
def enter(number, rows, sketches, slots, before):
    """Puts sketch `number` at the head of its chain in every band; `before` holds the next of each chain."""
    for band in range(len(slots)):
        place = place_in_band(sketches[number], band, rows, sketches, slots)
        before[number, band] = slots[band, place]
        slots[band, place] = number + 1


@compiled
def is_settled(points, parts, classes):
    """Whether code points are surely in NFC: `lrnb/data/normal_form.py` has the tables."""
    before = starter = np.uint8(0)  # combining class of the last one; whether the last starter may be joined
    for i in range(len(points)):
        part, own = parts[points[i]], classes[points[i]]
        if part & np.uint8(1) or (own and own < before) or (part & np.uint8(2) and starter):
            return False
        before = own
        if not own:
            starter = part & np.uint8(4)
    return True
