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
N, MASS, LOW, HIGH, ROWS = 0, 1, 2, 3, 4  # rows of a parent's view: entries kept, their sum; a bin's ends
OVERLAP, CONFLICTS, LOST, RESERVED, LOST_MASS, WON, CEDED, RESULTS = 0, 1, 2, 4, 5, 7, 8, 9
STEPS = 60  # of the search for xi at most


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
    """Fill a parent's view, (ROWS, B), for one threshold: what each coarse bin of `per` fine ones keeps."""
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
            out[LOW, to] = start
        out[HIGH, to] = high
        out[N, to] += part + edge
        out[MASS, to] += part * (start + high) / 2 + edge * low


@compiled
def _ramp(x, length):
    """The integral of clip(t, 0, length) for t up to x."""
    if x <= 0:
        return 0.0
    return x * x / 2 if x <= length else length * (x - length / 2)


@compiled
def _above(a, b, p, q, xi):
    """Share of the pairs u in [a, b], v in [p, q], both spread evenly, with u - v > xi."""
    if a - q >= xi:
        return 1.0
    if b - p <= xi:
        return 0.0
    shift = p + xi
    return (_ramp(b - shift, q - p) - _ramp(a - shift, q - p)) / ((b - a) * (q - p))


@compiled
def decide(same, opposite, ties, full, ct, sft, weights, zero, xi, level, out):
    """One election into `out`, (B, RESULTS) by SFT's bins: entries and sums of magnitudes, LOST and
    LOST_MASS by parent.

    full: (2, B), all entries of each bin and parent; ct, sft: their views; xi: margins up to which SFT
    wins back, below 0 for none; level: the share of the ties lost by SFT that it wins back. LOST is
    before slack.
    """
    out[:] = 0.0
    equal = weights[CT] == weights[SFT]
    for i in range(1, same.shape[0]):
        if ct[N, i] == 0:
            continue
        part, mean = ct[N, i] / full[CT, i], ct[MASS, i] / ct[N, i]
        a, b = ct[LOW, i] * weights[CT], ct[HIGH, i] * weights[CT]
        for j in range(1, same.shape[0]):
            both = np.int64(same[i, j]) + np.int64(opposite[i, j])
            if both == 0 or sft[N, j] == 0:
                continue
            share, size = part * sft[N, j] / full[SFT, j], sft[MASS, j] / sft[N, j]
            out[j, OVERLAP] += same[i, j] * share
            rest = np.float64(opposite[i, j])
            if i == j and equal:
                even = np.float64(ties[0, i]) + np.float64(ties[1, i])
                rest -= even
                _ties(ties, i, zero, min(part, sft[N, j] / full[SFT, j]), level, mean, out[j])
            rest *= share
            if rest > 0:
                p, q = sft[LOW, j] * weights[SFT], sft[HIGH, j] * weights[SFT]
                loses = rest * _above(a, b, p, q, 0.0)
                keeps = rest * _above(a, b, p, q, xi) if xi > 0 else loses
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
def _ties(ties, bin, zero, share, level, mean, out):
    """Opposite entries of equal magnitude: SFT loses those whose sign is not `zero`."""
    against = np.float64(ties[1 if zero > 0 else 0, bin]) * share
    n = (np.float64(ties[0, bin]) + np.float64(ties[1, bin])) * share
    _add(n, against, against * level, mean, mean, out)


@compiled
def even(ties, full, ct, sft, zero):
    """Ties that SFT loses at equal weights."""
    found = 0.0
    for bin in range(1, ties.shape[1]):
        if ct[N, bin] > 0 and sft[N, bin] > 0:
            share = min(ct[N, bin] / full[CT, bin], sft[N, bin] / full[SFT, bin])
            found += np.float64(ties[1 if zero > 0 else 0, bin]) * share
    return found


@compiled
def slack_margin(same, opposite, ties, full, ct, sft, weights, zero, slack, out):
    """(xi, level) that win back the share `slack` of SFT's losses; a bracketed secant (Illinois) finds xi."""
    decide(same, opposite, ties, full, ct, sft, weights, zero, -1.0, 0.0, out)
    all_lost = out[:, LOST + SFT].sum()
    wanted = slack * all_lost
    if wanted <= 0:
        return -1.0, 0.0
    level = even(ties, full, ct, sft, zero) if weights[CT] == weights[SFT] else 0.0
    if wanted <= level:
        return 0.0, wanted / level
    low, high, f_low, f_high = 0.0, ct[HIGH].max() * weights[CT], level - wanted, all_lost - wanted
    if f_high <= 1e-9 * wanted:
        return high, 1.0
    tiny, side, xi = 1e-5 * wanted, 0, high
    for _ in range(STEPS):
        xi = (low * f_high - high * f_low) / (f_high - f_low)
        decide(same, opposite, ties, full, ct, sft, weights, zero, xi, 1.0, out)
        f = out[:, RESERVED].sum() - wanted
        if abs(f) <= tiny:
            break
        if f > 0:
            high, f_high = xi, f
            f_low = f_low / 2 if side == 1 else f_low
            side = 1
        else:
            low, f_low = xi, f
            f_high = f_high / 2 if side == -1 else f_high
            side = -1
    return xi, 1.0


@compiled
def margins(opposite, ties, full, ct, sft, weights, zero, edges, counts):
    """Add SFT's losses by margin |w CT| - |w SFT| to counts, (b + 1,): bins of edges (b + 1,) ascending from
    0, and the last for what lies beyond."""
    equal, last = weights[CT] == weights[SFT], len(edges) - 1
    counts[0] += even(ties, full, ct, sft, zero) if equal else 0.0
    width = edges[last] / last
    for i in range(1, opposite.shape[0]):
        if ct[N, i] == 0:
            continue
        a, b = ct[LOW, i] * weights[CT], ct[HIGH, i] * weights[CT]
        for j in range(1, opposite.shape[0]):
            n = np.float64(opposite[i, j])
            if i == j and equal:
                n -= np.float64(ties[0, i]) + np.float64(ties[1, i])
            if n <= 0 or sft[N, j] == 0:
                continue
            p, q = sft[LOW, j] * weights[SFT], sft[HIGH, j] * weights[SFT]
            if b <= p:
                continue
            n *= ct[N, i] / full[CT, i] * sft[N, j] / full[SFT, j]
            k, left = min(max(int((a - q) / width), 0), last), n * _above(a, b, p, q, 0.0)
            while k < last and left > 0:
                beyond = n * _above(a, b, p, q, edges[k + 1])
                counts[k] += left - beyond
                left, k = beyond, k + 1
            counts[last] += left
