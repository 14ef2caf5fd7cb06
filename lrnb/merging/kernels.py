"""The inner loops of merging, compiled by numba: the formulas of `formulas.py`, an entry at a time.

A span is a run of entries of one tensor: `base` and each of `parents`, a tuple, is 1-D. Arrays are float32,
float64, or bfloat16 given as its uint16 bits. Task vectors and their sums are float32, in the order of the
parents, one rounding an operation: results do not depend on how entries are cut into spans or blocks. No loop
holds the GIL.

LLVM unrolls the loops over parents (thresholds and weights are tuples too) and makes vector instructions of
those over entries, where indices are unsigned, counters 32 bits wide and nothing branches. A block is what
stays in the cache from one loop to the next.
"""

# mypy: ignore-errors
# (numba infers the types of these functions when they are first called)

from __future__ import annotations

import numpy as np

from lrnb.merging.bits import as_float, compiled, from_float

BLOCK = 1024
LANES = 256  # sums kept beside each other: the processor adds several at once, in an order that is fixed
ZERO, ONE, INF = np.float32(0), np.float32(1), np.float32(np.inf)
I32, U64 = np.int32, np.uint64
OVER, AT_HIGH, AT_LOW, WITHIN, LOST = 0, 1, 2, 3, 4  # of a scan: values above, at and in its bracket
CONFLICTS, OVERLAP, RESERVED, BAD, PARENTS = 0, 1, 2, 3, 4  # of a tally; then kept and lost, a parent each


# one entry


@compiled
def delta(parent, base):
    return np.float32(as_float(parent) - as_float(base))


@compiled
def trimmed(parent, base, threshold):
    tau = delta(parent, base)
    return tau if abs(tau) >= threshold else ZERO


@compiled
def weighted_sum_at(base, parents, i, thresholds, weights):
    total = trimmed(parents[0][i], base[i], thresholds[0]) * weights[0]
    for p in range(1, len(parents)):
        total += trimmed(parents[p][i], base[i], thresholds[p]) * weights[p]
    return total


@compiled
def mean_at(base, parents, i, thresholds, weights, gamma, normalize):
    top, bottom = ZERO, ZERO
    for p in range(len(parents)):
        tau = trimmed(parents[p][i], base[i], thresholds[p])
        agrees, part = (tau if gamma > 0 else -tau) > 0, tau * weights[p]
        top += part if agrees else ZERO
        bottom += weights[p] if agrees else ZERO
    return top / (bottom if bottom != 0 else ONE) if normalize else top


@compiled
def loses(tau, gamma):
    return ((tau > 0) & (gamma < 0)) | ((tau < 0) & (gamma > 0))


@compiled
def conflict_at(base, parents, i, thresholds):
    above, below = False, False
    for p in range(len(parents)):
        tau = trimmed(parents[p][i], base[i], thresholds[p])
        above |= tau > 0
        below |= tau < 0
    return above & below


@compiled
def overlap_at(base, parents, i, thresholds):
    every = True
    for p in range(len(parents)):
        every &= trimmed(parents[p][i], base[i], thresholds[p]) != 0
    return every


@compiled
def won_back_at(base, parents, i, thresholds, weights, gamma, own, xi, by_sum):
    tau, mine, others = ZERO, ZERO, ZERO
    for p in range(len(parents)):
        x = trimmed(parents[p][i], base[i], thresholds[p])
        tau = x if p == own else tau
        mine = x * weights[p] if p == own else mine
        others = others if p == own else others + x * weights[p]
    margin = abs(weighted_sum_at(base, parents, i, thresholds, weights))
    narrow = margin <= xi if by_sum else abs(mine) + xi >= abs(others)
    return loses(tau, gamma) & conflict_at(base, parents, i, thresholds) & narrow


@compiled
def moved(base, step, like):
    """base + step, rounded once to the type of `like`; the base's own bits where the step is 0."""
    own = as_float(base)
    there = own + step
    return from_float(there if step != 0 else own, like)


@compiled
def plus(count, yes):
    return I32(count + I32(yes))


# what looks at a span before it is merged


@compiled
def scan(base, parents, lows, highs, counts, found):
    """Count every parent's |delta| around its bracket and collect those inside.

    counts: (parents, 4) int64, added to; found: (parents, span) float32. Returns the number of deltas
    that are not finite.
    """
    bad, sizes = 0, np.empty(BLOCK, np.float32)
    for start in range(0, len(base), BLOCK):
        stop = min(start + BLOCK, len(base))
        for p in range(len(parents)):
            x, odd = parents[p], I32(0)
            for i in range(U64(start), U64(stop)):
                size = abs(delta(x[i], base[i]))
                sizes[i - U64(start)] = size
                odd = plus(odd, not size < INF)
            bad += odd
            _sort(sizes[: stop - start], lows[p], highs[p], counts[p], found[p])
    return bad


@compiled
def _sort(values, low, high, counts, found):
    """Count the values above a bracket and at its ends, and append those inside to `found`, in order."""
    over, at_high, at_low = I32(0), I32(0), I32(0)
    for i in range(len(values)):
        over = plus(over, values[i] > high)
        at_high = plus(at_high, values[i] == high)
        at_low = plus(at_low, values[i] == low)
    counts[OVER] += over
    counts[AT_HIGH] += at_high
    counts[AT_LOW] += at_low
    fill, last = counts[WITHIN], len(found) - 1
    for start in range(0, len(values), 64):  # most runs of 64 hold none
        run, within = values[start : start + 64], I32(0)
        for i in range(len(run)):
            within = plus(within, (low < run[i]) & (run[i] < high))
        if within:
            for i in range(len(run)):
                found[min(fill, last)] = run[i]  # overwritten by the next unless it counts
                fill += (low < run[i]) & (run[i] < high)
    counts[WITHIN] = fill


@compiled
def position(base, parent, value, rank):
    """The index of the `rank`-th entry with |delta| = value, ranks from 1; -1 if there are fewer."""
    for i in range(len(base)):
        if abs(delta(parent[i], base[i])) == value:
            rank -= 1
            if rank == 0:
                return i
    return -1


@compiled
def vote(base, parents, thresholds, weights):
    """Entries whose weighted sum is above 0 minus those below."""
    lead = 0
    for start in range(0, len(base), BLOCK):
        above, below = I32(0), I32(0)
        for i in range(U64(start), U64(min(start + BLOCK, len(base)))):
            total = weighted_sum_at(base, parents, i, thresholds, weights)
            above = plus(above, total > 0)
            below = plus(below, total < 0)
        lead += above - below
    return lead


@compiled
def observe(base, parents, thresholds, weights, own, low, high, counts, found, level):
    """As `vote`; and as `scan` for the margins |sum| of the entries where parent `own` loses.

    counts: (5,) int64, the last one counts the losses; level: (2,) int64, the exact ties between parents
    of opposite signs, by own's sign: below 0, above 0. Returns the lead.
    """
    lead, margins, mine, limit = 0, np.empty(BLOCK, np.float32), parents[own], thresholds[own]
    for start in range(0, len(base), BLOCK):
        stop = min(start + BLOCK, len(base))
        above, below, lost, even_above, even_below = I32(0), I32(0), I32(0), I32(0), I32(0)
        for i in range(U64(start), U64(stop)):
            total, tau = (
                weighted_sum_at(base, parents, i, thresholds, weights),
                trimmed(mine[i], base[i], limit),
            )
            even, size = (total == 0) & conflict_at(base, parents, i, thresholds), abs(total)
            above = plus(above, total > 0)
            below = plus(below, total < 0)
            lost = plus(lost, loses(tau, total))
            even_above = plus(even_above, even & (tau > 0))
            even_below = plus(even_below, even & (tau < 0))
            margins[i - U64(start)] = size if loses(tau, total) else -ONE
        lead += above - below
        level[0] += even_below
        level[1] += even_above
        counts[LOST] += lost
        _sort(margins[: stop - start], low, high, counts, found)
    return lead


@compiled
def lost_at(base, parents, thresholds, weights, zero, own, found):
    """The indices at which parent `own` loses a conflict, ascending, into `found`, which has room for one
    more than there are entries. Returns how many."""
    fill, marks, mine, limit = 0, np.empty(BLOCK, np.uint8), parents[own], thresholds[own]
    for start in range(0, len(base), BLOCK):
        stop = min(start + BLOCK, len(base))
        for i in range(U64(start), U64(stop)):
            total = weighted_sum_at(base, parents, i, thresholds, weights)
            lost = loses(trimmed(mine[i], base[i], limit), total if total != 0 else zero)
            marks[i - U64(start)] = np.uint8(lost & conflict_at(base, parents, i, thresholds))
        for i in range(stop - start):
            found[fill] = start + i
            fill += marks[i]
    return fill


@compiled
def deltas(base, parents, rows):
    """Every parent's task vector into `rows`, a tuple of float32. Returns how many are not finite."""
    bad = I32(0)
    for p in range(len(parents)):
        x, row = parents[p], rows[p]
        for i in range(U64(len(base))):
            row[i] = delta(x[i], base[i])
            bad = plus(bad, not abs(row[i]) < INF)
    return bad


@compiled
def deltas_at(base, parent, where):
    """A parent's task vector at the indices `where`."""
    found = np.empty(len(where), np.float32)
    for i in range(len(where)):
        found[i] = delta(parent[where[i]], base[where[i]])
    return found


@compiled
def mass(base, parents, thresholds, lanes):
    """Add every parent's |task vector|, trimmed, to `lanes`, (parents, LANES) float64."""
    for start in range(0, len(base), LANES):
        for i in range(U64(start), U64(min(start + LANES, len(base)))):
            for p in range(len(parents)):
                tau = trimmed(parents[p][i], base[i], thresholds[p])
                lanes[p, i - U64(start)] += np.float64(abs(tau))


@compiled
def column_products(base, parents, columns, sums):
    """Add to `sums`, (2 * parents + 1, columns) float64, over the rows of a matrix: base * base, then each
    parent's square, then each parent's product with the base."""
    n = len(parents)
    for start in range(0, len(base), columns):
        for j in range(U64(columns)):
            own = np.float64(as_float(base[U64(start) + j]))
            sums[0, j] += own * own
            for p in range(n):
                x = np.float64(as_float(parents[p][U64(start) + j]))
                sums[1 + p, j] += x * x
                sums[1 + n + p, j] += x * own


@compiled
def row_products(base, parents, columns, sums):
    """The same sums along each row, into (2 * parents + 1, rows)."""
    n, own = len(parents), np.float64(0)
    for row in range(len(base) // columns):
        for i in range(U64(row * columns), U64((row + 1) * columns)):
            own = np.float64(as_float(base[i]))
            sums[0, row] += own * own
            for p in range(n):
                x = np.float64(as_float(parents[p][i]))
                sums[1 + p, row] += x * x
                sums[1 + n + p, row] += x * own


@compiled
def gram(base, parents, of_deltas, lanes):
    """Add products of every two parents, or of their deltas, to `lanes`: (parents, parents, LANES) float64,
    of which the lower triangle is filled."""
    for start in range(0, len(base), LANES):
        for i in range(U64(start), U64(min(start + LANES, len(base)))):
            for p in range(len(parents)):
                a = np.float64(delta(parents[p][i], base[i]) if of_deltas else as_float(parents[p][i]))
                for q in range(p + 1):
                    b = np.float64(delta(parents[q][i], base[i]) if of_deltas else as_float(parents[q][i]))
                    lanes[p, q, i - U64(start)] += a * b


# merging


@compiled
def merge_ties(base, parents, thresholds, weights, zero, own, xi, by_sum, lam, normalize, won, out, tally):
    """Trim, elect, merge into `out` and count into `tally`, int64 (PARENTS + 2 * parents,).

    zero: the sign of an exact zero sum, 1 or -1. own: the parent that slack protects, -1 for none; by_sum:
    whether its margin is |sum|. normalize: the mean of the agreeing entries, else their sum. won: indices,
    ascending, at which the elected sign is turned around besides.
    """
    n, gammas, at = len(parents), np.empty(BLOCK, np.float32), 0
    for start in range(0, len(base), BLOCK):
        stop = min(start + BLOCK, len(base))
        _elect(base, parents, start, stop, thresholds, weights, zero, gammas)
        if own >= 0:
            _win_back(base, parents, start, stop, thresholds, weights, own, xi, by_sum, gammas, tally)
        while at < len(won) and won[at] < stop:
            gammas[won[at] - start] = -gammas[won[at] - start]
            tally[RESERVED] += 1
            at += 1
        _merge(base, parents, start, stop, thresholds, weights, gammas, lam, normalize, out, tally)
        for p in range(n):
            _count(base, parents[p], start, stop, thresholds[p], gammas, tally, PARENTS + p, PARENTS + n + p)


@compiled
def _elect(base, parents, start, stop, thresholds, weights, zero, gammas):
    """The elected sign, of any magnitude: that of the weighted sum, `zero` where it is 0."""
    for i in range(U64(start), U64(stop)):
        total = weighted_sum_at(base, parents, i, thresholds, weights)
        gammas[i - U64(start)] = total if total != 0 else zero


@compiled
def _win_back(base, parents, start, stop, thresholds, weights, own, xi, by_sum, gammas, tally):
    """The slack of TIES-SV: own's sign where it lost a conflict narrowly."""
    won = I32(0)
    for i in range(U64(start), U64(stop)):
        gamma = gammas[i - U64(start)]
        wins = won_back_at(base, parents, i, thresholds, weights, gamma, own, xi, by_sum)
        gammas[i - U64(start)] = -gamma if wins else gamma
        won = plus(won, wins)
    tally[RESERVED] += won


@compiled
def _merge(base, parents, start, stop, thresholds, weights, gammas, lam, normalize, out, tally):
    conflicts, overlaps, bad = I32(0), I32(0), I32(0)
    for i in range(U64(start), U64(stop)):
        tau = mean_at(base, parents, i, thresholds, weights, gammas[i - U64(start)], normalize)
        out[i] = moved(base[i], lam * tau, out[i])
        conflicts = plus(conflicts, conflict_at(base, parents, i, thresholds))
        overlaps = plus(overlaps, overlap_at(base, parents, i, thresholds))
        bad = plus(bad, not abs(as_float(out[i])) < INF)
    tally[CONFLICTS] += conflicts
    tally[OVERLAP] += overlaps
    tally[BAD] += bad


@compiled
def _count(base, parent, start, stop, threshold, gammas, tally, at_kept, at_lost):
    kept, lost = I32(0), I32(0)
    for i in range(U64(start), U64(stop)):
        tau = trimmed(parent[i], base[i], threshold)
        kept = plus(kept, tau != 0)
        lost = plus(lost, loses(tau, gammas[i - U64(start)]))
    tally[at_kept] += kept
    tally[at_lost] += lost


@compiled
def arithmetic(base, parents, factors, out):
    """out = base + sum of factor * delta. Returns how many entries of it are not finite."""
    bad = I32(0)
    for i in range(U64(len(base))):
        step = delta(parents[0][i], base[i]) * factors[0]
        for p in range(1, len(parents)):
            step += delta(parents[p][i], base[i]) * factors[p]
        out[i] = moved(base[i], step, out[i])
        bad = plus(bad, not abs(as_float(out[i])) < INF)
    return bad


@compiled
def add(base, step, out):
    """out = base + step. Returns how many entries of it are not finite."""
    bad = I32(0)
    for i in range(U64(len(base))):
        out[i] = moved(base[i], step[i], out[i])
        bad = plus(bad, not abs(as_float(out[i])) < INF)
    return bad


@compiled
def merge_average(base, parents, shares, keep, out):
    """out = sum of share * parent; with `keep` an entry that is equal in all parents is kept as it is.

    Returns how many entries of it, or of base, are not finite.
    """
    bad = I32(0)
    for i in range(U64(len(base))):
        first, same = as_float(parents[0][i]), keep
        total = first * shares[0]
        for p in range(1, len(parents)):
            total += as_float(parents[p][i]) * shares[p]
            same &= as_float(parents[p][i]) == first
        out[i] = from_float(first if same else total, out[i])
        bad = plus(bad, not (abs(as_float(out[i])) < INF) & (abs(as_float(base[i])) < INF))
    return bad
