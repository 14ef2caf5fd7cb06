"""Several languages from their pools: `languages.Languages`, without a run folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lrnb.analysis import pool, pool_answers, results
from lrnb.analysis.languages import Languages, Run
from lrnb.analysis.pool_lines import BASELINE, Line, arm_name, headline_lines, right_of
from lrnb.analysis.seeds import mean_intervals
from lrnb.study.parameters import Study
from lrnb.study.recipe import with_defaults

KEYS = ["method", "ct_tokens", "task"]


def languages_of_pools(files: Iterable[Path]) -> Languages:
    """The runs of every language by seed, from one pool a language. UserError where one cannot be read."""
    lines = [headline_lines(pool.read_pool(path)) for path in files]
    pools = {own[0]["parameters"]["lang"]: own for own in lines if own}
    return {lang: {line["seed"]: run_of_line(line) for line in own} for lang, own in pools.items()}


def run_of_line(line: Line) -> Run:
    """A run as a pool keeps it."""
    arms = [name.partition("@")[0] for name in line["items"]]
    names = (BASELINE,) if BASELINE in arms else ("sft", "base")
    given = with_defaults(line["parameters"]) | {"seed": line["seed"], "search": line["search"]}
    study = Study.model_construct(**given | {"methods": [*line["search"]]})  # it was checked when it ran
    bits = line["bits"][arm_name("base", 0)].get(study.lang, float("nan"))
    shares = pd.DataFrame.from_dict(line["shares"], orient="index").rename_axis("ct_tokens").reset_index()
    return Run(study, _scores_of(line), right_of(line), names, bits, shares.astype({"ct_tokens": int}))


def _scores_of(line: Line) -> pd.DataFrame:
    """The columns of scores.csv that are told of languages; intervals of the items."""
    values = pool_answers.seed_values([line])
    table = values.merge(mean_intervals([right_of(line)], shared=False), on=KEYS)
    chance, majority = pool_answers.chance_levels([line]), line.get("majority", {})
    means = results.means_of(line["n"])
    levels = majority | {
        mean: sum(max(chance[task], majority.get(task, 0.0)) for task in tasks) / len(tasks)
        for mean, tasks in means.items() if majority.keys() & set(tasks)
    }  # fmt: skip
    families = line.get("family", {}) | dict.fromkeys(means, results.MEAN)
    known = {"chance": chance, "majority": levels, "family": families}
    return table.assign(**{name: table["task"].map(own) for name, own in known.items()})
