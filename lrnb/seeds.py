"""Scores over several seeds: intervals that hold the noise of seeds too, and what the report shows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import stats
from lrnb.params import ROOT, SYNTHETIC, Study, budget_name
from lrnb.store import RunPaths
from lrnb.style import MERGED, METHODS
from lrnb.summary import MEAN, MEAN_EN, belongs, kinds

Right = dict[tuple[str, int], dict[str, pd.Series]]  # (method, ct_tokens) -> task -> right, by item


def _right(folders: Iterable[Path]) -> list[Right]:
    """What every model of every seed has right."""
    columns = ["method", "ct_tokens", "task", "item", "correct"]
    found: list[Right] = []
    for folder in folders:
        items = pd.read_parquet(folder / "scores" / "items.parquet", columns=columns)
        one: Right = {}
        for (method, tokens, task), part in items.groupby(columns[:3], sort=False):
            right = part.set_index("item")["correct"].sort_index().astype(float)
            one.setdefault((str(method), int(tokens)), {})[str(task)] = right
        found.append(one)
    return found


def _tasks(right: dict[str, Any]) -> dict[str, list[str]]:
    """Means and single tasks: name -> the tasks it is made of; a mean needs two."""
    found = {mean: [t for t in right if belongs(t, mean)] for mean in (MEAN, MEAN_EN)}
    return {k: v for k, v in found.items() if len(v) > 1} | {t: [t] for t in right}


def intervals(folders: Iterable[Path]) -> pd.DataFrame:
    """95% interval over seeds and items of every score (percent), with the chance level.

    folders: run folders, one a seed. Columns: method, ct_tokens, task, ci_low, ci_high, chance.
    Models that not all seeds have are left out.
    """
    folders = list(folders)
    seeds, rows = _right(folders), []
    chance = pd.concat([pd.read_csv(f / "scores" / "scores.csv") for f in folders])
    level = chance.groupby("task")["chance"].mean()
    for method, tokens in [key for key in seeds[0] if all(key in one for one in seeds)]:
        for task, parts in _tasks(seeds[0][method, tokens]).items():
            samples = [[one[method, tokens][t] for t in parts] for one in seeds]
            low, high = stats.hierarchical_interval(samples)
            head = {"method": method, "ct_tokens": tokens, "task": task, "chance": level.get(task)}
            rows.append(head | {"ci_low": 100 * low, "ci_high": 100 * high})
    return pd.DataFrame(rows)


def differences(folders: Iterable[Path], baseline: str = "ct_then_sft") -> pd.DataFrame:
    """Every merge minus `baseline` at the same budget over seeds, on the same items, in points.

    Columns: method, ct_tokens, task, difference, ci_low, ci_high (over seeds and items), p (t test,
    one value per seed), p_holm (over the comparisons of one kind, as in `summary.compare`), seeds.
    """
    seeds, rows = _right(folders), []
    for method, tokens in [key for key in seeds[0] if key[0] in MERGED]:
        pair = (method, tokens), (baseline, tokens)
        if not all(key in one for key in pair for one in seeds):
            continue
        for task, parts in _tasks(seeds[0][pair[0]]).items():
            deltas = [[one[pair[0]][t] - one[pair[1]][t] for t in parts] for one in seeds]
            head = {"method": method, "ct_tokens": tokens, "task": task}
            rows.append(head | _difference(deltas))
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    p = table.groupby(kinds(table["task"]), sort=False)["p"]
    return table.assign(p_holm=p.transform(lambda own: stats.holm(own.to_numpy())))


def _difference(deltas: list[list[pd.Series]]) -> dict[str, Any]:
    means = [float(np.mean([delta.mean() for delta in tasks])) for tasks in deltas]
    low, high = stats.hierarchical_interval(deltas, least=-1.0)
    found = {"difference": 100 * float(np.mean(means)), "ci_low": 100 * low, "ci_high": 100 * high}
    return found | {"p": stats.seeds_p(means), "seeds": len(means)}


def over_seeds(study: Study) -> dict[str, Any] | None:
    """The mean of the tasks over several seeds: of these runs if there are any, else as stored.

    Read from `<runs>/<preset>/<lang>-seeds.csv`, which `lrnb run --seeds N` writes, or from
    docs/seeds/<preset>-<lang>.csv; the .json beside it holds the parameters. None where neither is.
    `differ`: the names of the parameters that are not this study's, None where they are not recorded.
    """
    home = RunPaths(study.model_copy(update={"seed": 0})).root
    live, stored = home / f"{study.lang}-seeds.csv", ROOT / "docs" / "seeds"
    path = live if live.is_file() else stored / f"{study.preset}-{study.lang}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    rows = table[table["task"] == (MEAN if MEAN in set(table["task"]) else table["task"].iloc[0])]
    budgets = sorted(rows["ct_tokens"].unique())
    cells = {(r["method"], r["ct_tokens"]): r for r in rows.to_dict("records")}
    return {
        "live": path == live,
        "seeds": int(rows["seeds"].max()),
        "budgets": [budget_name(int(b)) + " CT tokens" if b else "no CT" for b in budgets],
        "rows": {m: [cells.get((m, b)) for b in budgets] for m in METHODS if m in set(rows["method"])},
        "interval": "ci_low" in rows and bool(rows["ci_low"].notna().all()),
        "chance": float(rows["chance"].iloc[0]) if "chance" in rows else None,
        "differ": differing(study, path.with_suffix(".json")),
        "own": own_of_a_seed(study),
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
