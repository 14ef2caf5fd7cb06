"""The inner loops of merging, compiled by numba: elect, merge and count. Layout and rules: `kernels.py`."""

# mypy: ignore-errors

from __future__ import annotations

from lrnb.bits import as_float, compiled, from_float
from lrnb.kernels import (
    BASE,
    BLOCK,
    BOTTOM,
    FMAX,
    ONE,
    ROWS,
    TOP,
    TOTAL,
    ZERO,
    deltas,
    mark_signs,
    trim_and_sum,
)

CONFLICTS, OVERLAP, RESERVED, BAD, PARENTS = 0, 1, 2, 3, 4  # of a tally; then kept and lost, a parent each


@compiled
def _tally_signs(m, pad, tally):
    """Count conflicts, overlap and kept entries; needs the marks of `mark_signs`, and overwrites TOP."""
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
        shortfall(m, pad, weights, own, by_sum, xi)
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
def shortfall(m, pad, weights, own, by_sum, xi):
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
def _write(base, steps, out):
    """out = base + step, rounded once; the base's own bits where the step is 0. Counts what overflows."""
    bad = 0
    for i in range(len(base)):
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
        deltas(base, parents, start, m, pad)
        trim_and_sum(m, pad, thresholds, weights)
        mark_signs(m, pad)
        _elect(m, pad, weights, zero, own, xi, by_sum, tally)
        _tally_signs(m, pad, tally)
        _add_agreeing(m, pad, weights, tally)
        top, bottom = pad[TOP], pad[BOTTOM]
        for i in range(m):
            share = bottom[i]
            share = share if share != 0 else ONE
            top[i] = lam * (top[i] / share if mean else top[i])
        tally[BAD] += _write(base[start : start + m], top, out[start : start + m])


@compiled
def arithmetic(base, parents, pad, factors, out, tally):
    """out = base + sum of factor * delta."""
    for start in range(0, len(base), BLOCK):
        m = min(BLOCK, len(base) - start)
        deltas(base, parents, start, m, pad)
        total = pad[TOTAL]
        for p in range(len(parents)):
            x, factor = pad[ROWS + p], factors[p]
            for i in range(m):
                total[i] = x[i] * factor if p == 0 else total[i] + x[i] * factor
        tally[BAD] += _write(base[start : start + m], total, out[start : start + m])


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
