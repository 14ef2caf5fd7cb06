"""What an election would count, from the histograms of the conflict atlas; compiled by numba.

A tensor is seen through `same` and `opposite`, (B, B) entries by the bins of both magnitudes, row CT and
column SFT, bin 0 for zeros; `ties`, (2, B); and a view of each parent, (ROWS, B): the entries of each bin
that trimming keeps, their sum, and where they lie. Inside a bin entries are taken as spread evenly, and
the two parents as independent of each other; ties are counted apart.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from lrnb.bits import compiled

CT, SFT = 0, 1
N, MASS, LOW, HIGH, ATOM, ROWS = 0, 1, 2, 3, 4, 5  # rows of a view: kept entries, their sum, where they lie
OVERLAP, CONFLICTS, LOST, RESERVED, LOST_MASS, WON, CEDED = 0, 1, 2, 4, 5, 7, 8
OVERLAP_MASS, CONFLICT_MASS, RESULTS = 9, 11, 13  # these two and LOST, LOST_MASS a parent each
CLOSE = 1e-9  # two margins that differ by less, relative to the magnitudes, are the same


@compiled
def cut(own, fine, k):
    """The k-th largest magnitude: own (2 F,), of each fine bin the entries above its lower edge and at it;
    fine: (F + 1,) edges, bin 0 for zeros. Inside a bin it is interpolated. Infinity for k < 1."""
    if k < 1:
        return np.inf
    seen = 0.0
    for bin in range(len(fine) - 2, 0, -1):
        inside, edge, low = np.float64(own[2 * bin]), np.float64(own[2 * bin + 1]), fine[bin]
        if seen + inside >= k:
            return low + (fine[bin + 1] - low) * (1 - (k - seen) / inside)
        seen += inside + edge
        if seen >= k:
            return low
    return 0.0


@compiled
def view(own, fine, per, threshold, out):
    """Fill a parent's view, (ROWS, B), for one threshold: what each coarse bin of `per` fine ones keeps.

    ATOM: the share of a bin's kept entries that lie exactly at its lower end.
    """
    out[:] = 0.0
    for bin in range(1, len(fine) - 1):
        low, high, to = fine[bin], fine[bin + 1], (bin - 1) // per + 1
        if high <= threshold:
            continue
        inside, edge = np.float64(own[2 * bin]), np.float64(own[2 * bin + 1])
        start = max(low, threshold)
        part = inside * (high - start) / (high - low)
        edge = edge if low >= threshold else 0.0
        if out[HIGH, to] == 0:
            out[LOW, to], out[ATOM, to] = start, edge
        out[HIGH, to] = high
        out[N, to] += part + edge
        out[MASS, to] += part * (start + high) / 2 + edge * low
    for to in range(out.shape[1]):
        if out[N, to] > 0:
            out[ATOM, to] /= out[N, to]


@compiled
def _ramp(x, length):
    """The integral of clip(t, 0, length) for t up to x."""
    if x <= 0:
        return 0.0
    return x * x / 2 if x <= length else length * (x - length / 2)


@compiled
def _spread(a, b, p, q, xi):
    """Share of the pairs u in [a, b], v in [p, q], spread evenly and not both points, with u - v > xi."""
    if a - q >= xi:
        return 1.0
    if b - p <= xi:
        return 0.0
    if a == b:
        return min(max((a - xi - p) / (q - p), 0.0), 1.0)
    if p == q:
        return min(max((b - xi - p) / (b - a), 0.0), 1.0)
    shift = p + xi
    return (_ramp(b - shift, q - p) - _ramp(a - shift, q - p)) / ((b - a) * (q - p))


@compiled
def _points(a, p, xi, level):
    """The same of two points; `level` is the share of those with u - v = xi that does not count as above."""
    if abs(a - p - xi) <= CLOSE * (a + p):
        return 1.0 - level
    return 1.0 if a - p > xi else 0.0


@compiled
def above(a, b, p, q, e, f, xi, level, apart):
    """Share of the pairs u in [a, b], v in [p, q] with u - v > xi, and 1 - level of those at xi.

    The shares e and f of the entries are atoms at a and p, the rest is spread evenly. apart: the atoms are
    not in one pair, since ties are counted by themselves.
    """
    if a - q > xi:
        return 1.0
    if b - p < xi:
        return 0.0
    both = 0.0 if apart else e * f
    whole = 1 - e * f + both
    if whole <= 0:
        return _points(a, p, xi, level)
    found = both * _points(a, p, xi, level) if both > 0 else 0.0
    found += e * (1 - f) * _spread(a, a, p, q, xi) if e * (1 - f) > 0 else 0.0
    found += (1 - e) * f * _spread(a, b, p, p, xi) if (1 - e) * f > 0 else 0.0
    found += (1 - e) * (1 - f) * _spread(a, b, p, q, xi) if (1 - e) * (1 - f) > 0 else 0.0
    return found / whole


@compiled
def pairs(opposite, ties, full, ct, sft, weights, i, j):
    """Kept entries of opposite signs in a cell, and whether ties at equal weights were left out."""
    if sft[N, j] == 0:
        return 0.0, False
    apart = i == j and weights[CT] == weights[SFT]
    n = np.float64(opposite[i, j])
    if apart:
        n -= np.float64(ties[0, i]) + np.float64(ties[1, i])
    return n * (ct[N, i] / full[CT, i]) * (sft[N, j] / full[SFT, j]), apart


@compiled
def decide(same, opposite, ties, full, ct, sft, weights, zero, xi, level, out):
    """One election into `out`, (B, RESULTS) by SFT's bins: entries and sums of magnitudes.

    full: (2, B), all entries of each bin and parent; ct, sft: their views; xi: SFT wins back its losses by a
    smaller margin, below 0 for none, and the share `level` of those by just xi. LOST is before slack.
    """
    out[:] = 0.0
    for i in range(1, same.shape[0]):
        if ct[N, i] == 0:
            continue
        part, mean, e = ct[N, i] / full[CT, i], ct[MASS, i] / ct[N, i], ct[ATOM, i]
        a, b = ct[LOW, i] * weights[CT], ct[HIGH, i] * weights[CT]
        for j in range(1, same.shape[0]):
            if sft[N, j] == 0 or (same[i, j] == 0 and opposite[i, j] == 0):
                continue
            share, size, f = sft[N, j] / full[SFT, j], sft[MASS, j] / sft[N, j], sft[ATOM, j]
            _add_overlap(same[i, j] * part * share, mean, size, out[j])
            rest, apart = pairs(opposite, ties, full, ct, sft, weights, i, j)
            if apart:
                _ties(ties, i, zero, min(part, share), xi, level, mean, out[j])
            if rest > 0:
                p, q = sft[LOW, j] * weights[SFT], sft[HIGH, j] * weights[SFT]
                loses = rest * above(a, b, p, q, e, f, 0.0, 1.0, apart)
                keeps = rest * above(a, b, p, q, e, f, xi, level, apart) if xi > 0 else loses
                _add(rest, loses, loses - keeps, mean, size, out[j])


@compiled
def _add_overlap(n, mean, size, out):
    out[OVERLAP] += n
    out[OVERLAP_MASS + CT] += n * mean
    out[OVERLAP_MASS + SFT] += n * size


@compiled
def _add(n, loses, won, mean, size, out):
    """Conflicts, of which SFT loses some and wins some of these back."""
    _add_overlap(n, mean, size, out)
    out[CONFLICTS] += n
    out[CONFLICT_MASS + CT] += n * mean
    out[CONFLICT_MASS + SFT] += n * size
    out[LOST + SFT] += loses
    out[LOST + CT] += n - loses
    out[RESERVED] += won
    out[LOST_MASS + SFT] += loses * size
    out[LOST_MASS + CT] += (n - loses) * mean
    out[WON] += won * size
    out[CEDED] += won * mean


@compiled
def _ties(ties, bin, zero, share, xi, level, mean, out):
    """Opposite entries of equal magnitude: SFT loses those whose sign is not `zero`, by a margin of 0."""
    against = np.float64(ties[1 if zero > 0 else 0, bin]) * share
    n = (np.float64(ties[0, bin]) + np.float64(ties[1, bin])) * share
    won = against * (1.0 if xi > 0 else level)
    _add(n, against, won if xi >= 0 else 0.0, mean, mean, out)


@compiled
def even(ties, full, ct, sft, zero):
    """Ties that SFT loses at equal weights."""
    found = 0.0
    for i in range(1, ties.shape[1]):
        if ct[N, i] > 0 and sft[N, i] > 0:
            share = min(ct[N, i] / full[CT, i], sft[N, i] / full[SFT, i])
            found += np.float64(ties[1 if zero > 0 else 0, i]) * share
    return found


@compiled
def at_margin(same, opposite, ties, full, ct, sft, weights, zero, xi):
    """Entries that SFT loses by just xi: ties for 0, else those of two atoms."""
    if xi == 0:
        return even(ties, full, ct, sft, zero) if weights[CT] == weights[SFT] else 0.0
    found = 0.0
    for i in range(1, same.shape[0]):
        a = ct[LOW, i] * weights[CT]
        if ct[ATOM, i] == 0 or a < xi:
            continue
        for j in range(1, same.shape[0]):
            p = sft[LOW, j] * weights[SFT]
            if abs(a - p - xi) <= CLOSE * (a + p) and opposite[i, j] > 0 and sft[ATOM, j] > 0:
                n, apart = pairs(opposite, ties, full, ct, sft, weights, i, j)
                found += 0.0 if apart else n * ct[ATOM, i] * sft[ATOM, j]
    return found
