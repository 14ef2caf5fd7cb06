"""The inner loops of counting, compiled by numba, for any number of parents. Layout: `merging/kernels.py`.

`look` goes through task vectors without any setting, `account` counts an election exactly, and the loops over
a sample run the same election on its entries.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from lrnb.merging.bits import compiled
from lrnb.merging.kernels import (
    BLOCK,
    LANES,
    ONE,
    ZERO,
    conflict_at,
    delta,
    loses,
    overlap_at,
    plus,
    trimmed,
    weighted_sum_at,
    won_back_at,
)  # fmt: skip

I32, U64 = np.int32, np.uint64
LOWEST, OCTAVES, FINE = -34, 40, 128  # magnitudes from 2^-34 to 2^6, so many bins in an octave
BINS = OCTAVES * FINE + 1  # bin 0 holds zeros
PLACES = 2 * BINS  # of each bin the magnitudes above its lower edge, and those at it
SHIFT = np.uint32(16)  # bits of a float32 below its bin
FIRST = np.uint32(((127 + LOWEST) << 7) - 1)  # what turns a float32's upper bits into a bin, from 1
LAST, REST, MAGNITUDE = np.uint32(OCTAVES * FINE), np.uint32(0xFFFF), np.uint32(0x7FFFFFFF)

OVERLAP, CONFLICTS, RESERVED, SHARED = 0, 1, 2, 3  # of counts, after those kept and lost, a parent each
MASSES = 5  # of a parent: its entries kept, lost, in OVERLAP, in CONFLICTS, and won back or given up for it
UNMARKED, ALL_KEPT, OPPOSED, WON = np.uint32(0), np.uint32(1), np.uint32(2), np.uint32(4)  # marks of an entry
TRIMMED, ALONE, AGREED, HELD, BEATEN = map(np.uint8, range(5))  # fates of a parent's entry before slack
DIGIT = 11  # bits that `reach` tells at once; three of them are a float32
UP, DOWN, SEVERAL = np.uint8(1), np.uint8(2), np.uint8(4)  # how parents move an entry
KINDS = 4  # of entries: moved by none, by one parent, by several alike, by several against each other
KIND = np.array([0, 1, 1, 1, 0, 2, 2, 3], np.uint8)  # by UP, DOWN and SEVERAL
GOLDEN, TURN = np.uint64(2654435769), np.uint64(0xFFFFFFFF)  # its multiples spread evenly over 2^32


@compiled
def _elect(
    base, parents, start, stop, thresholds, weights, zero, own, xi, by_sum, stands, sign, marks, counts
):
    """The elected sign before slack of every entry, any magnitude, and its marks."""
    overlaps, conflicts, reserved = I32(0), I32(0), I32(0)
    for i in range(U64(start), U64(stop)):
        total = weighted_sum_at(base, parents, i, thresholds, weights)
        gamma = total if total != 0 else zero
        both, opposed = overlap_at(base, parents, i, thresholds), conflict_at(base, parents, i, thresholds)
        won = won_back_at(base, parents, i, thresholds, weights, gamma, own, xi, by_sum)
        sign[i - U64(start)] = gamma
        marks[i - U64(start)] = (
            (ALL_KEPT if both else UNMARKED) | (OPPOSED if opposed else UNMARKED) | (WON if won else UNMARKED)
        )
        overlaps = plus(overlaps, both)
        conflicts = plus(conflicts, opposed)
        reserved = plus(reserved, won)
    shared = 2 * len(parents)
    counts[shared + OVERLAP] += stands * overlaps
    counts[shared + CONFLICTS] += stands * conflicts
    counts[shared + RESERVED] += stands * reserved


@compiled
def _tally(base, parent, start, stop, threshold, mine, stands, sign, marks, lanes):
    """A parent's kept and lost entries; adds |task vector| to its sums, LANES of each: the processor adds
    several at once."""
    n, lost = I32(0), I32(0)
    for first in range(start, stop, LANES):
        last = min(first + LANES, stop)
        own, x = base[first:last], parent[first:last]
        signs, seen = sign[first - start : last - start], marks[first - start : last - start]
        for i in range(len(x)):
            value, mark = trimmed(x[i], own[i], threshold), seen[i]
            loser = loses(value, signs[i])
            size = stands * np.float64(abs(value))
            lanes[i] += size
            lanes[LANES + i] += size if loser else 0.0
            lanes[2 * LANES + i] += size if mark & ALL_KEPT else 0.0
            lanes[3 * LANES + i] += size if mark & OPPOSED else 0.0
            lanes[4 * LANES + i] += size if ((mark & WON) != 0) & (loser == mine) else 0.0
            n = plus(n, value != 0)
            lost = plus(lost, loser)
    return n, lost


@compiled
def account(
    base, parents, start, stop, thresholds, weights, zero, own, xi, by_sum, stands, sign, marks, counts, lanes
):
    """Count an election over entries start to stop, and what slack changes in it; ballot as in merging.

    stands: the entries that each one stands for, 1 where all are there. sign, marks: (BLOCK,) scratch,
    float32 and uint32. counts: (2 P + SHARED,) float64; lanes: (P, MASSES * LANES) float64, of each parent
    sums of |task vector|, to be added up; both are added to. Lost is what plain TIES discards.
    """
    for first in range(start, stop, BLOCK):
        last = min(first + BLOCK, stop)
        _elect(
            base, parents, first, last, thresholds, weights, zero, own, xi, by_sum, stands, sign, marks,
            counts,
        )  # fmt: skip
        for p in range(len(parents)):
            n, lost = _tally(
                base, parents[p], first, last, thresholds[p], p == own, stands, sign, marks, lanes[p]
            )
            counts[p] += stands * n
            counts[len(parents) + p] += stands * lost


@compiled
def account_sample(
    base, parents, runs, stands, thresholds, weights, zeros, own, xi, below, until, by_sum, counts, lanes
):
    """`account` of a sample: tensor, start and stop of each of `runs`, whose entries stand for `stands` each.

    base: zeros, since entries are task vectors. Of a tensor: thresholds (T, P), zeros, and xi up to its entry
    `until`, from there on `below`. counts and lanes have a row a tensor.
    """
    sign, marks = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    for r in range(len(runs)):
        t, start, stop = runs[r, 0], runs[r, 1], runs[r, 2]
        middle = min(max(until[t], start), stop)
        for first, last, reach in ((start, middle, xi[t]), (middle, stop, below[t])):
            account(
                base, parents, first, last, thresholds[t], weights, zeros[t], own, reach, by_sum, stands[r],
                sign, marks, counts[t], lanes[t],
            )  # fmt: skip


@compiled
def decide_sample(base, parents, runs, thresholds, weights, zeros, own, margins, fates):
    """The fate of every entry of parent `own` before slack, and by how much it lost a conflict, else -1."""
    mine = parents[own]
    for r in range(len(runs)):
        t, limits = runs[r, 0], thresholds[runs[r, 0]]
        zero, limit = zeros[t], limits[own]
        for i in range(U64(runs[r, 1]), U64(runs[r, 2])):
            total, up, down, n = ZERO, False, False, I32(0)
            for p in range(len(parents)):
                x = trimmed(parents[p][i], base[i], limits[p])
                total = x * weights[p] if p == 0 else total + x * weights[p]
                up |= x > 0
                down |= x < 0
                n = plus(n, x != 0)
            value, elected, size = trimmed(mine[i], base[i], limit), total if total != 0 else zero, abs(total)
            loser = loses(value, elected)
            opposed = ((value > 0) & down) | ((value < 0) & up)
            margins[i] = size if loser & opposed else -ONE
            fate = (BEATEN if loser else HELD) if opposed else (AGREED if n > 1 else ALONE)
            fates[i] = fate if value != 0 else TRIMMED


@compiled
def reach(margins, weights, share):
    """The margin up to which `share` of some losses lies, as its bits, and how far into them those of just
    that margin are among them. weights: for how many each one stands.

    The bits of floats from 0 on are in their order: they are told digit by digit, from the upper ones.
    """
    bits, digits, low = margins.view(np.uint32), np.empty(1 << DIGIT, np.float64), U64((1 << DIGIT) - 1)
    found, wanted, until = U64(0), share * weights.sum() * (1 - 1e-9), 0  # sums differ by their order
    for shift in (U64(2 * DIGIT), U64(DIGIT), U64(0)):
        digits[:] = 0
        for i in range(len(bits)):
            upper = U64(bits[i]) >> shift
            if upper >> U64(DIGIT) == found:
                digits[upper & low] += weights[i]
        d = 0
        while digits[d] < wanted:
            wanted -= digits[d]
            d += 1
        found = (found << U64(DIGIT)) | U64(d)
    for i in range(len(bits)):
        if bits[i] == found:
            if wanted < weights[i] / 2:
                break
            wanted -= weights[i]
            until = i + 1
    return found, until


@compiled
def _places(bits, m, places):
    """The place of every magnitude in `PLACES`: twice its bin, and one more at a bin's lower edge."""
    for i in range(m):
        size = bits[i] & MAGNITUDE
        whole = size >> SHIFT
        bin = whole - FIRST if whole > FIRST else np.uint32(1)
        inside = (whole > FIRST) & (bin <= LAST)
        bin = bin if bin < LAST else LAST
        at_edge = np.uint32(1) if inside & ((size & REST) == 0) else np.uint32(0)
        places[i] = (bin << np.uint32(1)) + at_edge if size > 0 else np.uint32(0)


@compiled
def _sizes(values, m, lanes, top):
    """Add |x| to its sum, LANES of it, and return the bits of the largest: they are in the order of sizes."""
    bits = values.view(np.uint32)
    for start in range(0, m, LANES):
        x = values[start : min(start + LANES, m)]
        for i in range(len(x)):
            lanes[i] += np.float64(abs(x[i]))
    for i in range(m):
        top = max(top, bits[i] & MAGNITUDE)
    return top


@compiled
def look(base, parents, first, levels, limits, own, lanes, highs, totals, found, classes):
    """Add a span to histograms of its task vectors, and pick entries for a sample; returns how many.

    levels: (P, BINS) uint8, how rare a magnitude is; an entry's class is KINDS times that of its rarest, and
    its kind. limits: (classes,) uint64, of 2^32 entries so many are picked, evenly: that depends on an
    entry's index alone, which counts from `first`. own: (P, PLACES) uint32, each parent's magnitudes; lanes:
    (P, LANES) float64, to be added up: |task vector|; highs: (P,) uint32, the largest one's bits; totals:
    (classes,) int64; these four are added to. found: (P, span) float32 and classes: (span,) uint8, the picks.
    """
    values, places = np.empty((len(parents), BLOCK), np.float32), np.empty(BLOCK, np.uint32)
    rarest, moves, picked = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8), 0
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        rarest[:], moves[:] = 0, 0
        for p in range(len(parents)):
            x, theirs, ours = values[p], parents[p][start : start + m], base[start : start + m]
            for i in range(m):
                x[i] = delta(theirs[i], ours[i])
            highs[p] = _sizes(x, m, lanes[p], highs[p])
            _places(x.view(np.uint32), m, places)
            for i in range(m):
                own[p, places[i]] += np.uint32(1)
                rarest[i] = max(rarest[i], levels[p, places[i] >> np.uint32(1)])
            for i in range(m):
                move = UP if x[i] > 0 else (DOWN if x[i] < 0 else np.uint8(0))
                several = SEVERAL if (move != 0) & (moves[i] != 0) else np.uint8(0)
                moves[i] |= move | several
        for i in range(m):
            c = rarest[i] * np.uint8(KINDS) + KIND[moves[i]]
            totals[c] += 1
            if ((U64(first + start + i) * GOLDEN) & TURN) < limits[c]:
                classes[picked] = c
                for p in range(len(parents)):
                    found[p, picked] = values[p, i]
                picked += 1
    return picked
