"""The scores that merges of a study read beside its models (`lrnb importance`): which, where, their stage.

A method's declaration says which kind it needs with which options; a study that tries none has no such stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.importance import GRAM, KINDS
from lrnb.checkpoints.opening import open_source
from lrnb.errors import UserError
from lrnb.merging.layers import layer_of
from lrnb.merging.methods import find
from lrnb.study.parameters import Study, budget_name
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, Stage, current
from lrnb.tasks.rows import sft_examples
from lrnb.tuning.search import choices_of

Place = Callable[[str], Any]  # a kind of scores -> what a merge takes as `importance`


def kinds_of_method(study: Study, method: str) -> list[str]:
    """The kinds of scores that some candidate of a method reads."""
    lists = choices_of(study, method)
    tried = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    found = {find(method).needs(options) for options in tried}
    return [kind for kind in KINDS if kind in found]


def scores_wanted(study: Study) -> list[str]:
    """The kinds of scores that some merge of the study reads. UserError where there are no rows for them."""
    found = {kind for method in study.methods for kind in kinds_of_method(study, method)}
    if GRAM in found and not study.trains:
        raise UserError(
            "methods: regmean takes text that CT was trained on, and preset released has none. Leave it out, "
            "or merge by hand: lrnb importance --help"
        )
    if found and not study.sft_mix:
        raise UserError(
            f"sft_mix is empty, and {' and '.join(sorted(found))} take English rows of its tasks; give some: "
            "--set 'sft_mix={topic: 400}', or leave that search out"
        )
    return [kind for kind in KINDS if kind in found]


def with_scores(method: str, options: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The options of a merge, and where the scores lie that it reads with them."""
    kind = find(method).needs(options)
    return dict(options) | ({"importance": place(kind)} if kind else {})


def folders_of(importance: Any) -> dict[str, Path]:
    """The folders that a merge's option `importance` names, by labels of their own."""
    if isinstance(importance, Mapping):
        return {f"scores of {label}": Path(folder) for label, folder in importance.items()}
    return {"scores": Path(importance)} if importance else {}


def scores_place(each: Mapping[str, RunPaths], budget: int) -> Place:
    """Of merges of the CT of these languages, by the parents' names, at a budget, and the last one's SFT.

    UserError, when it is asked, where a stage is missing or stale.
    """

    def place(kind: str) -> Any:
        folders = {label: current(paths.importance) / kind for label, paths in each.items()}
        *_, last = folders.values()
        if kind != GRAM:
            return str(last)
        ct = {label: str(folder / budget_name(budget)) for label, folder in folders.items()}
        return ct | {"sft": str(last / "sft")}

    return place


def importance_examples(study: Study) -> list[dict[str, str]]:
    """About `importance_rows` of SFT's English examples, as many of each task."""
    each, root = study.importance_rows // len(study.sft_mix), RunPaths(study).data_root
    return [
        row
        for task, n in study.sft_mix.items()
        for row in sft_examples(task, min(max(each, 1), n), root, study.seed)
    ]


def packed_examples(study: Study) -> list[dict[str, Any]]:
    """The first `importance_rows` rows that CT was trained on, packed."""
    from lrnb.training.pretraining import packed_rows

    rows = packed_rows(RunPaths(study).corpus / "packed.arrow")
    return [dict(rows[i]) for i in range(min(study.importance_rows, len(rows)))]


def score_folder(
    study: Study,
    kind: str,
    out: Path,
    *,
    model: Path | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Write scores of one kind into the folder `out`, of SFT and its examples unless others are given.

    Returns the facts; imports torch.
    """
    from lrnb.training.importance import importance

    rows = list(rows) or importance_examples(study)
    most = max(study.sft_max_len, *(len(row.get("input_ids", ())) for row in rows))
    how: dict[str, Any] = {"max_len": most, "device": study.device, "progress": progress}
    return importance(kind, model or RunPaths(study).sft, rows, out, **how)


def make_scores(study: Study) -> dict[str, dict[str, Any]]:
    """The whole stage: a folder of scores for every kind that the study wants; returns {folder: facts}.

    Of gram one for SFT and one for the CT of every budget, `gram/sft` and `gram/<budget>`.
    """
    paths, kinds = RunPaths(study), scores_wanted(study)
    own = {kind if kind != GRAM else f"{GRAM}/sft": (paths.sft, importance_examples(study)) for kind in kinds}
    inputs: list[Path] = [paths.sft] if own else []
    if GRAM in kinds:
        inputs, rows = [paths.sft, paths.ct(), paths.corpus], packed_examples(study)
        own |= {f"{GRAM}/{budget_name(b)}": (paths.ct(b), rows) for b in study.ct_budgets}
    facts: dict[str, dict[str, Any]] = {}
    with Stage(paths.importance, "importance", study.declared(), inputs) as stage:
        for name, (model, rows) in own.items():
            with Progress(name, len(rows), "rows") as progress:
                how: dict[str, Any] = {"model": model, "rows": rows, "progress": progress.update}
                facts[name] = score_folder(study, name.split("/")[0], stage.draft / name, **how)
        stage.facts.update(facts)
    return facts


def score_shares(folder: Path) -> dict[str, float]:
    """{group of tensors: percent of the sum of all |scores| in it}; layers by number, all else by name."""
    scores, sums = open_source(folder, finite=False), dict[str, float]()
    for name in (name for name in scores if name not in scores.aliases):
        layer = layer_of(name)
        group = f"layer {layer}" if layer >= 0 else name
        sums[group] = sums.get(group, 0.0) + float(np.abs(scores[name]).sum(dtype=np.float64))
    return {group: 100 * total / (sum(sums.values()) or 1.0) for group, total in sums.items()}
