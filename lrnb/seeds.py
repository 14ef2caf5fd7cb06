"""Scores over several seeds, as the report shows them: the mean of the tasks, and whose runs they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.params import ROOT, SYNTHETIC, Study, budget_name
from lrnb.store import RunPaths
from lrnb.style import METHODS
from lrnb.summary import MEAN


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
