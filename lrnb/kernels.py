"""The inner loops of merging, compiled by numba: what looks at a span of entries before it is merged.

A span is a run of entries of one tensor: `base` and each of `parents` is 1-D and of one type, float32 or
bfloat16 given as its uint16 bits. Work goes in blocks that stay in the cache; `pad` is a worker's scratch,
(4 + parents, BLOCK) float32. All arithmetic is float32, in the order of the parents, one rounding an
operation: results do not depend on how entries are cut into spans or blocks. No loop holds the GIL.

Indices run from 0 inside slices and counters are plain sums: both let LLVM use vector instructions.
"""

# mypy: ignore-errors
# (numba infers the types of these functions when they are first called)

from __future__ import annotations

import numpy as np

from lrnb.bits import as_float, compiled

BLOCK = 4096
FMAX = np.float32(np.finfo(np.float32).max)
ZERO, ONE = np.float32(0), np.float32(1)
TOTAL, TOP, BOTTOM, BASE, ROWS = 0, 1, 2, 3, 4  # rows of pad; the parents' task vectors follow
OVER, AT_HIGH, AT_LOW, WITHIN = 0, 1, 2, 3  # of a scan: counts of values above, at and in its bracket


@compiled
def deltas(base, parents, start, m, pad):
    own, wide = base[start : start + m], pad[BASE]
    for i in range(m):
        wide[i] = as_float(own[i])
    for p in range(len(parents)):
        x, delta = parents[p][start : start + m], pad[ROWS + p]
        for i in range(m):
            delta[i] = as_float(x[i]) - wide[i]


@compiled
def trim_and_sum(m, pad, thresholds, weights):
    """Zero what is below the thresholds; TOTAL becomes the weighted sum."""
    total = pad[TOTAL]
    for p in range(len(thresholds)):
        x, threshold, weight = pad[ROWS + p], thresholds[p], weights[p]
        for i in range(m):
            kept = x[i] if abs(x[i]) >= threshold else ZERO
            x[i] = kept
            total[i] = kept * weight if p == 0 else total[i] + kept * weight


@compiled
def mark_signs(m, pad):
    """TOP becomes 1 where some parent is above 0, BOTTOM where some parent is below."""
    up, down = pad[TOP], pad[BOTTOM]
    up[:m] = ZERO
    down[:m] = ZERO
    for p in range(ROWS, len(pad)):
        x = pad[p]
        for i in range(m):
            value, high, low = x[i], up[i], down[i]  # loaded before choosing: no branches
            up[i] = ONE if value > 0 else high
            down[i] = ONE if value < 0 else low


@compiled
def _count(values, m, low, high, counts):
    over, at_high, at_low = 0, 0, 0
    for i in range(m):
        over += values[i] > high
        at_high += values[i] == high
        at_low += values[i] == low
    counts[OVER] += over
    counts[AT_HIGH] += at_high
    counts[AT_LOW] += at_low


@compiled
def _collect(values, m, low, high, found, fill):
    """Append the values strictly between the bounds, in order; most runs of 64 hold none."""
    for start in range(0, m, 64):
        run = values[start : min(start + 64, m)]
        within = 0
        for i in range(len(run)):
            within += (low < run[i]) & (run[i] < high)
        if within:
            for i in range(len(run)):
                if (low < run[i]) & (run[i] < high):
                    found[fill] = run[i]
                    fill += 1
    return fill


@compiled
def scan(base, parents, pad, lows, highs, counts, found):
    """Count every parent's |delta| around its bracket and collect those inside.

    counts: (parents, 4) int64, added to; found: (parents, span) float32. Returns the number of deltas
    that are not finite.
    """
    bad = 0
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        deltas(base, parents, start, m, pad)
        for p in range(len(parents)):
            size = pad[ROWS + p]
            for i in range(m):
                size[i] = abs(size[i])
                bad += not size[i] <= FMAX
            _count(size, m, lows[p], highs[p], counts[p])
            counts[p, WITHIN] = _collect(size, m, lows[p], highs[p], found[p], counts[p, WITHIN])
    return bad


@compiled
def position(base, parent, value, rank):
    """The index of the `rank`-th entry with |delta| = value, ranks from 1; -1 if there are fewer."""
    for i in range(len(base)):
        if abs(as_float(parent[i]) - as_float(base[i])) == value:
            rank -= 1
            if rank == 0:
                return i
    return -1


@compiled
def vote(base, parents, pad, thresholds, weights):
    """Entries whose weighted sum is above 0 minus those below."""
    lead, total = 0, pad[TOTAL]
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        deltas(base, parents, start, m, pad)
        trim_and_sum(m, pad, thresholds, weights)
        for i in range(m):
            lead += total[i] > 0
            lead -= total[i] < 0
    return lead


@compiled
def observe(base, parents, pad, thresholds, weights, own, low, high, counts, found, level):
    """As `vote`; and as `scan` for the margins |sum| of the entries where parent `own` loses.

    counts: (5,) int64, the last one counts the losses; level: (2,) int64, the exact ties between parents
    of opposite signs, by own's sign: below 0, above 0. Returns the lead.
    """
    lead, total, x, margin = 0, pad[TOTAL], pad[ROWS + own], pad[BASE]
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        deltas(base, parents, start, m, pad)
        trim_and_sum(m, pad, thresholds, weights)
        mark_signs(m, pad)
        lost, minus, plus, up, down = 0, 0, 0, pad[TOP], pad[BOTTOM]
        for i in range(m):
            value, sign = x[i], total[i]
            lead += sign > 0
            lead -= sign < 0
            loses = ((value > 0) & (sign < 0)) | ((value < 0) & (sign > 0))
            even = (sign == 0) & (up[i] != 0) & (down[i] != 0)
            minus += even & (value < 0)
            plus += even & (value > 0)
            lost += loses
            size = abs(sign)
            margin[i] = size if loses else -ONE
        level[0] += minus
        level[1] += plus
        counts[4] += lost
        _count(margin, m, low, high, counts)
        counts[WITHIN] = _collect(margin, m, low, high, found, counts[WITHIN])
    return lead
