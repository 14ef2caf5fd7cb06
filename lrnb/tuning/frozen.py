"""Hyper-parameters tuned once, frozen for others: what several runs choose together, as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lrnb.errors import UserError
from lrnb.study.files import write_text
from lrnb.study.parameters import Study
from lrnb.study.run_folder import study_of
from lrnb.study.stages import RunPaths
from lrnb.tuning.on_dev import mark_chosen, read_choices
from lrnb.tuning.search import searched
from lrnb.tuning.sft_on_dev import OPTIONS, read_sft_choices


def write_frozen(runs: Sequence[Path], out: Path) -> str:
    """Write what the run folders choose together, as YAML for `--set @FILE`; returns it. Errors: `frozen`."""
    found = frozen([study_of(folder) for folder in runs])
    head = f"# chosen on dev, mean over {', '.join(folder.as_posix() for folder in runs)}\n"
    text = head + yaml.safe_dump(found, sort_keys=False, default_flow_style=None)
    write_text(out, text)
    return text


def frozen(studies: Sequence[Study]) -> dict[str, Any]:
    """`search` and `sft_search` with one candidate an arm: the best on dev, mean over runs and CT budgets.

    studies: finished runs that tried the same; of an arm that did not, the best that all tried. UserError
    where the runs have other methods, or an arm no candidate in common.
    """
    first = studies[0]
    if other := next((s for s in studies if set(s.methods) != set(first.methods)), None):
        raise UserError(
            f"{RunPaths(other).lang}: its methods are {', '.join(other.methods)}, and those of "
            f"{RunPaths(first).lang} {', '.join(first.methods)}: give runs of the same methods"
        )
    merges = {m: _best([read_choices(RunPaths(s), m) for s in studies], searched(first, m), m)
              for m in first.methods}  # fmt: skip
    trained = {arm: _best(tables, OPTIONS, arm) for arm, tables in _sft_tables(studies).items() if tables}
    return {"search": merges, "sft_search": trained}


def _sft_tables(studies: Sequence[Study]) -> dict[str, list[pd.DataFrame]]:
    """choices.csv of every SFT stage by arm; languages of one seed share SFT-en, which counts once."""
    paths = [RunPaths(study) for study in studies]
    tuned = [own.ct_then_sft(budget) for own in paths for budget in own.study.ct_budgets]
    folders: dict[str, Iterable[Path]] = {
        "sft": dict.fromkeys(own.sft for own in paths),
        "ct_then_sft": tuned,
    }
    read = {arm: [read_sft_choices(folder) for folder in own] for arm, own in folders.items()}
    return {arm: [table for table in tables if table is not None] for arm, tables in read.items()}


def _best(tables: Sequence[pd.DataFrame], options: list[str], arm: str) -> dict[str, list[Any]]:
    """Each option with its one value; {} where nothing is searched."""
    if not options:
        return {}
    parts = [part for table in tables for _, part in _by_budget(table)]
    means = pd.concat(parts).groupby(options, sort=False)["dev_score"].agg(["mean", "size"]).reset_index()
    common = means[means["size"] == len(parts)].rename(columns={"mean": "dev_score"})
    if common.empty:
        raise UserError(f"{arm}: the runs have no candidate in common; run them with the same search")
    alone = common.fillna({"dev_score": 0.0})  # a single candidate is not scored
    row = mark_chosen(alone, options).query("chosen").iloc[0]
    return {name: [row[name].item() if hasattr(row[name], "item") else row[name]] for name in options}


def _by_budget(table: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return table.groupby("ct_tokens") if "ct_tokens" in table else [(0, table)]
