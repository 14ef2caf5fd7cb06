"""More merge methods once more, an entry at a time, from their papers' formulas; beside `reference.py`.

Each takes (base, {label: parent}) of tensors and returns the merged dict. Numbers are numpy float32 scalars
where rounding is part of the definition. Shares no code with lrnb.
"""

from __future__ import annotations

import zlib

import numpy as np
from support.reference import F, average, entries, moved, sign, task_vectors, tied, trim


def total(row: list, weights: list):
    """sum of w * x in float32, in order."""
    found = row[0] * weights[0]
    for x, weight in zip(row[1:], weights[1:], strict=True):
        found = found + x * weight
    return found


def combined(rows: list, weights: list[float], lam: float, normalize: bool, elect: bool) -> list:
    """The step of each entry; rows: one list a parent."""
    w, steps = [F(x) for x in weights], []
    for row in zip(*rows, strict=True):
        kept, divisor = list(row), F(sum(weights))
        if elect:
            up = total(kept, w) >= 0
            yes = [sign(x) == (1 if up else -1) for x in kept]
            kept = [x if y else F(0) for x, y in zip(kept, yes, strict=True)]
            divisor = total([F(y) for y in yes], w)
        step = total(kept, w)
        if normalize and divisor != 0:
            step = step / divisor
        steps.append(step * F(lam))
    return steps


def breadcrumbs(base, parents, *, density, gamma, weights, lam, normalize, at_threshold, elect=False) -> dict:
    rows = []
    for tau in task_vectors(base, parents).values():
        top = min(gamma, 1 - density)
        inner = trim(tau, min(1.0, density + top), at_threshold)
        outer = trim(tau, top, at_threshold) if top else [F(0)] * len(tau)
        rows.append([x if y == 0 else F(0) for x, y in zip(inner, outer, strict=True)])
    return moved(base, combined(rows, weights, lam, normalize, elect))


M0, M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157  # Philox-4x64-10, Salmon et al. 2011
W0, W1, ONES = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, (1 << 64) - 1


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Four words of 64 bits."""
    x, (k0, k1) = [counter, 0, 0, 0], key
    for _ in range(10):
        a, b = M0 * x[0], M1 * x[2]
        x = [(b >> 64) ^ x[1] ^ k0, b & ONES, (a >> 64) ^ x[3] ^ k1, a & ONES]
        k0, k1 = (k0 + W0) & ONES, (k1 + W1) & ONES
    return x


def word(seed: int, name: str, parent: int, i: int) -> int:
    """The 32-bit number of entry i of a tensor."""
    wide = philox(i // 8 + 1, (seed, (parent << 32) + zlib.crc32(name.encode())))[i % 8 // 2]
    return wide >> 32 if i % 2 else wide & 0xFFFFFFFF


def dare(base, parents, *, density, seed, rescale, weights, lam, normalize, elect=False) -> dict:
    rows = []
    for p, tau in enumerate(task_vectors(base, parents).values()):
        kept = [word(seed, name, p, i) < round(density * 2**32) for name, i in entries(base)]
        scale = F(density) if rescale else F(1)
        rows.append([x / scale if keep else F(0) for x, keep in zip(tau, kept, strict=True)])
    return moved(base, combined(rows, weights, lam, normalize, elect))


def della(base, parents, *, density, epsilon, seed, rescale, weights, lam, normalize, elect=False) -> dict:
    """Of one tensor."""
    rows, places = [], entries(base)
    for p, tau in enumerate(task_vectors(base, parents).values()):
        kept = []
        for (name, i), x in zip(places, tau, strict=True):
            width = base[name].shape[-1] if base[name].ndim else 1
            row = [abs(y) for y in tau[i // width * width :][:width]]
            place = sum((y, j) < (abs(x), i % width) for j, y in enumerate(row))
            spread = (place / (width - 1) if width > 1 else 0.5) * 2 * epsilon
            limit = round((density - epsilon + spread if density < 1 else 1.0) * 2**32)
            scale = F(limit / 2**32) if rescale else F(1)
            kept.append(x / scale if word(seed, name, p, i) < limit else F(0))
        rows.append(kept)
    return moved(base, combined(rows, weights, lam, normalize, elect))


def sce(base, parents, *, share) -> dict:
    """Of one tensor."""
    columns, ones = list(zip(*task_vectors(base, parents).values(), strict=True)), [F(1)] * len(parents)
    spread = []
    for column in columns:
        mean = total(list(column), ones) / F(len(column))
        spread.append(total([(x - mean) * (x - mean) for x in column], ones) / F(len(column)))
    there = sorted((x for x in spread if x > 0), reverse=True)
    k = round(share * len(there))
    least = (there[k - 1] if k else F(np.inf)) if share < 1 else F(0)
    columns = [[x if v >= least else F(0) for x in c] for c, v in zip(columns, spread, strict=True)]
    squares = [sum(float(c[p] * c[p]) for c in columns) for p in range(len(parents))]
    w = [F(x / sum(squares)) for x in squares] if sum(squares) else ones
    steps = []
    for column in columns:
        up = total(column, ones) >= 0
        agree = [sign(x) == (1 if up else -1) for x in column]
        top = total([x if yes else F(0) for x, yes in zip(column, agree, strict=True)], w)
        bottom = total([F(yes) for yes in agree], w)
        steps.append(top / (bottom if bottom != 0 else F(1)))
    return moved(base, steps)


def localize_and_stitch(base, parents, *, density, at_threshold) -> dict:
    rows = [trim(tau, density, at_threshold) for tau in task_vectors(base, parents).values()]
    steps = []
    for row in zip(*rows, strict=True):
        n = sum(x != 0 for x in row)
        steps.append(total(list(row), [F(1)] * len(row)) / F(n or 1))
    return moved(base, steps)


def consensus_ta(base, parents, *, tall, agree, lam) -> dict:
    steps = []
    for row in zip(*task_vectors(base, parents).values(), strict=True):
        every = total(list(row), [F(1)] * len(row))
        votes = sum(abs(x) >= abs(every - x) * F(tall) for x in row)
        steps.append(every * F(lam) if votes >= agree else F(0))
    return moved(base, steps)


def lines(base, parents, *, first: list[float], last: list[float], depth: dict[str, float]) -> dict:
    """depth: of each tensor, 0 to 1."""
    steps = []
    taus = list(task_vectors(base, parents).values())
    for j, (name, _) in enumerate(entries(base)):
        factors = [F(a + (b - a) * depth[name]) for a, b in zip(first, last, strict=True)]
        steps.append(total([tau[j] for tau in taus], factors))
    return moved(base, steps)


def layer_swap(base, parents, *, shares: dict[str, float]) -> dict:
    """shares: of the first parent, for each tensor."""
    found = {}
    for name in base:
        alone = {label: {name: parent[name]} for label, parent in parents.items()}
        of = [shares[name], 1 - shares[name]]
        if 1 in of:  # as it is, -0.0 too
            alone, of = {"one": [*alone.values()][of.index(1)]}, [1]
        found |= average({name: base[name]}, alone, of)
    return {name: found[tied(base).get(name, name)] for name in base}


def widen(base, parents, *, above, calibrated, embeddings=()) -> dict:
    """Of tensors with float32 values; rounding differs in the last digits."""
    merged = {}
    for name, x in base.items():
        own = x.astype(float).reshape(-1, x.shape[-1] if x.ndim else 1)
        wide = [parent[name].astype(float).reshape(own.shape) for parent in parents.values()]
        if x.ndim < 2:
            moves = [[abs(w - own).reshape(-1) for w in wide]] * 2
            ranks = moves
        else:
            turned = (lambda m: m) if name in embeddings else (lambda m: m.T)
            cols = [[turned(m)[j] for j in range(len(turned(own)))] for m in (own, *wide)]
            lengths = [[abs(norm(w) - norm(c)) for w, c in zip(p, cols[0], strict=True)] for p in cols[1:]]
            angles = [[1 - cosine(w, c) for w, c in zip(p, cols[0], strict=True)] for p in cols[1:]]
            ranks = [[places(row) for row in rows] for rows in (lengths, angles)]
        scores = [score(np.array(rows), above, calibrated) for rows in ranks]
        mean = (scores[0] + scores[1]) / 2
        step = 0
        for w, row in zip(wide, mean, strict=True):
            shape = (-1, 1) if name in embeddings and x.ndim > 1 else (1, -1)
            step = step + (w - own) * (row.reshape(own.shape) if x.ndim < 2 else row.reshape(shape))
        merged[name] = (own + step).reshape(x.shape)
    return merged


def norm(x) -> float:
    return float(np.sqrt((x * x).sum()))


def cosine(a, b) -> float:
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size else 1.0


def places(row: list[float]) -> list[float]:
    order = sorted(range(len(row)), key=lambda j: (row[j], j))
    return [order.index(j) / len(row) for j in range(len(row))]


def score(ranks: np.ndarray, above: float, calibrated: float) -> np.ndarray:
    soft = np.exp(ranks) / np.exp(ranks).sum(axis=0)
    return np.where(ranks > above * ranks.mean(axis=1, keepdims=True), calibrated, soft)


def equalised(base, parents, how: str, density: float, at_threshold: str = "keep-all") -> list[float]:
    """Each parent's factor over the whole model, in float64."""
    taus = list(task_vectors(base, parents).values())
    if how == "share":
        taus = [trim(tau, density, at_threshold) for tau in taus]
        sizes = [sum(abs(float(x)) for x in tau) for tau in taus]
    else:
        sizes = [sum(float(x) ** 2 for x in tau) ** (1 if how == "square" else 0.5) for tau in taus]
    factors = [(x if how == "square" else 1 / x) if x > 0 else None for x in sizes]
    there = [x for x in factors if x is not None]
    return [1.0 if x is None else x * len(there) / sum(there) for x in factors]


def ties_sv_by(
    base, parents, rule: str, *, density, slack, seed=0, layers: dict[str, str], scores=None
) -> dict:
    """TIES-SV that protects the last parent, with its losses in another order; zero sums count as +.

    layers: {tensor: its layer}. scores: {tensor: of every entry}, for fisher and gradient.
    """
    taus = [trim(tau, density, "exact") for tau in task_vectors(base, parents).values()]
    places, own, ones = entries(base), taus[-1], [F(1)] * len(taus)
    sums = [total(list(row), ones) for row in zip(*taus, strict=True)]
    gamma = [sign(x) or 1 for x in sums]
    conflict = [{1, -1} <= {sign(tau[j]) for tau in taus} for j in range(len(places))]
    lost = [j for j in range(len(places)) if conflict[j] and sign(own[j]) == -gamma[j]]
    keys = {
        "magnitude": lambda j: -abs(own[j]),
        "random": lambda j: -(word(seed, places[j][0], len(taus) - 1, places[j][1]) >> 8),
        "fisher": lambda j: -F(np.sqrt(float(score(j))) * abs(float(own[j]))),
        "gradient": lambda j: -F(abs(float(score(j))) * abs(float(own[j]))),
        "layer": lambda j: (mean_margin(layers[places[j][0]]), abs(sums[j])),
    }

    def score(j: int):
        return scores[places[j][0]].reshape(-1)[places[j][1]]

    def mean_margin(layer: str) -> tuple[float, int]:
        here = [abs(float(sums[j])) for j in lost if layers[places[j][0]] == layer]
        return sum(here) / len(here), [layers[name] for name, _ in places].index(layer)

    for j in sorted(lost, key=lambda j: (keys[rule](j), j))[: round(slack * len(lost))]:
        gamma[j] = sign(own[j])
    steps = []
    for j, row in enumerate(zip(*taus, strict=True)):
        agree = [x for x in row if sign(x) == gamma[j]]
        step = F(0)
        for x in agree:
            step = step + x
        steps.append(step / F(len(agree)) if agree else F(0))
    return moved(base, steps)


def iso_c(taus: list[np.ndarray]) -> np.ndarray:
    """The step of a matrix by the singular value decomposition of the sum."""
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    real = s > 1e-6 * max(s[0], 1e-300)
    return s.mean() * (u[:, real] @ vt[real])


def tsv_m(taus: list[np.ndarray]) -> np.ndarray:
    """The step of a matrix, whitened by decompositions of the directions side by side."""
    k, parts = min(taus[0].shape) // len(taus), [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    parts = [(u[:, :k], s[:k], vt[:k]) for u, s, vt in parts]
    parts = [[x[..., s > 1e-6 * max(s[0], 1e-300)] for x in (u, s, vt.T)] if k else (u, s, vt.T)
             for u, s, vt in parts]  # fmt: skip
    sides = []
    for i in (0, 2):
        p, d, qt = np.linalg.svd(np.hstack([x[i] for x in parts]), full_matrices=False)
        real = d > 1e-6 * d.max(initial=1e-300)
        sides.append(p[:, real] @ qt[real])
    return (sides[0] * np.concatenate([x[1] for x in parts])) @ sides[1].T


def regmean(weights: list[np.ndarray], grams: list[np.ndarray], alpha: float) -> np.ndarray:
    """The matrix whose outputs miss each parent's the least, a row at a time, by the normal equations."""
    n = len(grams[0])
    parts = [
        np.array([[g[i, j] * (1 if i == j else alpha) for j in range(n)] for i in range(n)]) for g in grams
    ]
    rows = []
    for row in zip(*weights, strict=True):
        right = sum(part @ own for part, own in zip(parts, row, strict=True))
        rows.append(np.linalg.lstsq(sum(parts), right, rcond=None)[0])
    return np.array(rows)


def pcb(taus: list[np.ndarray], density: float) -> np.ndarray:
    """The step of a whole model, with whole softmaxes."""

    def spread(x):
        return (x - x.min()) / (x.max() - x.min())

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    top, bottom = 0, 0
    for tau in taus:
        beta = softmax(len(taus) * spread(tau * tau)) * sum(softmax(spread(tau * other)) for other in taus)
        beta[np.argsort(-beta)[round(density * len(beta)) :]] = 0
        top, bottom = top + beta * tau, bottom + beta
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0)
