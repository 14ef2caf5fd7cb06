"""Rows of embeddings and head that not every model has: written beside the merge, as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lrnb.checkpoints.reading import Checkpoint, check_finite
from lrnb.checkpoints.rows import Rows, placed
from lrnb.merging.formulas import weighted_sum
from lrnb.merging.rounding import cast
from lrnb.merging.task_vectors import TaskVectors, as_real

PORTION = 1 << 19  # entries at once


def kept_rows(vectors: TaskVectors, dtypes: Mapping[str, np.dtype]) -> Iterator[tuple[str, int, np.ndarray]]:
    """(tensor, first entry, values) of all rows that take no part in the merge, in their output dtype.

    A row of one model is written as it is, of several their mean in float32, equal entries as they are.
    UserError where one is not finite, or leaves the range of its dtype.
    """
    alignment = vectors.alignment
    for name in vectors.names if alignment else ():
        for rows in alignment.kept if alignment and name in alignment.tables else ():
            width = int(np.prod(vectors.base[name].shape[1:], dtype=np.int64))
            step = max(1, PORTION // max(width, 1))
            for at in range(0, len(rows.slots), step):
                part = Rows(rows.slots[at : at + step], {k: x[at : at + step] for k, x in rows.ids.items()})
                values = _mean(vectors, name, part, width, dtypes[name])
                for start, some in placed(part.slots - part.slots[0], width, 0, values):
                    yield name, int(part.slots[0]) * width + start, some


def _mean(vectors: TaskVectors, name: str, rows: Rows, width: int, dtype: np.dtype) -> np.ndarray:
    """The rows of one portion, one after the other."""
    assert vectors.alignment
    tables = {label: vectors.alignment.models[label] for label in rows.ids}
    found = [tables[label][name][ids].reshape(-1) for label, ids in rows.ids.items()]
    if not found:
        return np.zeros(len(rows.slots) * width, dtype)
    if any(not np.isfinite(x).all() for x in found):
        for label, model in tables.items():
            check_finite(str(model.folder) if isinstance(model, Checkpoint) else label, {name: model[name]})
    return cast(found[0] if len(found) == 1 else mean_of_rows(found), dtype, name)


def mean_of_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Their mean in float32, or float64 where one is stored so; what is equal in all stays as it is."""
    wide = [as_real(x) for x in rows]
    mean = weighted_sum(wide, [1] * len(wide)) / np.float32(len(wide))
    same = np.all([x == wide[0] for x in wide], axis=0)
    return np.where(same, wide[0], mean)
