"""base + a formula of the task vectors, an entry at a time: what many methods end in.

A formula is written on whole float32 arrays, of numpy or torch, see `cpu.Formula`; it is called for some
entries of a tensor at a time, so an entry's result may depend on nothing but that entry, its index and what
was settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lrnb.merging.cpu import Formula, Operands, Worker
from lrnb.merging.rounding import cast
from lrnb.merging.task_vectors import Span, TaskVectors


@dataclass(frozen=True)
class Stepwise:
    """A scope whose spans each have a formula; they are cut at `stops`, where it may change.

    row: entries of a tensor that the formula has to see together, counted from its first.
    """

    vectors: TaskVectors
    names: list[str]
    formula_of: Callable[[Span], Formula]
    stops: Sequence[int] = ()
    row: int = 1

    def spans(self) -> list[Span]:
        size = max(self.vectors.workers[0].span // self.row, 1) * self.row
        return self.vectors.spans(self.names, self.stops, size)

    def merge(self, worker: Worker, span: Span, data: Operands, dtype: np.dtype) -> tuple[np.ndarray, None]:
        result, bad = worker.step(data, self.formula_of(span), dtype, self.row)
        if bad:
            self.vectors.refuse_deltas()
        return cast(result, dtype, span.name, bad), None
