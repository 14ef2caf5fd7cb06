"""Whether preset nano is an instrument: criteria that its sizes, rates and steps were chosen by.

    lrnb run params/qaa.yaml --preset nano --seeds 100-103 --set runs=TRIAL
    python -m benchmarks.world TRIAL

Written down before the trials that chose them. None compares merging with CT-then-SFT. Trials take seeds
100 and above, results seeds 0 to 63. Over the seeds of TRIAL, with the intervals of docs/statistics.md:

1. English is solved: SFT-en is above chance in every family, in the sums by 20 points or more.
2. CT learns: bits per byte of held-out text in X fall from each budget to the next, for every seed.
3. Items inform: at the largest budget some arm is above chance in X in every family; nothing is above 95 in X
   at the smallest budget.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lrnb.analysis import seeds

CHANCE, SUMS_ABOVE, TOO_GOOD = 25.0, 20.0, 95.0  # percent, points, percent


class Criterion(tuple[str, bool, str]):
    """(what is asked, whether it holds, what was measured)."""


def english_is_solved(table: pd.DataFrame) -> Iterator[Criterion]:
    """SFT-en in English, a criterion a task."""
    own = table[(table["method"] == "sft") & table["task"].str.startswith("world_")]
    for row in own[own["task"].str.endswith("_en")].itertuples():
        asked = SUMS_ABOVE if "sums" in row.task else 0.0
        holds = row.ci_low > CHANCE and row.mean >= CHANCE + asked
        yield Criterion((f"SFT-en, {row.task}: above {CHANCE + asked:g}", holds, _shown(row)))


def ct_learns(folders: list[Path]) -> Iterator[Criterion]:
    """Bits per byte of X while training, from the base to the last budget."""
    for folder in folders:
        history = pd.read_csv(folder / "ct" / "history.csv").dropna(subset=["bits_per_byte_x"])
        bits = history["bits_per_byte_x"].tolist()
        shown = ", ".join(f"{value:.3f}" for value in bits)
        yield Criterion((f"CT of {folder.parent.name}: falls", bits == sorted(bits, reverse=True), shown))


def items_inform(table: pd.DataFrame) -> Iterator[Criterion]:
    """X at the largest and at the smallest budget; no arm is named, so that none can be preferred."""
    own = table[table["task"].str.fullmatch("world_[a-z]+") & (table["ct_tokens"] > 0)]
    first, last = (own[own["ct_tokens"] == budget] for budget in (own.ct_tokens.min(), own.ct_tokens.max()))
    for task, rows in last.groupby("task"):
        best = rows["ci_low"].max()
        yield Criterion((f"some arm, {task}: above chance", best > CHANCE, f"lower end {best:.1f}"))
    top = first["mean"].max()
    yield Criterion((f"smallest budget: nothing above {TOO_GOOD:g}", top <= TOO_GOOD, f"largest {top:.1f}"))


def _shown(row: object) -> str:
    return f"{row.mean:.1f} ({row.ci_low:.1f} to {row.ci_high:.1f})"  # type: ignore[attr-defined]


def main(arguments: list[str] | None = None) -> int:
    """Print the criteria with what was measured; 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the runs of preset nano, several seeds")
    folders = sorted(parser.parse_args(arguments).runs.glob("nano*/qaa"))
    table = seeds.seeds_table(folders)
    found = [*english_is_solved(table), *ct_learns(folders), *items_inform(table)]
    for asked, holds, measured in found:
        print(f"{'holds' if holds else 'FAILS':<6} {asked:<48} {measured}")
    return int(not all(holds for _, holds, _ in found))


if __name__ == "__main__":
    sys.exit(main())
