"""One model for several languages against each language's own: the same method, budget and items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.analysis import comparisons
from lrnb.analysis.comparisons import Right
from lrnb.analysis.seeds import ITEMS
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import Study, budget_name
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, Stage
from lrnb.tasks.loading import load_study_tasks
from lrnb.tuning.for_languages import languages_together, merge_together, studies_together
from lrnb.tuning.on_dev import TOKENS_AN_ITEM
from lrnb.tuning.search import methods_together

ALONE = "alone, "  # before a method's name: the language's own merge


def score_together(study: Study) -> pd.DataFrame:
    """Score the merges of several languages on the test tasks of each, in it and in English.

    Writes scores.csv and items.parquet (with lang) and leads.csv into `<codes>/scores/`; returns the leads,
    see `leads_over_own`.
    """
    from lrnb.scoring.evaluate import ScoredModel, score_models

    langs, studies = languages_together(study), studies_together(study)
    home, methods = RunPaths(study).together(langs), methods_together(study, langs)
    made = {(m, b): merge_together(study, m, b) for m in methods for b in study.ct_budgets}
    models = {f"{m}@{budget_name(b)}": ScoredModel(one, m, b) for (m, b), one in made.items()}
    asked = {one.lang: _compared(one) for one in studies}
    total = len(models) * sum(len(task) for tasks in asked.values() for task in tasks.values())
    how: dict[str, Any] = {"device": study.device, "precision": study.eval_precision}
    how |= {"token_budget": TOKENS_AN_ITEM * study.eval_batch, "cache": RunPaths(study).root / ".scores"}
    inputs = [one if isinstance(one, Path) else home / "merge" / method for (method, _), one in made.items()]
    inputs += [RunPaths(one).scored("merged") for one in studies]
    with (
        Stage(home / "scores", "languages", study.declared(), inputs) as stage,
        Progress("languages", total, "items") as progress,
    ):
        how |= {"preset": study.preset, "seed": study.seed, "progress": progress.update}
        found = {lang: score_models(models, tasks, lang=lang, **how) for lang, tasks in asked.items()}
        scores = pd.concat([own for own, _ in found.values()], ignore_index=True)
        items = pd.concat([own.assign(lang=lang) for lang, (_, own) in found.items()], ignore_index=True)
        leads = leads_over_own(items, studies)
        scores.to_csv(stage.draft / "scores.csv", index=False)
        items.to_parquet(stage.draft / "items.parquet", index=False)
        leads.to_csv(stage.draft / "leads.csv", index=False)
    return leads


def _compared(study: Study) -> dict[str, Any]:
    """The test tasks of a language that models are compared by, in it and in English."""
    tasks, apart = load_study_tasks(study, RunPaths(study).data_root)
    return {name: task for name, task in tasks.items() if name not in apart}


def leads_over_own(items: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """The merge of several languages minus each language's own, by the same method at the same budget.

    items: of the former, with lang. Columns of `comparisons.paired_table`, and lang, languages ("mn+ug"),
    score and score_alone (percent). Holm's correction is over methods, budgets and languages, for each kind
    of score. Intervals and p are of the items of one run.
    """
    rows = []
    for study in studies:
        both = comparisons.right_answers(items[items["lang"] == study.lang]) | _own(study)
        pairs = {f"{ALONE}{method}": [method] for method in items["method"].unique()}
        for row in comparisons.paired_rows([both], pairs, seed=study.seed):
            sides = {"score": row["method"], "score_alone": row["baseline"]}
            values = {
                name: _percent_of(both, (m, row["ct_tokens"]), row["task"]) for name, m in sides.items()
            }
            rows.append(row | values | {"lang": study.lang, "baseline": "alone"})
    table = comparisons.with_holm(rows)
    return table.assign(languages="+".join(study.lang for study in studies))


def _own(study: Study) -> Right:
    """What the language's own merges have right."""
    items = pd.read_parquet(RunPaths(study).scored("merged") / "items.parquet", columns=ITEMS)
    found = comparisons.right_answers(items)
    return {(f"{ALONE}{method}", tokens): right for (method, tokens), right in found.items()}


def _percent_of(both: Right, model: tuple[str, int], task: str) -> float:
    tasks = both[model]
    parts = {name: [name] for name in tasks} | comparisons.means_of(tasks)
    return 100 * sum(float(tasks[one].mean()) for one in parts[task]) / len(parts[task])


def read_together(root: Path) -> pd.DataFrame:
    """leads.csv of every set of languages below the folder of a seed; empty where there is none."""
    paths = [path for path in sorted(root.glob("*+*/scores/leads.csv")) if path.with_name(MANIFEST).is_file()]
    return pd.concat([pd.read_csv(path) for path in paths], ignore_index=True) if paths else pd.DataFrame()
