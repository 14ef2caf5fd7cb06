"""Choosing on dev how SFT is trained: candidates trained one after the other, the best of them is kept.

The learning rates, then the epochs, of `sft_candidates`. CT-then-SFT and SFT on rows in X are chosen on the
dev items in X that merges are chosen on, SFT-en on dev items in English. Nothing here knows how a model is
trained or scored: both are functions.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lrnb.study import progress
from lrnb.study.files import atomic_file, digest, remove, write_text
from lrnb.study.parameters import Study
from lrnb.study.stages import Stage, fingerprint
from lrnb.tuning.on_dev import Dev, dev_items, dev_tasks, dev_tasks_en, mark_chosen, open_scorer, score_on_dev
from lrnb.tuning.search import SftCandidate, sft_candidates, sft_default

CHOICES, FINGERPRINT = "choices.csv", "fingerprint.json"
OPTIONS = ["lr", "epochs"]
UNSCORED = Dev(float("nan"), 0, float("nan"), ())  # of a candidate that is the only one
Train = Callable[[SftCandidate, Path], dict[str, Any]]  # writes the model of a candidate, returns its facts
FolderScore = Callable[[Path], Dev]


class Tested(NamedTuple):
    """A candidate that was trained: the facts of its training, and what it scored on dev."""

    facts: dict[str, Any]
    dev: Dev


class SftDevScorer:
    """A model's folder to its `Dev` score: in English for SFT-en (English rows from the base), else in X.

    Every model is opened by itself and closed again. UserError where there are no dev items, unless one
    candidate is tried, which nobody scores. `items`: all that is asked.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.tasks = study, dict[str, Any]()
        if len(sft_candidates(study)) > 1:
            english = study.sft_parent == "base" and not study.sft_x_name
            names = dev_tasks_en(study) if english else dev_tasks(study)
            self.tasks = dev_items(study, names)

    @property
    def items(self) -> list[dict[str, Any]]:
        return [dict(item) for task in self.tasks.values() for item in task.eval_docs]

    def __call__(self, folder: Path) -> Dev:
        gc.collect()  # the trainer's model
        return score_on_dev(open_scorer(self.study, folder), self.tasks)


def choose_sft(
    study: Study, stage: Stage, train: Train, dev_score: FolderScore, seen: Sequence[Any] = ()
) -> pd.DataFrame:
    """Train every candidate and leave the best on dev in the draft of `stage`, with choices.csv beside it.

    Beside the one in training only the best so far is on disk. A stage that `resumes`, killed at any moment
    and begun again with the same parameters and inputs, and with the same examples and items (`seen`), goes
    on after the last candidate that was scored and ends in the same bytes. A single candidate is not scored.
    Returns choices.csv: a row a candidate with lr (peak learning rate), epochs, dev_score and the like as
    those of merges have, default (the parameters as they stand), tied, chosen.
    """
    candidates, usual = sft_candidates(study), sft_default(study)
    known, work, tested = _known(stage, seen), stage.draft / "work", list[Tested]()
    _keep_what_is_of(known, stage.draft)
    for place, candidate in enumerate(candidates):
        folder, note = work / f"candidate-{place}", work / f"candidate-{place}.json"
        if not note.is_file():
            remove(folder)
            with progress.part(place, len(candidates)):
                facts = train(candidate, folder)
            dev = dev_score(folder) if len(candidates) > 1 else UNSCORED
            write_text(work / FINGERPRINT, known)
            write_text(note, json.dumps([facts, dev]))
        facts, dev = json.loads(note.read_text(encoding="utf-8"))
        tested.append(Tested(facts, Dev(*dev)))
        best = _best(_table(candidates, tested, usual))
        for other in range(place + 1):
            if other != best:
                remove(work / f"candidate-{other}")
    _move(work / f"candidate-{best}", stage.draft)
    table = _table(candidates, tested, usual)
    with atomic_file(stage.draft / CHOICES) as temporary:
        table.to_csv(temporary, index=False)
    stage.facts |= tested[best].facts | candidates[best]._asdict() | {"tried": len(candidates)}
    return table


def _known(stage: Stage, seen: Sequence[Any]) -> str:
    """What the candidates are made from."""
    known: dict[str, Any] = {key: value for key, value in stage.params.items() if key != "runs"}
    known |= {path.name: fingerprint(path) for path in stage.inputs} | {"seen": digest(list(seen))}
    return json.dumps(known, sort_keys=True, default=str)


def _keep_what_is_of(known: str, draft: Path) -> None:
    """Empty a draft that was begun with something else."""
    note = draft / "work" / FINGERPRINT
    if not note.is_file() or note.read_text(encoding="utf-8") != known:
        for path in list(draft.iterdir()):
            remove(path)


def _table(candidates: Sequence[SftCandidate], tested: Sequence[Tested], usual: SftCandidate) -> pd.DataFrame:
    """choices.csv; candidates that are not tested yet have no score, and are not chosen."""
    devs = [one.dev for one in tested] + [UNSCORED] * (len(candidates) - len(tested))
    rows = pd.DataFrame(
        {"lr": one.lr, "epochs": one.epochs, **dev.columns()}
        for one, dev in zip(candidates, devs, strict=True)
    )
    rows = rows.assign(default=[one == usual for one in candidates])
    return mark_chosen(rows, OPTIONS) if len(rows) > 1 else rows.assign(tied=1, chosen=True)


def _best(table: pd.DataFrame) -> int:
    return int(table.index[table["chosen"]][0])


def _move(folder: Path, draft: Path) -> None:
    """The model into the draft; of one that was moved already, or in part, what is left."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        os.replace(path, draft / path.name)


def read_sft_choices(folder: Path) -> pd.DataFrame | None:
    """`choices.csv` of a finished SFT stage; None for given weights, and of older versions."""
    path = folder / CHOICES
    return pd.read_csv(path) if path.is_file() else None
