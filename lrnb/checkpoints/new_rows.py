"""First values of the rows of new tokens, from the rows of the old ones.

    mean    mean of the rows of the pieces that the token was cut into
    focus   mean of old rows by likeness in the text: FOCUS, Dobler and de Melo 2023, arXiv 2305.14481
    random  normal, with mean and standard deviation of each column of the old rows
    zeros   zeros

FOCUS takes likeness from fastText vectors of the tokenized text; here they are the left singular vectors of
positive pointwise mutual information within WINDOW tokens (Levy and Goldberg 2014), made without a further
package. As there, old tokens count that the text has, and cosines go through sparsemax. A token that the text
does not have, or without likeness to any, is the mean of its pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

INITS = ("mean", "focus", "random", "zeros")
WINDOW, DIMENSIONS = 5, 100
Weights = Sequence[
    tuple[np.ndarray, np.ndarray]
]  # a new token's: old ids, and their weights, which add up to 1


def mean_weights(cut: Iterable[Sequence[int]], rows: int) -> Weights:
    """Equal weights of the pieces that each new token was cut into; of all rows where none has one."""
    found = []
    for pieces in cut:
        ids = np.array([number for number in pieces if number < rows], np.int64)
        ids = ids if len(ids) else np.arange(rows)
        found.append((ids, np.full(len(ids), 1 / len(ids))))
    return found


def focus_weights(documents: Sequence[Sequence[int]], first: int, means: Weights, rows: int) -> Weights:
    """Weights by likeness; documents: the text in ids of the new tokenizer, new ones from `first` on."""
    used, vectors = token_vectors(documents)
    old = np.flatnonzero(used < min(first, rows))
    found = list(means)
    for at in np.flatnonzero(used >= first):
        shares = sparsemax(vectors[old] @ vectors[at]) if len(old) and vectors[at].any() else np.zeros(0)
        if (some := np.flatnonzero(shares)).size:
            found[used[at] - first] = (used[old[some]], shares[some])
    return found


def token_vectors(documents: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(ids that occur, ascending; their vectors of length 1): singular vectors of the PPMI of near tokens."""
    used, flat = np.unique(np.concatenate([np.asarray(x, np.int64) for x in documents]), return_inverse=True)
    place = np.repeat(np.arange(len(documents)), [len(x) for x in documents])
    counts: Any = csr_matrix((len(used), len(used)))
    for step in range(1, WINDOW + 1):
        near = place[step:] == place[:-step]
        pair = (flat[:-step][near], flat[step:][near])
        counts = counts + csr_matrix((np.ones(len(pair[0])), pair), counts.shape)
    counts = (counts + counts.T).tocoo()
    each = np.asarray(counts.sum(axis=1)).reshape(-1)
    values = np.log(counts.data * counts.data.sum() / (each[counts.row] * each[counts.col]))
    mutual = csr_matrix((np.maximum(values, 0), (counts.row, counts.col)), counts.shape)
    size = min(DIMENSIONS, len(used) - 1)
    start = np.full(len(used), 1 / np.sqrt(len(used)))
    left, strength, _ = (
        svds(mutual, k=size, v0=start) if size > 0 else (np.zeros((len(used), 1)), np.ones(1), None)
    )
    vectors = left * np.sqrt(strength)
    return used, vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex (Martins and Astudillo 2016): most weights are exactly 0."""
    ordered = np.sort(scores)[::-1]
    sums = np.cumsum(ordered) - 1
    count = np.flatnonzero(ordered * np.arange(1, len(scores) + 1) > sums)[-1] + 1
    return np.maximum(scores - sums[count - 1] / count, 0)


def first_rows(table: np.ndarray, how: str, weights: Weights, seed: int) -> np.ndarray:
    """Rows (n, *width) in the table's dtype for the new tokens; table: the old rows, float."""
    shape, wide = (len(weights), *table.shape[1:]), table.astype(np.float32)
    if how == "zeros":
        rows = np.zeros(shape, np.float32)
    elif how == "random":
        noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        rows = wide.mean(axis=0) + wide.std(axis=0) * noise
    else:
        rows = np.stack([np.tensordot(w.astype(np.float32), wide[ids], 1) for ids, w in weights])
    return rows.astype(table.dtype)


def bytes_a_token(texts: Sequence[str], documents: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, float]:
    """UTF-8 bytes of the texts for each of their tokens, by each of some tokenizers."""
    size = sum(len(text.encode()) for text in texts)
    return {name: size / max(sum(map(len, ids)), 1) for name, ids in documents.items()}
