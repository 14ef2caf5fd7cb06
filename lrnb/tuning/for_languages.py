"""One model for several languages: their CT and one SFT merged, chosen on the dev items of all of them.

As `on_dev` does it for one language; a candidate's dev score is the mean over the languages of theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrnb.errors import UserError
from lrnb.merging.methods import find
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state
from lrnb.study.files import atomic_file
from lrnb.study.parameters import Study, read_yaml, validate
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, Stage, current
from lrnb.tuning.by_tpe import try_candidates
from lrnb.tuning.entry_scores import kinds_of_method, scores_place, with_scores
from lrnb.tuning.kept import keep_merge, kept_merge
from lrnb.tuning.on_dev import (
    Dev,
    DevScore,
    asked_on_dev,
    dev_items,
    dev_tasks,
    marks_of,
    merged_like,
    open_scorer,
    parent_folders,
    restored,
    score_on_dev,
    values_of_row,
    with_nested,
)
from lrnb.tuning.search import (
    candidate_grid,
    candidates,
    for_languages,
    grid_size,
    is_default,
    searched,
    settings,
    taken_over,
)

if TYPE_CHECKING:
    from lrnb.scoring.unwritten import Unwritten


def languages_together(study: Study) -> list[str]:
    """The languages that a notebook merges into one model. UserError where it is not one set."""
    if len(study.merge_languages) != 1:
        raise UserError(
            f"merge_languages is {study.merge_languages}; here it is one set, such as [['qaa', 'qab']], of "
            "languages that were run: lrnb run params/qaa.yaml params/qab.yaml --set "
            "'merge_languages=[[qaa,qab]]'"
        )
    return study.merge_languages[0]


def studies_together(study: Study) -> list[Study]:
    """The study of each of these languages, as it was run beside this one. UserError where one is missing."""
    found = []
    for lang in languages_together(study):
        path = RunPaths(study.model_copy(update={"lang": lang})).lang / "params.yaml"
        if not path.is_file():
            raise UserError(f"{path} is missing: {lang} was not run here. Run lrnb run params/{lang}.yaml")
        found.append(validate(read_yaml(path), str(path)).model_copy(update={"runs": study.runs}))
    return found


def parents_together(studies: Sequence[Study], budget: int) -> dict[str, Path]:
    """{language: its CT at `budget`} and {"sft": SFT-en}, which all have in common."""
    each = {study.lang: parent_folders(RunPaths(study), budget) for study in studies}
    return {lang: folders["ct"] for lang, folders in each.items()} | {
        "sft": current(RunPaths(studies[0]).sft)
    }


def _places(studies: Sequence[Study]) -> dict[str, RunPaths]:
    return {study.lang: RunPaths(study) for study in studies}


def choose_for_languages(study: Study, method: str, dev_score: DevScore | None = None) -> pd.DataFrame:
    """Search on dev; every budget's merge (see `kept`), choices.csv, manifest into `<codes>/merge/<method>/`.

    Returns choices.csv, whose columns are those of `on_dev.score_candidates`. `dev_score`: of
    `scorer_together`; it is made when not given. Slack protects SFT.
    """
    studies, langs = studies_together(study), languages_together(study)
    folder = RunPaths(study).together(langs) / "merge"
    after = find(method).after
    inputs = [RunPaths(study).base, RunPaths(study).sft, *(RunPaths(one).ct() for one in studies)]
    inputs += [folder / after.name] if after else []
    inputs += [one.importance for one in _places(studies).values()] if kinds_of_method(study, method) else []
    with Stage(folder / method, method, study.declared(), inputs) as stage:
        dev_score, tables = dev_score or scorer_together(studies), []
        total = len(candidate_grid(study, method)) * len(study.ct_budgets)
        with Progress(method, total, "candidates") as progress:
            for budget in study.ct_budgets:
                fixed = _fixed(study, method, budget, folder)
                table = _scored(study, studies, method, budget, fixed, dev_score, progress)
                best = table[table["chosen"]].iloc[0]
                own = fixed | values_of_row(best, candidates(study, method))
                place = scores_place(_places(studies), budget)
                parents, given = parents_together(studies, budget), for_languages(own, langs)
                kept = keep_merge(study, method, budget, parents, stage.draft, given, place)
                stage.facts[str(budget)] = own | kept
                tables.append(table)
        choices = pd.concat(tables, ignore_index=True)
        with atomic_file(stage.draft / "choices.csv") as temporary:
            choices.to_csv(temporary, index=False)
    return choices


def merge_together(study: Study, method: str, budget: int) -> Path | Unwritten:
    """The merge that was chosen for these languages, see `kept_merge`. UserError where it is missing."""
    studies, langs = studies_together(study), languages_together(study)
    stage = RunPaths(study).together(langs) / "merge" / method
    parents = functools.partial(parents_together, studies, budget)
    place = scores_place(_places(studies), budget)
    return kept_merge(study, method, budget, stage, parents, lambda one: merged_like(studies[0]), place)


def _fixed(study: Study, method: str, budget: int, folder: Path) -> dict[str, Any]:
    """Options that are not searched; some from what the method before this one chose for these languages."""
    after, names = find(method).after, taken_over(study, method)
    best: Mapping[Any, Any] = {}
    if after and names:
        table = pd.read_csv(current(folder / after.name) / "choices.csv")
        best = table[(table["ct_tokens"] == budget) & table["chosen"]].iloc[0].to_dict()
    return settings(study, method) | values_of_row(best, names)


def _scored(
    study: Study, studies: Sequence[Study], method: str, budget: int, fixed: dict[str, Any],
    dev_score: DevScore, progress: Progress,
) -> pd.DataFrame:  # fmt: skip
    langs, grid = languages_together(study), grid_size(study, method)
    how: dict[str, Any] = {"method": method, "threads": study.threads, "vocabulary": study.vocabulary}
    vectors = TaskVectors(RunPaths(study).base, parents_together(studies, budget), **how)
    place = scores_place(_places(studies), budget)
    head = {"preset": study.preset, "lang": "+".join(langs), "method": method, "ct_tokens": budget}
    rows, devs = [], list[Dev]()

    def score(options: dict[str, Any]) -> Dev:
        given = with_scores(method, for_languages(fixed | options, langs), place)
        return dev_score(merge_state(method, vectors, **given))

    def known() -> dict[str, Any]:
        each = {one.lang: [marks_of(RunPaths(one), budget), asked_on_dev(one)] for one in studies}
        return {"fixed": fixed, **each}

    for options, dev in try_candidates(study, method, known, score, restored):
        named = {k: v for k, v in fixed.items() if not isinstance(v, str)} | options
        tail = {"grid": grid, "default": is_default(study, method, named)}
        rows.append(head | named | dev.columns() | tail)
        devs.append(dev)
        progress.update(1)
    return with_nested(pd.DataFrame(rows), devs, searched(study, method))


def scorer_together(studies: Sequence[Study]) -> DevScore:
    """A function from merged weights to the mean over the languages of their `Dev` scores; imports torch."""
    asked = [dev_items(study, dev_tasks(study)) for study in studies]
    scorer = open_scorer(studies[0], merged_like(studies[0]))

    def dev_score(state: Mapping[str, np.ndarray]) -> Dev:
        scorer.load_state(state)
        folds = studies[0].dev_folds
        return _mean_dev(studies, [score_on_dev(scorer, tasks, folds) for tasks in asked])

    return dev_score


def _mean_dev(studies: Sequence[Study], found: Sequence[Dev]) -> Dev:
    tasks = [f"{study.lang}:{task}" for study, dev in zip(studies, found, strict=True) for task in dev.tasks]
    error = float(np.sqrt(sum(dev.error**2 for dev in found))) / len(found)
    score, chance = (float(np.mean([getattr(dev, name) for dev in found])) for name in ("score", "chance"))
    each = zip(*(dev.folds for dev in found), strict=True)
    folds = tuple((float(apart), float(on)) for apart, on in (np.mean(parts, axis=0) for parts in each))
    return Dev(score, sum(dev.n for dev in found), chance, tuple(tasks), error, folds)
