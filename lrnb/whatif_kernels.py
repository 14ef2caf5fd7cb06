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
OVERLAP, CONFLICTS, LOST, RESERVED, LOST_MASS, WON, CEDED, RESULTS = 0, 1, 2, 4, 5, 7, 8, 9
STEPS = 80  # of the search for xi at most
SOME = 0.01  # share of a bin from which its atom is looked at
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
def _above(ct, i, sft, j, weights, xi, level, apart):
    """Share of a cell's pairs with |w CT| - |w SFT| > xi, and 1 - level of those at xi.

    Each bin is an atom at its lower end and a rest that is spread evenly. apart: the atoms of these bins are
    not in one pair, since ties are counted by themselves.
    """
    a, b = ct[LOW, i] * weights[CT], ct[HIGH, i] * weights[CT]
    p, q = sft[LOW, j] * weights[SFT], sft[HIGH, j] * weights[SFT]
    if a - q > xi:
        return 1.0
    if b - p < xi:
        return 0.0
    e, f = ct[ATOM, i], sft[ATOM, j]
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
def _pairs(opposite, ties, full, ct, sft, weights, i, j):
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
    """One election into `out`, (B, RESULTS) by SFT's bins: entries and sums of magnitudes, LOST and
    LOST_MASS by parent.

    full: (2, B), all entries of each bin and parent; ct, sft: their views; xi: SFT wins back its losses by a
    smaller margin, below 0 for none, and the share `level` of those by just xi. LOST is before slack.
    """
    out[:] = 0.0
    for i in range(1, same.shape[0]):
        if ct[N, i] == 0:
            continue
        part, mean = ct[N, i] / full[CT, i], ct[MASS, i] / ct[N, i]
        for j in range(1, same.shape[0]):
            if sft[N, j] == 0 or (same[i, j] == 0 and opposite[i, j] == 0):
                continue
            share, size = sft[N, j] / full[SFT, j], sft[MASS, j] / sft[N, j]
            out[j, OVERLAP] += same[i, j] * part * share
            rest, apart = _pairs(opposite, ties, full, ct, sft, weights, i, j)
            if apart:
                _ties(ties, i, zero, min(part, share), xi, level, mean, out[j])
            if rest > 0:
                loses = rest * _above(ct, i, sft, j, weights, 0.0, 1.0, apart)
                keeps = rest * _above(ct, i, sft, j, weights, xi, level, apart) if xi > 0 else loses
                _add(rest, loses, loses - keeps, mean, size, out[j])


@compiled
def _add(n, loses, won, mean, size, out):
    out[OVERLAP] += n
    out[CONFLICTS] += n
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
def at_margin(same, opposite, ties, full, ct, sft, weights, zero, xi):
    """Entries that SFT loses by just xi: ties for 0, else those of two atoms."""
    found = 0.0
    for i in range(1, same.shape[0]):
        for j in range(1, same.shape[0]) if ct[N, i] > 0 else range(0):
            n, apart = _pairs(opposite, ties, full, ct, sft, weights, i, j)
            if apart and xi == 0 and sft[N, i] > 0:
                share = min(ct[N, i] / full[CT, i], sft[N, i] / full[SFT, i])
                found += np.float64(ties[1 if zero > 0 else 0, i]) * share
            if n > 0 and xi > 0 and not apart:
                a, p = ct[LOW, i] * weights[CT], sft[LOW, j] * weights[SFT]
                if abs(a - p - xi) <= CLOSE * (a + p):
                    found += n * ct[ATOM, i] * sft[ATOM, j]
    return found


@compiled
def widest(opposite, ties, full, ct, sft, weights):
    """The largest margin by which SFT may lose."""
    found = 0.0
    for i in range(1, opposite.shape[0]):
        for j in range(1, opposite.shape[0]) if ct[N, i] > 0 else range(0):
            if _pairs(opposite, ties, full, ct, sft, weights, i, j)[0] > 1e-6:
                top = ct[LOW, i] if ct[ATOM, i] == 1 else ct[HIGH, i]
                found = max(found, top * weights[CT] - sft[LOW, j] * weights[SFT])
    return found


@compiled
def _nearest_atom(opposite, ct, sft, weights, low, high, xi):
    """The margin of two atoms nearest to xi, between low and high; below 0 if there is none."""
    found, equal = -1.0, weights[CT] == weights[SFT]
    for i in range(1, opposite.shape[0]):
        for j in range(1, opposite.shape[0]) if ct[ATOM, i] > SOME else range(0):
            if opposite[i, j] > 0 and sft[ATOM, j] > SOME and not (i == j and equal):
                d = ct[LOW, i] * weights[CT] - sft[LOW, j] * weights[SFT]
                inside = low * (1 + CLOSE) < d < high * (1 - CLOSE)
                found = d if inside and (found < 0 or abs(d - xi) < abs(found - xi)) else found
    return found


@compiled
def slack_margin(same, opposite, ties, full, ct, sft, weights, zero, slack, out):
    """xi that wins back the share `slack` of SFT's losses, and how many of those by just xi it takes.

    A bracketed search, by secants (Illinois) and halving in turn, that tries the margins of atoms where there
    are some: there the number of those won back jumps.
    """
    decide(same, opposite, ties, full, ct, sft, weights, zero, -1.0, 0.0, out)
    lost = out[:, LOST + SFT].sum()
    wanted = slack * lost
    if wanted <= 0:
        return -1.0, 0.0
    even = at_margin(same, opposite, ties, full, ct, sft, weights, zero, 0.0)
    if wanted <= even:
        return 0.0, wanted
    low, high = 0.0, widest(opposite, ties, full, ct, sft, weights)
    if slack >= 1:
        return high, lost
    high *= 1 + 1e-6
    f_low, f_high, side = even - wanted, lost - wanted, 0
    for step in range(STEPS):
        xi = (low + high) / 2 if step % 3 == 2 else (low * f_high - high * f_low) / (f_high - f_low)
        atom = _nearest_atom(opposite, ct, sft, weights, low, high, xi)
        xi = atom if atom > 0 else xi
        decide(same, opposite, ties, full, ct, sft, weights, zero, xi, 1.0, out)
        f = out[:, RESERVED].sum() - wanted
        if abs(f) <= 1e-5 * wanted or high - low < CLOSE * high:
            return xi, lost
        if atom > 0 and f > 0:
            decide(same, opposite, ties, full, ct, sft, weights, zero, xi, 0.0, out)
            f = out[:, RESERVED].sum() - wanted
            if f <= 0:
                return xi, -f
        if f > 0:
            f_low = f_low / 2 if side == 1 else f_low
            high, f_high, side = xi, f, 1
        else:
            f_high = f_high / 2 if side == -1 else f_high
            low, f_low, side = xi, f, -1
    return high, lost


@compiled
def margins(same, opposite, ties, full, ct, sft, weights, zero, xi, level, edges, lost, won):
    """Add SFT's losses, and those that slack wins back, by margin |w CT| - |w SFT| to lost and won, (b + 1,):
    bins of edges (b + 1,) from 0 at equal steps, the last for what lies beyond."""
    last = len(edges) - 1
    even, width = at_margin(same, opposite, ties, full, ct, sft, weights, zero, 0.0), edges[last] / last
    lost[0] += even
    won[0] += even if xi > 0 else (even * level if xi == 0 else 0.0)
    for i in range(1, opposite.shape[0]):
        for j in range(1, opposite.shape[0]) if ct[N, i] > 0 else range(0):
            n, apart = _pairs(opposite, ties, full, ct, sft, weights, i, j)
            top = ct[HIGH, i] * weights[CT] - sft[LOW, j] * weights[SFT]
            if n <= 0 or top <= 0:
                continue
            kept = n * _above(ct, i, sft, j, weights, xi, level, apart) if xi > 0 else n
            bottom = ct[LOW, i] * weights[CT] - sft[HIGH, j] * weights[SFT]
            k, left = (
                min(max(int(bottom / width), 0), last),
                n * _above(ct, i, sft, j, weights, 0.0, 1.0, apart),
            )
            while k <= last and left > 0:
                beyond = n * _above(ct, i, sft, j, weights, edges[k + 1], 1.0, apart) if k < last else 0.0
                lost[k] += left - beyond
                won[k] += max(left - max(beyond, kept), 0.0) if xi > 0 else 0.0
                left, k = beyond, k + 1
