"""The inner loops of merging, compiled by numba: trim, elect, merge and count over one span of entries.

A span is a run of entries of one tensor: `base` and each of `parents` is 1-D and of one type, float32 or
bfloat16 given as its uint16 bits. Work goes in blocks that stay in the cache; `pad` is a worker's scratch,
(4 + parents, BLOCK) float32. All arithmetic is float32, in the order of the parents, one rounding an
operation: results do not depend on how entries are cut into spans or blocks. No loop holds the GIL.

Indices run from 0 inside slices and counters are plain sums: both let LLVM use vector instructions.
"""

# mypy: ignore-errors
# (numba infers the types of these functions when they are first called)

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BLOCK = 4096
FMAX = np.float32(np.finfo(np.float32).max)
ZERO, ONE = np.float32(0), np.float32(1)
TOTAL, TOP, BOTTOM, BASE, ROWS = 0, 1, 2, 3, 4  # rows of pad; the parents' task vectors follow
CONFLICTS, OVERLAP, RESERVED, BAD, PARENTS = 0, 1, 2, 3, 4  # of a tally; then kept and lost, a parent each
OVER, AT_HIGH, AT_LOW, WITHIN = 0, 1, 2, 3  # of a scan: counts of values above, at and in its bracket

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@intrinsic
def as_float(_context: Any, x: Any) -> Any:
    """float32 of a float32, or of the bits of a bfloat16."""
    if x == types.float32:
        return types.float32(x), lambda context, builder, sig, args: args[0]
    if x != types.uint16:
        return None

    def widen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        wide = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(x), widen


@intrinsic
def from_float(_context: Any, x: Any, like: Any) -> Any:
    """A finite float32 as the type of `like`; bfloat16 rounds to nearest, ties to even."""
    if like == types.float32:
        return like(x, like), lambda context, builder, sig, args: args[0]
    if like != types.uint16:
        return None

    def narrow(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return like(x, like), narrow


@compiled
def _deltas(base, parents, start, m, pad):
    own, wide = base[start : start + m], pad[BASE]
    for i in range(m):
        wide[i] = as_float(own[i])
    for p in range(len(parents)):
        x, delta = parents[p][start : start + m], pad[ROWS + p]
        for i in range(m):
            delta[i] = as_float(x[i]) - wide[i]


@compiled
def _trim_and_sum(m, pad, thresholds, weights):
    """Zero what is below the thresholds; TOTAL becomes the weighted sum."""
    total = pad[TOTAL]
    for p in range(len(thresholds)):
        x, threshold, weight = pad[ROWS + p], thresholds[p], weights[p]
        for i in range(m):
            kept = x[i] if abs(x[i]) >= threshold else ZERO
            x[i] = kept
            total[i] = kept * weight if p == 0 else total[i] + kept * weight


@compiled
def _mark_signs(m, pad):
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
        _deltas(base, parents, start, m, pad)
        for p in range(len(parents)):
            size = pad[ROWS + p]
            for i in range(m):
                size[i] = abs(size[i])
                bad += not size[i] <= FMAX
            _count(size, m, lows[p], highs[p], counts[p])
            counts[p, WITHIN] = _collect(size, m, lows[p], highs[p], found[p], counts[p, WITHIN])
    return bad


@compiled
def vote(base, parents, pad, thresholds, weights):
    """Entries whose weighted sum is above 0 minus those below."""
    lead, total = 0, pad[TOTAL]
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        _deltas(base, parents, start, m, pad)
        _trim_and_sum(m, pad, thresholds, weights)
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
        _deltas(base, parents, start, m, pad)
        _trim_and_sum(m, pad, thresholds, weights)
        _mark_signs(m, pad)
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


@compiled
def _tally_signs(m, pad, tally):
    """Count conflicts, overlap and kept entries; needs the marks of `_mark_signs`, and overwrites TOP."""
    conflicts, overlap, up, down = 0, 0, pad[TOP], pad[BOTTOM]
    for i in range(m):
        conflicts += (up[i] != 0) & (down[i] != 0)
        up[i] = ONE
    for p in range(ROWS, len(pad)):
        x, kept = pad[p], 0
        for i in range(m):
            value, mark = x[i], up[i]
            kept += value != 0
            up[i] = mark if value != 0 else ZERO
        tally[PARENTS + p - ROWS] += kept
    for i in range(m):
        overlap += up[i] != 0
    tally[CONFLICTS] += conflicts
    tally[OVERLAP] += overlap


@compiled
def _elect(m, pad, weights, zero, own, xi, by_sum, tally):
    """TOTAL becomes the elected sign (any magnitude): that of the sum, `zero` where it is 0, own's where
    slack wins it back. by_sum: the margin is |sum|; else own's magnitude and xi must reach the others'."""
    total = pad[TOTAL]
    if own >= 0:
        up, down, x, short = pad[TOP], pad[BOTTOM], pad[ROWS + own], pad[BASE]
        _shortfall(m, pad, weights, own, by_sum, xi)
        won = 0
        for i in range(m):
            value, sign = x[i], total[i]
            sign = sign if sign != 0 else zero
            loses = ((value > 0) & (sign < 0)) | ((value < 0) & (sign > 0))
            wins = loses & (short[i] <= xi) & (up[i] != 0) & (down[i] != 0)
            total[i] = -sign if wins else sign
            won += wins
        tally[RESERVED] += won
    else:
        for i in range(m):
            total[i] = total[i] if total[i] != 0 else zero


@compiled
def _shortfall(m, pad, weights, own, by_sum, xi):
    """BASE becomes what slack must cover: |sum|; else 0 where own's magnitude + xi reaches that of the
    others' sum, and above xi where it does not."""
    short, total = pad[BASE], pad[TOTAL]
    if by_sum:
        for i in range(m):
            short[i] = abs(total[i])
        return
    short[:m] = ZERO
    for p in range(len(weights)):
        if p != own:
            x, weight = pad[ROWS + p], weights[p]
            for i in range(m):
                short[i] += x[i] * weight
    x, weight = pad[ROWS + own], weights[own]
    for i in range(m):
        short[i] = ZERO if abs(x[i] * weight) + xi >= abs(short[i]) else FMAX


@compiled
def _add_agreeing(m, pad, weights, tally):
    """TOP, BOTTOM become the weighted sum of the entries with the elected sign, and their weights."""
    sign, top, bottom = pad[TOTAL], pad[TOP], pad[BOTTOM]
    top[:m] = ZERO
    bottom[:m] = ZERO
    for p in range(len(weights)):
        x, weight, lost = pad[ROWS + p], weights[p], 0
        for i in range(m):
            value = x[i]
            part = value * weight
            toward = value if sign[i] > 0 else -value
            top[i] += part if toward > 0 else ZERO
            bottom[i] += weight if toward > 0 else ZERO
            lost += toward < 0
        tally[PARENTS + len(weights) + p] += lost


@compiled
def _write(m, base, pad, steps, out):
    """out = base + step, rounded once; the base's own bits where the step is 0. Counts what overflows."""
    bad = 0
    for i in range(m):
        own, step = as_float(base[i]), steps[i]
        moved = own + step
        out[i] = from_float(moved if step != 0 else own, out[i])
        bad += not abs(as_float(out[i])) <= FMAX
    return bad


@compiled
def ties(base, parents, pad, thresholds, weights, zero, own, xi, by_sum, lam, mean, out, tally):
    """Trim, elect, merge into `out` and count into `tally`, int64 (PARENTS + 2 * parents,).

    zero: the sign of an exact zero sum, 1 or -1. own: the parent that slack protects, -1 for none.
    mean: the weighted mean of the agreeing entries, else their weighted sum. Methods: lrnb/election.py.
    """
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        _deltas(base, parents, start, m, pad)
        _trim_and_sum(m, pad, thresholds, weights)
        _mark_signs(m, pad)
        _elect(m, pad, weights, zero, own, xi, by_sum, tally)
        _tally_signs(m, pad, tally)
        _add_agreeing(m, pad, weights, tally)
        top, bottom = pad[TOP], pad[BOTTOM]
        for i in range(m):
            share = bottom[i]
            share = share if share != 0 else ONE
            top[i] = lam * (top[i] / share if mean else top[i])
        tally[BAD] += _write(m, base[start : start + m], pad, top, out[start : start + m])


@compiled
def arithmetic(base, parents, pad, factors, out, tally):
    """out = base + sum of factor * delta."""
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        _deltas(base, parents, start, m, pad)
        total = pad[TOTAL]
        for p in range(len(parents)):
            x, factor = pad[ROWS + p], factors[p]
            for i in range(m):
                total[i] = x[i] * factor if p == 0 else total[i] + x[i] * factor
        tally[BAD] += _write(m, base[start : start + m], pad, pad[TOTAL], out[start : start + m])


@compiled
def average(base, parents, pad, shares, keep, out, tally):
    """out = sum of share * parent; with `keep` an entry that is equal in all parents is kept as it is."""
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        own, total, same, first = base[start : start + m], pad[TOTAL], pad[TOP], pad[BASE]
        for p in range(len(parents)):
            x, share = parents[p][start : start + m], shares[p]
            for i in range(m):
                value = as_float(x[i])
                if p == 0:
                    first[i], total[i], same[i] = value, value * share, ONE if keep else ZERO
                else:
                    mark = same[i]
                    total[i] += value * share
                    same[i] = mark if value == first[i] else ZERO
        result, bad = out[start : start + m], 0
        for i in range(m):
            one, mean = first[i], total[i]
            result[i] = from_float(one if same[i] != 0 else mean, result[i])
            bad += (not abs(as_float(result[i])) <= FMAX) | (not abs(as_float(own[i])) <= FMAX)
        tally[BAD] += bad
