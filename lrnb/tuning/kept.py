"""Where the merges of a study are when they have been chosen: on disk, or in a note that they are made from.

`keep` says which. What is not written is merged again in memory where it is scored, from the note: its
options, and the marks of its models, so that a stage whose parents changed is another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrnb.errors import UserError
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_checkpoints, merge_state
from lrnb.scoring.unwritten import Unwritten
from lrnb.study.files import write_text
from lrnb.study.parameters import Study, budget_name
from lrnb.study.stages import RunPaths, current, fingerprint
from lrnb.tuning.entry_scores import Place, folders_of, with_scores
from lrnb.tuning.search import stays_on_disk

NOTE = "in_memory.json"  # {budget: {"options", "vocabulary", "models": {label: fingerprint}}}
Folders = Mapping[str, Path]


def keep_merge(
    study: Study,
    method: str,
    budget: int,
    parents: Folders,
    draft: Path,
    options: Mapping[str, Any],
    place: Place,
) -> dict[str, Any]:
    """Write the merge into `<draft>/<budget>`, or a line into the draft's note; returns facts to keep.

    place: where scores lie that it reads.
    """
    given = with_scores(method, options, place)
    name, base = budget_name(budget), RunPaths(study).base
    if stays_on_disk(study, method):
        how: dict[str, Any] = {"threads": study.threads, "vocabulary": study.vocabulary, **given}
        return {"report": merge_checkpoints(method, base, parents, draft / name, **how)}
    marks = {label: fingerprint(path) for label, path in {"base": base, **parents}.items()}
    marks |= {label: fingerprint(path) for label, path in folders_of(given.get("importance")).items()}
    line = {"options": dict(options), "vocabulary": study.vocabulary, "models": marks}
    write_text(draft / NOTE, json.dumps(_noted(draft) | {name: line}, indent=1))
    return {"in_memory": True}


def kept_merge(
    study: Study,
    method: str,
    budget: int,
    stage: Path,
    parents: Callable[[], Folders],
    like: Callable[[Study], Path],
    place: Place,
) -> Path | Unwritten:
    """The merge that the finished `stage` chose: its folder, or one that is made when it is asked for.

    parents: gives those of the merge; like: a folder with the architecture and tokenizer of a study's merges.
    place: as in `keep_merge`. UserError where the stage is missing, stale, or has none for this budget.
    """
    noted, name = _noted(current(stage)), budget_name(budget)
    if not noted:
        return current(stage / name)
    if name not in noted:
        raise UserError(
            f"{stage}: no merge of {budget:,} CT tokens. Run the merge notebook of {method} again"
        )
    line, base, folders = noted[name], RunPaths(study).base, parents()
    how: dict[str, Any] = {"threads": study.threads, "vocabulary": line["vocabulary"], "method": method}
    options = with_scores(method, line["options"], place)

    def make() -> dict[str, Any]:
        return merge_state(method, TaskVectors(base, folders, **how), **options)

    return Unwritten(like(study.model_copy(update={"vocabulary": line["vocabulary"]})), make)


def _noted(folder: Path) -> dict[str, Any]:
    path = folder / NOTE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
