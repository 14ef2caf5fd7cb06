"""Slack by gradients: which lost entries matter most for some text, by the scores of `lrnb importance`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.comparing import compare
from lrnb.checkpoints.importance import open_scores
from lrnb.checkpoints.reading import check_finite
from lrnb.errors import UserError
from lrnb.merging.selectors import Losses
from lrnb.merging.task_vectors import TaskVectors

LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class ByGradient:
    """Ranks losses by F * tau^2 (fisher) or |g * tau| (gradient), tau the protected parent's.

    The scores of fisher are the roots of these products, which are in the same order and further from 0.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]

    def scores(self, losses: Losses) -> np.ndarray:
        """As `selectors.Selector.scores`."""
        name, start, stop = losses.span[:3]
        own = self.tensors[name].reshape(-1)[start:stop][losses.at].astype(np.float64)
        tau = losses.worker.deltas_at(losses.data, losses.ballot.own, losses.at).astype(np.float64)
        size = np.sqrt(own) if self.kind == "fisher" else abs(own)
        return np.minimum(size * abs(tau), LARGEST).astype(np.float32)


def by_gradient(given: Any, kind: str, vectors: TaskVectors) -> ByGradient:
    """The scores `given`, a folder or {name: array}, for these task vectors.

    UserError where they are of another kind, do not have the base's names and shapes, are not finite, or are
    a fisher below 0.
    """
    asked = f"reserve_by {kind}"
    if isinstance(given, Mapping) and any(isinstance(x, str | Path) for x in given.values()):
        raise UserError(f"{asked}: importance is one folder, of the parent that slack is for")
    if vectors.alignment:
        raise UserError(f"{asked}: scores go by rows, and the vocabularies differ; reserve by another rule")
    tensors = given if isinstance(given, Mapping) else open_scores(Path(given), kind)
    mine = {name: tensors[name] for name in vectors.names if name in tensors}
    compare(asked, {name: vectors.base[name] for name in vectors.names}, {"importance": mine}, {})
    check_finite(f"{asked}: importance", mine)
    if kind == "fisher" and (below := [name for name, x in mine.items() if (x < 0).any()]):
        raise UserError(f"{asked}: {below[0]!r} holds scores below 0; give those of lrnb importance")
    return ByGradient(kind, tensors)
