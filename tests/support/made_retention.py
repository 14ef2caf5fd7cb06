"""Made scores against made shares of SFT's entries kept: test input. None of it was measured."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from support.made_run import manifest

from lrnb.analysis import retention
from lrnb.analysis.retention import Retention
from lrnb.analysis.retention_merges import ABLATION, EVERYTHING, GRID, Retained, elected_options

LEVEL = 0.2  # right without any of SFT's entries


def made_retention(slopes: dict[str, float], seed: int = 0, n: int = 400) -> Retention:
    """A run of which the score of a task is LEVEL plus its slope times the share of SFT's entries kept."""
    rng, rows, right = np.random.default_rng(seed), [], {}
    for density, (weight, push) in product((0.2, 0.5, 0.8), ((0.5, -0.1), (1.0, 0.0), (2.0, 0.1))):
        options = {"density": density, "slack": 0.0, "weight": weight, "lam": 1.0}
        row = {"merge": Retained(GRID, "ties_sv", elected_options(options)).name, "kind": GRID}
        row |= {"method": "ties_sv", "left_out": "", "on_dev": False, "ct_tokens": 2048} | options
        rows.append(row | {"sft_share": density + push, "ct_share": density - push})
    gone = {"merge": "gone", "kind": ABLATION, "left_out": EVERYTHING, "sft_share": 0.0}
    rows += [rows[4] | gone, rows[4] | gone | {"merge": "no q", "left_out": "module q", "sft_share": 0.4}]
    for row in rows:
        levels = {task: LEVEL + slope * row["sft_share"] for task, slope in slopes.items()}
        right[row["merge"]] = {t: pd.Series((rng.random(n) < p).astype(float)) for t, p in levels.items()}
    return Retention(pd.DataFrame(rows), dict.fromkeys(slopes, 100 * LEVEL), right)


def write_made_retention(folder: Path) -> None:
    """What the stage writes."""
    manifest(folder)
    run = made_retention({"flat": 0.0, "steep": 0.6}, n=60)
    run.merges.to_csv(folder / "merges.csv", index=False)
    chance = pd.Series(dict(run.chance), name="chance")
    chance.rename_axis("task").to_csv(folder / "chance.csv")
    rows = [
        pd.DataFrame({"method": merge, "ct_tokens": 2048, "task": task, "item": x.index, "correct": x})
        for merge, tasks in run.right.items()
        for task, x in tasks.items()
    ]
    pd.concat(rows).to_parquet(folder / "items.parquet", index=False)
    tables = {"points": retention.retention_points(run), "slopes": retention.retention_slopes([run])}
    for name, table in (tables | {"losses": retention.ablation_losses([run])}).items():
        table.to_csv(folder / f"{name}.csv", index=False)
