"""The inner loops of the conflict atlas, compiled by numba. Layout and rules: `kernels.py`.

`joint` looks at two task vectors without any setting, `account` counts one election exactly.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from lrnb.bits import compiled
from lrnb.kernels import (
    BASE,
    BLOCK,
    ONE,
    ROWS,
    TOP,
    TOTAL,
    ZERO,
    deltas,
    trim_and_sum,
)
from lrnb.merge_kernels import shortfall

LOWEST, OCTAVES = -34, 40  # magnitudes from 2^-34 to 2^6; what lies outside goes to the first or last bin
COARSE, FINE = 4, 128  # bins in an octave: of the joint histogram, of a parent's own
BINS = OCTAVES * COARSE + 1  # bin 0: entries that are exactly 0
PLACES = 2 * (OCTAVES * FINE + 1)  # of the own histogram: of each bin the values above its lower edge, at it
SHIFT = np.uint32(16)  # bits of a float32 below its FINE bin
FIRST = np.uint32(((127 + LOWEST) << 7) - 1)  # what turns a float32's upper bits into a bin, from 1
LAST, REST, MAGNITUDE = np.uint32(OCTAVES * FINE), np.uint32(0xFFFF), np.uint32(0x7FFFFFFF)
OPPOSITE, PER = np.uint32(0x80000000), np.uint32(FINE // COARSE)
L1, L2, MAX, CROSS, MOMENTS, SUMS = 0, 1, 2, 3, 4, 5  # of `moments`, (2, MOMENTS); CROSS in row 0 only
KEPT, LOST, BOTH, CONFLICTS, RESERVED, COUNTS = 0, 2, 4, 5, 6, 7  # of an account; KEPT, LOST a parent each
MASSES, LANES = 5, 256  # of a parent: its entries kept, lost, in BOTH, in CONFLICTS, RESERVED; sums of each


@compiled
def _places(bits, m, places):
    """The place of every magnitude in `PLACES`: twice its FINE bin, and one more at a bin's lower edge."""
    for i in range(m):
        size = bits[i] & MAGNITUDE
        whole = size >> SHIFT
        bin = whole - FIRST if whole > FIRST else np.uint32(1)
        inside = (whole > FIRST) & (bin <= LAST)
        bin = bin if bin < LAST else LAST
        at_edge = np.uint32(1) if inside & ((size & REST) == 0) else np.uint32(0)
        places[i] = (bin << np.uint32(1)) + at_edge if size > 0 else np.uint32(0)


@compiled
def _moments(ct, sft, m, lanes):
    """Add to the SUMS of two task vectors, LANES of each: the processor adds several at once."""
    for start in range(0, m, LANES):
        stop = min(start + LANES, m)
        x, y = ct[start:stop], sft[start:stop]
        for i in range(len(x)):
            a, b = np.float64(x[i]), np.float64(y[i])
            lanes[i] += abs(a)
            lanes[LANES + i] += abs(b)
            lanes[2 * LANES + i] += a * a
            lanes[3 * LANES + i] += b * b
            lanes[4 * LANES + i] += a * b


@compiled
def _largest(bits, m, top):
    """The bits of the largest magnitude: those of floats are in the order of their sizes."""
    for i in range(m):
        top = max(top, bits[i] & MAGNITUDE)
    return top


@compiled
def joint(base, parents, pad, places, table, own, ties, lanes, highs):
    """Add a span of two parents to histograms of their task vectors.

    table: (2, BINS, BINS) uint32, entries of the same sign and of opposite signs by both magnitudes (entries
    with a zero count by the other's sign); own: (2, PLACES) uint32, each parent's magnitudes; ties: (2, BINS)
    uint32, opposite entries of equal magnitude, by the second parent's sign: +, -. places: (2, BLOCK) uint32.
    lanes: (SUMS * LANES,) float64, to be added up: |CT|, |SFT|, CT^2, SFT^2, CT * SFT; highs: (2,) uint32.
    """
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        deltas(base, parents, start, m, pad)
        ct, sft = pad[ROWS], pad[ROWS + 1]
        _moments(ct, sft, m, lanes)
        first, second = ct.view(np.uint32), sft.view(np.uint32)
        highs[0], highs[1] = _largest(first, m, highs[0]), _largest(second, m, highs[1])
        _places(first, m, places[0])
        _places(second, m, places[1])
        for i in range(m):
            f, g, unlike = places[0, i], places[1, i], first[i] ^ second[i]
            row = ((f >> np.uint32(1)) + PER - np.uint32(1)) // PER
            column = ((g >> np.uint32(1)) + PER - np.uint32(1)) // PER
            own[0, f] += np.uint32(1)
            own[1, g] += np.uint32(1)
            table[unlike >> np.uint32(31), row, column] += np.uint32(1)
            if unlike == OPPOSITE and f > 0:
                ties[second[i] >> np.uint32(31), column] += np.uint32(1)


@compiled
def account(base, parents, pad, thresholds, weights, zero, own, xi, by_sum, counts, lanes):
    """Count an election of two parents and what slack changes in it; ballot as in `merge_kernels.ties`.

    counts: (COUNTS,) int64; lanes: (2, MASSES * LANES) float64, of each parent sums of |task vector|, to be
    added up; both are added to. LOST is what plain TIES discards, RESERVED what slack wins back for `own`.
    """
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        deltas(base, parents, start, m, pad)
        trim_and_sum(m, pad, thresholds, weights)
        shortfall(m, pad, weights, own, by_sum, xi)
        _mark_won(m, pad, own, zero, xi, counts)
        for p in range(2):
            _count_lost(m, pad, p, counts)
            _add_masses(m, pad, p, lanes[p])


@compiled
def _mark_won(m, pad, own, zero, xi, counts):
    """TOTAL becomes the elected sign, TOP 1 where slack wins back; counts what concerns both parents."""
    x, y, total, mark, short = pad[ROWS + own], pad[ROWS + 1 - own], pad[TOTAL], pad[TOP], pad[BASE]
    both, conflicts, won = 0, 0, 0
    for i in range(m):
        value, other, sign = x[i], y[i], total[i]
        sign = sign if sign != 0 else zero
        unlike = ((value > 0) & (other < 0)) | ((value < 0) & (other > 0))
        loses = ((value > 0) & (sign < 0)) | ((value < 0) & (sign > 0))
        wins = loses & unlike & (short[i] <= xi)
        total[i] = sign
        mark[i] = ONE if wins else ZERO
        both += (value != 0) & (other != 0)
        conflicts += unlike
        won += wins
    counts[BOTH] += both
    counts[CONFLICTS] += conflicts
    counts[RESERVED] += won


@compiled
def _count_lost(m, pad, p, counts):
    x, sign, kept, lost = pad[ROWS + p], pad[TOTAL], 0, 0
    for i in range(m):
        value = x[i]
        kept += value != 0
        lost += ((value > 0) & (sign[i] < 0)) | ((value < 0) & (sign[i] > 0))
    counts[KEPT + p] += kept
    counts[LOST + p] += lost


@compiled
def _add_masses(m, pad, p, lanes):
    """Add |x| of parent p to its sums, LANES of each: the processor adds several at once."""
    for start in range(0, m, LANES):
        stop = min(start + LANES, m)
        x, y = pad[ROWS + p][start:stop], pad[ROWS + 1 - p][start:stop]
        signs, won = pad[TOTAL][start:stop], pad[TOP][start:stop]
        for i in range(len(x)):
            value, other, sign, wins = x[i], y[i], signs[i], won[i]
            size = abs(value)
            loses = ((value > 0) & (sign < 0)) | ((value < 0) & (sign > 0))
            unlike = ((value > 0) & (other < 0)) | ((value < 0) & (other > 0))
            lanes[i] += np.float64(size)
            lanes[LANES + i] += np.float64(size if loses else ZERO)
            lanes[2 * LANES + i] += np.float64(size if other != 0 else ZERO)
            lanes[3 * LANES + i] += np.float64(size if unlike else ZERO)
            lanes[4 * LANES + i] += np.float64(size if wins != 0 else ZERO)
