"""How far slack reaches in a what-if: the losses of SFT by their margin; compiled by numba.

Layout and names: `whatif_kernels`.
"""

# mypy: ignore-errors

from __future__ import annotations

from lrnb.bits import compiled
from lrnb.whatif_kernels import ATOM, CLOSE, CT, HIGH, LOW, SFT, N, above, even, pairs

STEPS = 80  # of the search for xi at most
SOME = 0.01  # share of a bin from which its atom is looked at


@compiled
def _losses(opposite, ties, full, ct, sft, weights, cells):
    """Fill cells, (B * B, 9), with those in which SFT may lose; returns how many there are.

    Columns: entries, those lost, and a, b, p, q, e, f, apart as `above` takes them.
    """
    k = 0
    for i in range(1, opposite.shape[0]):
        if ct[N, i] == 0:
            continue
        a, b, e = ct[LOW, i] * weights[CT], ct[HIGH, i] * weights[CT], ct[ATOM, i]
        for j in range(1, opposite.shape[0]):
            p = sft[LOW, j] * weights[SFT]
            if opposite[i, j] == 0 or sft[N, j] == 0 or b <= p:
                continue
            n, apart = pairs(opposite, ties, full, ct, sft, weights, i, j)
            q, f = sft[HIGH, j] * weights[SFT], sft[ATOM, j]
            lost = n * above(a, b, p, q, e, f, 0.0, 1.0, apart)
            if lost > 0:
                cells[k, 0], cells[k, 1], cells[k, 8] = n, lost, 1.0 if apart else 0.0
                cells[k, 2], cells[k, 3], cells[k, 4], cells[k, 5], cells[k, 6], cells[k, 7] = (
                    a,
                    b,
                    p,
                    q,
                    e,
                    f,
                )
                k += 1
    return k


@compiled
def _won(cells, xi, level):
    """Losses by less than xi, and the share `level` of those by just xi."""
    found = 0.0
    for k in range(len(cells)):
        n, lost, a, b, p, q = cells[k, 0], cells[k, 1], cells[k, 2], cells[k, 3], cells[k, 4], cells[k, 5]
        if a - q > xi:
            continue
        if b - p >= xi:
            lost -= n * above(a, b, p, q, cells[k, 6], cells[k, 7], xi, level, cells[k, 8] > 0)
        found += lost
    return found


@compiled
def _nearest_atom(cells, low, high, xi):
    """The margin of two atoms nearest to xi, between low and high; below 0 if there is none."""
    found = -1.0
    for k in range(len(cells)):
        if cells[k, 6] > SOME and cells[k, 7] > SOME and cells[k, 8] == 0:
            d = cells[k, 2] - cells[k, 4]
            if low * (1 + CLOSE) < d < high * (1 - CLOSE) and (found < 0 or abs(d - xi) < abs(found - xi)):
                found = d
    return found


@compiled
def _widest(cells):
    """The largest margin by which SFT may lose."""
    found = 0.0
    for k in range(len(cells)):
        if cells[k, 1] > 1e-6:
            top = cells[k, 2] if cells[k, 6] == 1 else cells[k, 3]
            found = max(found, top - cells[k, 4])
    return found


@compiled
def slack_margin(same, opposite, ties, full, ct, sft, weights, zero, slack, scratch):
    """xi that wins back the share `slack` of SFT's losses, and how many of those by just xi it takes.

    A bracketed search, by secants (Illinois) and halving in turn, that tries the margins of atoms where there
    are some: there the number of those won back jumps. scratch: (B * B, 9).
    """
    cells = scratch[: _losses(opposite, ties, full, ct, sft, weights, scratch)]
    level = even(ties, full, ct, sft, zero) if weights[CT] == weights[SFT] else 0.0
    lost = level + cells[:, 1].sum()
    wanted = slack * lost
    if wanted <= level:
        return (0.0, wanted) if wanted > 0 else (-1.0, 0.0)
    low, high = 0.0, _widest(cells)
    if slack >= 1:
        return high, lost
    high *= 1 + 1e-6
    f_low, f_high, side = level - wanted, lost - wanted, 0
    for step in range(STEPS):
        xi = (low + high) / 2 if step % 3 == 2 else (low * f_high - high * f_low) / (f_high - f_low)
        atom = _nearest_atom(cells, low, high, xi)
        xi = atom if atom > 0 else xi
        f = level + _won(cells, xi, 1.0) - wanted
        if abs(f) <= 1e-5 * wanted or high - low < CLOSE * high:
            return xi, lost
        if atom > 0 and f > 0:
            f = level + _won(cells, xi, 0.0) - wanted
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
def margins(same, opposite, ties, full, ct, sft, weights, zero, xi, level, scratch, edges, lost, won):
    """Add SFT's losses, and those that slack wins back, by margin |w CT| - |w SFT| to lost and won, (b + 1,):
    bins of edges (b + 1,) from 0 at equal steps, the last for what lies beyond. scratch: (B * B, 9)."""
    cells = scratch[: _losses(opposite, ties, full, ct, sft, weights, scratch)]
    last, width = len(edges) - 1, edges[-1] / (len(edges) - 1)
    level_0 = even(ties, full, ct, sft, zero) if weights[CT] == weights[SFT] else 0.0
    lost[0] += level_0
    won[0] += level_0 if xi > 0 else (level_0 * level if xi == 0 else 0.0)
    for c in range(len(cells)):
        n, left, a, b, p, q = cells[c, 0], cells[c, 1], cells[c, 2], cells[c, 3], cells[c, 4], cells[c, 5]
        e, f, apart = cells[c, 6], cells[c, 7], cells[c, 8] > 0
        kept = n * above(a, b, p, q, e, f, xi, level, apart) if xi > 0 else n
        k = min(max(int((a - q) / width), 0), last)
        while k <= last and left > 0:
            beyond = n * above(a, b, p, q, e, f, edges[k + 1], 1.0, apart) if k < last else 0.0
            lost[k] += left - beyond
            won[k] += max(left - max(beyond, kept), 0.0) if xi > 0 else 0.0
            left, k = beyond, k + 1
