"""Made-up runs of several languages and seeds side by side: none of them was measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from support import made_run

from lrnb.analysis import results, trust
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths

LEADS = {"qaa": 0.3, "qab": 0.1, "qac": -0.2}  # of TIES over CT-then-SFT, by language


def write_made_languages(
    runs: Path, leads: Mapping[str, float] = LEADS, seeds: tuple[int, ...] = (0, 1), n: int = 40
) -> list[Study]:
    """A made run of every language and seed in `runs`, which differ in what TIES has right."""
    made = made_run.write_made_run(runs / "made", n=n)
    studies = []
    for lang, lead in leads.items():
        for seed in seeds:
            study = made_run.made_study(runs).model_copy(update={"lang": lang, "seed": seed})
            _write_run(made, study, lead + 0.02 * seed)
            studies.append(study)
    shutil.rmtree(runs / "made")
    return studies


def _write_run(made: Path, study: Study, lead: float) -> None:
    paths = RunPaths(study)
    shutil.copytree(made.parent / "shared", paths.shared, dirs_exist_ok=True)
    shutil.copytree(made, paths.lang)
    (paths.lang / "params.yaml").write_text(yaml.safe_dump(study.model_dump()))
    for group in ("parents", "merged"):
        table = paths.scored(group) / "bits_per_byte.csv"
        bits = pd.read_csv(table).replace({"lang": {"qaa": study.lang}})
        bits["bits_per_byte"] += 0.1 * (ord(study.lang[-1]) - ord("a"))
        bits.to_csv(table, index=False)
    items = _moved(pd.read_parquet(paths.scores / "items.parquet"), lead, study)
    items.to_parquet(paths.scores / "items.parquet", index=False)
    scores = results.with_means(made_run.score_rows(items), items)
    trust.marks(scores, items).to_csv(paths.scores / "scores.csv", index=False)


def _moved(items: pd.DataFrame, lead: float, study: Study) -> pd.DataFrame:
    """The items where CT-then-SFT has half of each task right, and TIES 0.5 + `lead`."""
    rng = np.random.default_rng([study.seed, *study.lang.encode()])
    for method, share in (("ct_then_sft", 0.5), ("ties", 0.5 + lead)):
        for _, own in items[items["method"] == method].groupby(["task", "ct_tokens"]):
            right = rng.permutation(len(own)) < round(share * len(own))
            items.loc[own.index, "correct"] = right
    return items
