"""Scores over several seeds: intervals that hold the noise of seeds too, and what the report shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb import statistics
from lrnb.analysis.comparisons import Right, paired_table, right_answers
from lrnb.analysis.kinds import ordered
from lrnb.analysis.results import headline, means_of, of_the_model
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import SYNTHETIC, Study, budget_name
from lrnb.study.stages import RunPaths

ITEMS = ["method", "ct_tokens", "task", "item", "correct"]


def seeds_table(folders: Iterable[Path]) -> pd.DataFrame:
    """Scores, and SFT's discarded share in percent, over the run folders of several seeds.

    Columns: method, ct_tokens, task, seeds, mean, sd (of a sample, n - 1), min, max, and of scores chance,
    ci_low, ci_high (95%, over seeds and items). Models that not all seeds have get no interval.
    """
    folders = list(folders)
    scores = pd.concat([pd.read_csv(folder / "scores" / "scores.csv") for folder in folders])
    keys = ["method", "ct_tokens", "task"]
    both = pd.concat([scores[[*keys, "value"]], *map(_discarded, folders)])
    table = both.groupby(keys, sort=False)["value"].agg(["count", "mean", "std", "min", "max"]).reset_index()
    table = table.rename(columns={"count": "seeds", "std": "sd"})
    ends, chance = seed_intervals(folders), scores.groupby("task")["chance"].mean()
    return table.merge(ends.assign(chance=ends["task"].map(chance)), how="left")


def _discarded(folder: Path) -> pd.DataFrame:
    """SFT's discarded entries in percent of its kept ones, whole model, at the fixed density."""
    rows = of_the_model(pd.read_csv(folder / "conflicts" / "shares.csv"), "fixed")
    found = rows[["ct_tokens"]].assign(method="ties, density " + rows["density"].astype(str))
    return found.assign(task="sft_discarded_share", value=100 * rows["sft_discarded"] / rows["sft_kept"])


def seed_intervals(folders: Iterable[Path]) -> pd.DataFrame:
    """95% interval (percent) of scores over seeds and items: method, ct_tokens, task, ci_low, ci_high."""
    folders = list(folders)
    return mean_intervals([right_answers(items) for items in _items(folders)], shared=_shared(folders))


def mean_intervals(seeds: Sequence[Right], *, shared: bool) -> pd.DataFrame:
    """`seed_intervals`, from what every model of each run has right; of models that all runs have."""
    rows = []
    for method, tokens in [model for model in seeds[0] if all(model in one for one in seeds)]:
        tasks = seeds[0][method, tokens]
        for task, parts in ({task: [task] for task in tasks} | means_of(tasks)).items():
            answers = [[one[method, tokens][t] for t in parts] for one in seeds]
            low, high = statistics.interval(answers, shared=shared)
            head = {"method": method, "ct_tokens": tokens, "task": task}
            rows.append(head | {"ci_low": 100 * low, "ci_high": 100 * high})
    return pd.DataFrame(rows)


def seed_differences(folders: Iterable[Path], baseline: str = "ct_then_sft") -> pd.DataFrame:
    """Every merge minus `baseline` at the same budget, over the run folders of several seeds."""
    folders = list(folders)
    return paired_table(_items(folders), {baseline: METHODS}, shared=_shared(folders))


def _shared(folders: list[Path]) -> bool:
    """Whether the seeds answer the same items; in the micro-world each has a world of its own."""
    return folders[0].resolve().name not in SYNTHETIC


def _items(folders: Iterable[Path]) -> list[pd.DataFrame]:
    return [pd.read_parquet(folder / "scores" / "items.parquet", columns=ITEMS) for folder in folders]


def seeds_summary(study: Study) -> dict[str, Any] | None:
    """The mean of the tasks over the seeds that were run in this folder (the stored ones: `pool`).

    Read from `<runs>/<preset>/<lang>-seeds.csv`, which `lrnb run --seeds N` writes; the .json beside it holds
    the parameters. None where it is not there.
    `differ`: the names of the parameters that are not this study's, None where they are not recorded.
    """
    path = RunPaths(study.model_copy(update={"seed": 0})).root / f"{study.lang}-seeds.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    rows = table[table["task"] == headline(table)]
    differ = differing(study, path.with_suffix(".json"))
    return seed_cells(rows) | {"live": True, "differ": differ, "own": own_of_a_seed(study)}


def seed_cells(rows: pd.DataFrame) -> dict[str, Any]:
    """Rows of one task, as `seeds_table` has them, as a table: a row a method, a column a budget."""
    budgets = sorted(rows["ct_tokens"].unique())
    cells = {(r["method"], r["ct_tokens"]): r for r in rows.to_dict("records")}
    return {
        "seeds": int(rows["seeds"].max()),
        "budgets": [budget_name(int(b)) + " CT tokens" if b else "no CT" for b in budgets],
        "rows": {m: [cells.get((m, b)) for b in budgets] for m in ordered(rows["method"])},
        "interval": "ci_low" in rows and bool(rows["ci_low"].notna().all()),
        "chance": float(rows["chance"].iloc[0]) if "chance" in rows else None,
    }


def differing(study: Study, path: Path) -> list[str] | None:
    """Parameters in which `study` is not the one stored at `path`, seed and folder aside."""
    if not path.is_file():
        return None
    given = json.loads(path.read_text(encoding="utf-8"))
    here, usual = (
        s.model_dump(mode="json", exclude={"seed", "runs"}) for s in (study, Study.model_validate({}))
    )
    stored = usual | given
    return sorted(key for key in here | stored if here.get(key) != stored.get(key))


def own_of_a_seed(study: Study) -> str:
    """What each seed draws anew, in a sentence."""
    if not study.trains:
        return "All seeds take the same weights; each draws its own items and order of options."
    if study.lang in SYNTHETIC:
        return "Each seed makes its own data, base and training."
    if study.base_source == "scratch":
        return "All seeds read the same files; each draws from them and trains its own base and parents."
    return (
        f"All seeds start from the same base ({study.base_source}) and the same files; each draws its own "
        "order of the text, task examples and test items, and trains anew."
    )
