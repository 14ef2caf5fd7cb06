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
#: what becomes of a document, in the order in which it is asked; 0: it is kept
EMPTY, OTHER_SCRIPT, DUPLICATE, OTHER_LANGUAGE, OF_ITEMS, NEAR = range(1, 7)
LETTER, OWN_LETTER = 1, 2  # kinds of characters: of any script, of the script that is asked for
COMPARED, SPACE = 1, 2  # kinds of characters where items are looked for
HTTP, SLASHES = (np.array([*map(ord, word)], np.uint32) for word in ("http", "://"))
HTTPS = ord("s")


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
    found[0] = 0  # of no text at all
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
def sketches_of(points, ends, wanted, width, factors, shifts):
    """For each wanted text of those that end at `ends`: half of every least value of its `sketch`, which is
    enough to tell sketches apart."""
    found, own, start = np.zeros((len(ends), len(factors)), np.uint16), np.empty(len(factors), np.uint32), 0
    for i in range(len(ends)):
        if wanted[i]:
            sketch(stretches(points[start : ends[i]], width), factors, shifts, own)
            for k in range(len(own)):
                found[i, k] = np.uint16(own[k])
        start = ends[i]
    return found


@compiled
def summaries(points, ends, kinds):
    """For each text of those that end at `ends`: a hash, never 0; how many of its characters are LETTERs and
    how many OWN_LETTERs by the table `kinds`."""
    hashes, counts, start = np.empty(len(ends), np.uint64), np.zeros((len(ends), 2), np.int64), 0
    for i in range(len(ends)):
        rolled = np.uint64(ends[i] - start)
        for k in range(start, ends[i]):
            rolled = mixed(rolled + BASE ^ np.uint64(points[k]))
            kind = kinds[points[k]]
            counts[i, 0] += kind & LETTER
            counts[i, 1] += kind // OWN_LETTER
        hashes[i] = max(rolled, np.uint64(1))
        start = ends[i]
    return hashes, counts


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
def mark_exact(fates, hashes, table):
    """Marks each text whose hash is in the table, made as by `put_in`, as DUPLICATE; puts the others in.

    Those that are EMPTY or of OTHER_SCRIPT are passed over. Returns how many were put in.
    """
    new, last = 0, np.uint64(len(table) - 1)
    for i in range(len(fates)):
        if fates[i] and fates[i] < DUPLICATE:
            continue
        place = hashes[i] & last
        while table[place] != 0 and table[place] != hashes[i]:
            place = (place + np.uint64(1)) & last
        if table[place]:
            fates[i] = DUPLICATE
        else:
            table[place] = hashes[i]
            new += 1
    return new


@compiled
def are_known(hashes, table):
    """For each hash whether the table holds it; may miss one that another thread is putting in."""
    found = np.empty(len(hashes), np.bool_)
    for i in range(len(hashes)):
        found[i] = holds_any(hashes[i : i + 1], table)
    return found


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
def enter_all(known, rows, sketches, slots, before):
    """`enter` for the first `known` sketches."""
    for number in range(known):
        enter(number, rows, sketches, slots, before)


@compiled
def mark_near(fates, own, known, rows, least, sketches, slots, before):
    """Marks each text that is kept so far and whose sketch in `own` has a twin as NEAR; enters the others.

    Returns how many sketches are then known.
    """
    for i in range(len(fates)):
        if fates[i]:
            continue
        if has_twin(own[i], rows, least, sketches, slots, before):
            fates[i] = NEAR
        else:
            sketches[known] = own[i]
            enter(known, rows, sketches, slots, before)
            known += 1
    return known


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


@compiled
def are_settled(points, ends, parts, classes):
    """`is_settled` for each text of those that end at `ends`."""
    found, start = np.empty(len(ends), np.bool_), 0
    for i in range(len(ends)):
        found[i] = is_settled(points[start : ends[i]], parts, classes)
        start = ends[i]
    return found


@compiled
def may_hold(points, ends, wanted, width, table, folded, kinds, parts, classes):
    """For each wanted text whether a stretch of its compared letters is in the table, or it is not sure."""
    found, start = np.zeros(len(ends), np.bool_), 0
    for i in range(len(ends)):
        if wanted[i]:
            own = np.empty(ends[i] - start, np.uint32)
            count = compared_letters(points[start : ends[i]], folded, kinds, parts, classes, own)
            found[i] = count < 0 or (count > 0 and holds_any(stretches(own[:count], width), table))
        start = ends[i]
    return found


@compiled
def compared_letters(points, folded, kinds, parts, classes, found):
    """Puts into `found` the COMPARED characters of a text in NFC, case folded, without web addresses, and
    returns how many; -1 where tables do not tell: a fold is longer, or no longer in NFC."""
    same = True
    for i in range(len(points)):
        found[i] = folded[points[i]]
        same &= found[i] == points[i]
        if found[i] == LARGEST:
            return -1
    if not same and not is_settled(found, parts, classes):
        return -1
    count = i = 0
    while i < len(found):
        end = address_end(found, i, kinds)
        if end == i:
            found[count] = found[i]
            count += kinds[found[i]] & COMPARED
            end = i + 1
        i = end
    return count


@compiled
def address_end(points, start, kinds):
    """Where the web address ends that begins at `start`, else `start`: https?://, then no space."""
    i = after(points, start, HTTP)
    if i == start:
        return start
    if i < len(points) and points[i] == HTTPS:
        i += 1
    end = begun = after(points, i, SLASHES)
    while begun > i and end < len(points) and not kinds[points[end]] & SPACE:
        end += 1
    return end if end > begun else start


@compiled
def after(points, start, word):
    """Where `word` ends if it stands at `start`, else `start`."""
    if start + len(word) > len(points):
        return start
    for k in range(len(word)):
        if points[start + k] != word[k]:
            return start
    return start + len(word)
