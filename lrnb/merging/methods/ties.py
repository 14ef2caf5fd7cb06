"""TIES: trim each task vector, elect a sign for each entry, average the entries that agree.

Source: Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models", arXiv 2306.01708.
Where the paper leaves room, `lrnb/merging/election.py` says what was chosen.

    tau_i trimmed to the `density` share of largest magnitudes
    sign  = sign(sum(w_i * tau_i))
    theta = base + lam * (weighted mean of the tau_i that have this sign)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrnb.merging.cpu import Operands, Tally, Worker
from lrnb.merging.election import Scope, settle_election
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.registry import Look, Mergekit, Method, PerParent, Published
from lrnb.merging.rounding import cast
from lrnb.merging.shared_options import WIDEN
from lrnb.merging.task_vectors import Span, TaskVectors
from lrnb.merging.trimming import Merging


def ties(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    **options: Any,
) -> Tensors:
    """TIES merge of tensors, formula above.

    `base` is a tensor or a dict of tensors (numpy or torch), `parents` {name: same kind as base} or a list.
    density: a number, or one per parent; options: all others of `Merging`, such as weights, lam and
    trim_scope. Returns base's kind, shapes and dtypes. UserError where tensors do not match or an option is
    unknown or out of range.
    """
    return merge_tensors(METHOD, base, parents, {"density": density, **options})


@dataclass(frozen=True)
class Elected:
    """A scope whose thresholds and election are decided."""

    scope: Scope

    def spans(self) -> list[Span]:
        return self.scope.spans()

    def merge(self, worker: Worker, span: Span, data: Operands, dtype: np.dtype) -> tuple[np.ndarray, Tally]:
        ballot, choice = self.scope.at(span), self.scope.choice
        won = choice.won(worker, span, data, ballot) if choice else None
        result, tally = worker.ties(data, ballot, dtype, won)
        return cast(result, dtype, span.name, tally.bad), tally


def _prepare(vectors: TaskVectors, names: list[str], options: Merging) -> Elected:
    """Trims and elects, in two passes, or in one where the sign of exact zero sums is given."""
    return Elected(settle_election(vectors, names, options))


#: mergekit trims every tensor by itself, keeps exactly k entries, and counts a zero sum as +
KIT = Mergekit(
    "ties",
    defaults={"trim_scope": "tensor", "at_threshold": "exact", "zero_sign": "positive"},
    fixed={"rescale": False},
    ignored={"int8_mask": "it changes no result"},
)

METHOD = Method(
    name="ties",
    label="TIES",
    summary="keep the largest entries, elect a sign per entry, average those that agree",
    source="Yadav et al. 2023, arXiv 2306.01708",
    look=Look("#D55E00", "triangle-up"),
    options=Merging,
    prepare=_prepare,
    notebook="02_merge/02_ties",
    cost=16,
    mergekit=KIT,
    published=(
        Published({"density": 0.2, "lam": 1.0}, "Yadav et al. 2023, where there is no validation set"),
        Published({"density": 0.5, "lam": 0.5, "trim_scope": "tensor"}, WIDEN),
    ),
)
