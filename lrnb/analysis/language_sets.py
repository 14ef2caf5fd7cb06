"""Question 2: how many, and which, languages share one merge? Sets of languages, foretold and then measured.

Every set is merged with SFT-en in memory by the same methods with the same options, so that sets differ in
their languages alone; a set of one is a language's own merge. One step merges all CT and SFT-en, two steps
the languages first and the result with SFT-en: sums and averages are the same either way, TIES is not. What a
set keeps is its score minus that of its languages' own merges, on the same items. What is foretold is of the
task vectors alone, and is written before anything is scored: the mean cosine of every two languages of the
set, and the mean share of entries in conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb.analysis.kept_items import mark_of, scored_once
from lrnb.conflicts import counts
from lrnb.conflicts.atlas import build, cosine_columns, sizes
from lrnb.errors import UserError
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state
from lrnb.study.files import make_folder
from lrnb.study.languages import common_family
from lrnb.study.parameters import ENGLISH, Study
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, Stage, current
from lrnb.tasks import loading
from lrnb.tuning import on_dev
from lrnb.tuning.for_languages import languages_together, parents_together, studies_together
from lrnb.tuning.search import for_languages, settings

if TYPE_CHECKING:
    from lrnb.scoring.scorer import Scorer
    from lrnb.tasks.harness import KeptTask

#: methods that take any number of parents, with the options that every set gets
FIXED: dict[str, dict[str, float]] = {
    "average": {"alpha": 0.5},
    "task_arithmetic": {"lam": 1.0},
    "ties": {"density": 0.5, "lam": 1.0},
}
ONE_STEP, TWO_STEPS = "one step", "two steps"
COLUMNS = ["languages", "method", "way", "lang", "task", "item", "correct"]
DENSITY = 0.5  # at which conflicts are counted


class Joint(NamedTuple):
    """A merge of the CT of some languages, and SFT-en."""

    langs: tuple[str, ...]
    method: str
    way: str

    @property
    def key(self) -> dict[str, str]:
        """Its columns in every table."""
        return {"languages": "+".join(self.langs), "method": self.method, "way": self.way}


def sets_of(langs: Sequence[str], each: int, seed: int) -> list[tuple[str, ...]]:
    """Every language, all pairs, and of each larger size `each` sets at most, drawn without replacement."""
    rng, found = np.random.default_rng([seed, len(langs)]), []
    for size in range(1, len(langs) + 1):
        every = [*combinations(langs, size)]
        few = size > 2 and comb(len(langs), size) > each
        kept = sorted(rng.choice(len(every), each, replace=False)) if few else range(len(every))
        found += [every[number] for number in kept]
    return found


def joint_merges(study: Study) -> list[Joint]:
    """All merges, those of one language first. Two steps begin with two languages.

    UserError where the study has none of the methods of FIXED.
    """
    if not (methods := [name for name in FIXED if name in study.methods]):
        raise UserError(f"set_languages: sets are merged by {', '.join(FIXED)}; add one of them to methods")
    every = sets_of(languages_together(study), study.sets_each, study.seed)
    return [
        Joint(langs, method, way)
        for langs in every
        for method in methods
        for way in ((ONE_STEP, TWO_STEPS) if len(langs) > 1 and method == "ties" else (ONE_STEP,))
    ]


def foretell(study: Study, budget: int) -> pd.DataFrame:
    """Of every two languages: cosine of their task vectors, conflict_share (of the entries that both keep of
    the half of largest magnitude, those with other signs).
    """
    langs = languages_together(study)
    folders = _ct_of(study, budget)
    atlas = build(_vectors(study, folders), density=DENSITY, protect=langs[0])
    table = sizes(atlas).iloc[-1]
    rows = []
    for column, (i, j) in cosine_columns(langs).items():
        two = {lang: folders[lang] for lang in (langs[i], langs[j])}
        counted = counts.shares(_vectors(study, two), density=DENSITY, protect=langs[i]).iloc[-1]
        share = counted["conflicts"] / max(1.0, counted["overlap"])
        rows.append({"one": langs[i], "other": langs[j], "cosine": table[column], "conflict_share": share})
    return pd.DataFrame(rows)


def _ct_of(study: Study, budget: int) -> dict[str, Path]:
    found = parents_together(studies_together(study), budget)
    return {lang: folder for lang, folder in found.items() if lang != "sft"}


def _vectors(study: Study, parents: Mapping[str, Any]) -> TaskVectors:
    how: dict[str, Any] = {"method": "sets", "threads": study.threads, "vocabulary": study.vocabulary}
    return TaskVectors(current(RunPaths(study).base), parents, **how)


def joint_state(study: Study, one: Joint, parents: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """The weights of a merge, {name: float32 array}; parents: {language: its CT} and {"sft": SFT-en}."""
    options: dict[str, Any] = settings(study, one.method) | FIXED[one.method]
    own = {lang: parents[lang] for lang in one.langs}
    if one.way == ONE_STEP:
        vectors = _vectors(study, own | {"sft": parents["sft"]})
        return merge_state(one.method, vectors, **for_languages(options, one.langs))
    first = {name: value for name, value in options.items() if name != "alpha"}
    joined = merge_state(one.method, _vectors(study, own), **first | _even(one))
    vectors = _vectors(study, {"ct": joined, "sft": parents["sft"]})
    return merge_state(one.method, vectors, **options)


def _even(one: Joint) -> dict[str, Any]:
    return {"weights": dict.fromkeys(one.langs, 1 / len(one.langs))} if one.method == "average" else {}


def measure_sets(study: Study, stage: Stage, budget: int) -> pd.DataFrame:
    """Score all sets on the test items of their languages, in them and in English.

    Writes foretold.csv first, then items.parquet into the stage's draft; returns the first, see `foretell`.
    """
    studies, asked = studies_together(study), joint_merges(study)
    parents, paths = parents_together(studies, budget), RunPaths(study)
    foretold = foretell(study, budget)
    foretold.to_csv(stage.draft / "foretold.csv", index=False)
    work = make_folder(stage.draft / "work" / mark_of(study, [paths.base, *parents.values()]))
    tasks = {one.lang: _tasks(one, one.tasks) for one in studies}
    tasks[ENGLISH] = _tasks(study, [f"{task}_en" for task in study.tasks_en])
    scorer = on_dev.open_scorer(study, on_dev.merged_like(studies[0]))
    with Progress("sets", len(asked), "merges") as progress:
        for place, one in enumerate(asked):
            scored_once(work / f"{place}.parquet", partial(_items, study, one, parents, scorer, tasks))
            progress.update(1)
    items = pd.concat([pd.read_parquet(work / f"{place}.parquet") for place in range(len(asked))])
    items.to_parquet(stage.draft / "items.parquet", index=False)
    return foretold


def _tasks(study: Study, names: list[str]) -> dict[str, KeptTask]:
    given: dict[str, Any] = {key: getattr(study, key) for key in loading.STUDY}
    given |= {"limit": study.test_limit, "limits": study.test_limits}
    return loading.load_tasks(names, study.lang, RunPaths(study).data_root, **given)


def _items(
    study: Study, one: Joint, parents: Mapping[str, Path], scorer: Scorer,
    tasks: Mapping[str, Mapping[str, KeptTask]],
) -> pd.DataFrame:  # fmt: skip
    from lrnb.scoring.evaluate import score_one

    scorer.load_state(joint_state(study, one, parents))
    asked = [lang for lang in (*one.langs, ENGLISH) if tasks[lang]]
    found = [score_one(scorer, tasks[lang]).assign(lang=lang) for lang in asked]
    return pd.concat(found, ignore_index=True).assign(**one.key)[COLUMNS]


def set_predictors(langs: Iterable[str], foretold: pd.DataFrame) -> dict[str, float]:
    """Means over every two languages of a set; NaN for one alone."""
    langs = set(langs)
    own = foretold[foretold["one"].isin(langs) & foretold["other"].isin(langs)]
    return {name: float(own[name].mean()) for name in ("cosine", "conflict_share")}


def family_of(langs: Sequence[str]) -> str:
    """The family of all languages of a set of two or more; "" where there is none."""
    return common_family(langs) if len(langs) > 1 else ""
