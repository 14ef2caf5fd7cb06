"""What the intervals over seeds keep, by simulation: type-1 error, coverage, power, width.

    python -m benchmarks.intervals [--simulations 4000] [--languages] [--json PATH]

Two arms answer the items of one or four tasks (400; or 400, 200, 100 and 50) with a true rate of 25 or 90%.
An item is easier or harder for an arm on every seed (stability: the share of an answer's variance that is the
item's own and the same for all seeds), and a seed is better or worse on all items (seed sd, in points). The
items are those of all seeds (shared) or each seed's own. Printed for the difference of the arms:
type-1 (a true null rejected at 5%; goal at most 6, judged by the lower end of its 99.9% binomial interval),
power (for a difference of 5 points), width (over that of an oracle that knows the variances); and for one
arm's score: coverage of the 95% interval (goal at least 94, by the upper end). Each setting draws anew from
its own seed, so that the numbers repeat.

--languages: instead the mean over 2 to 7 languages of a difference whose truth is zero on average, but
differs by language, by seed (base and SFT-en, which the languages of a seed have in common) and by both (sds
in points; two tasks of 200 items each, own or shared by seeds). Printed are type-1 and width. With one seed
only settings without an effect of seeds are there: no interval from one seed can hold that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks import measure
from benchmarks.merge import now
from lrnb import statistics

TASKS = {1: (400,), 4: (400, 200, 100, 50)}
GAIN = 0.05  # the difference of which the power is told


class Setting(NamedTuple):
    """One line of the table; stability and rate are shares, seed_sd is in points."""

    seeds: int
    shared: bool
    stability: float
    seed_sd: float
    tasks: int
    rate: float


def settings() -> Iterator[Setting]:
    """Every setting there is."""
    axes = ((2, 3, 4, 8, 16), (True, False), (0.0, 0.3, 0.8), (0.0, 2.0, 4.0, 8.0), (1, 4), (0.25, 0.9))
    return (Setting(*values) for values in product(*axes))


def drawn(given: Setting, rate: float, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Answers of one arm: per seed one array of 0 and 1 per task, each right with probability `rate`."""
    rates = _beta(rate, (given.seed_sd / 100) ** 2, given.seeds, rng)
    found: list[list[np.ndarray]] = [[] for _ in rates]
    for size in TASKS[given.tasks]:
        variance, own = given.stability * rate * (1 - rate), (1 if given.shared else given.seeds, size)
        items = np.broadcast_to(_beta(rate, variance, own, rng), (given.seeds, size))
        for answers, row, seed in zip(found, items, rates, strict=True):
            answers.append((rng.random(size) < _moved(row, rate, seed)) * 1.0)
    return found


def _beta(mean: float, variance: float, size: Any, rng: np.random.Generator) -> np.ndarray:
    """Numbers between 0 and 1 with this mean and variance."""
    if not variance:
        return np.full(size, mean)
    both = mean * (1 - mean) / variance - 1
    return rng.beta(mean * both, (1 - mean) * both, size)


def _moved(items: np.ndarray, mean: float, to: float) -> np.ndarray:
    """The items' rates, of mean `mean`, moved within 0 and 1 so that their mean is `to`."""
    return items * to / mean if to <= mean else 1 - (1 - items) * (1 - to) / (1 - mean)


def simulated(given: Setting, simulations: int) -> dict[str, Any]:
    """One line of the table: shares in percent, the width as a ratio."""
    rng = np.random.default_rng([int(100 * x) for x in given])
    null, gain, covered = [], [], 0
    for _ in range(simulations):
        one, other = (drawn(given, given.rate, rng) for _ in range(2))
        better = drawn(given, given.rate + GAIN, rng)
        null.append(_difference(one, other, given.shared))
        gain.append(_difference(better, other, given.shared))
        low, high = statistics.interval(one, shared=given.shared)
        covered += low <= given.rate <= high
    oracle = 2 * stats.norm.ppf(0.975) * np.std([x.value for x in null])
    return given._asdict() | {
        "type_1": 100 * float(np.mean([x.p < 0.05 for x in null])),
        "coverage": 100 * covered / simulations,
        "power": 100 * float(np.mean([x.p < 0.05 for x in gain])),
        "width": float(np.mean([x.ci_high - x.ci_low for x in null]) / oracle),
    }


def _difference(one: list[list[np.ndarray]], other: list[list[np.ndarray]], shared: bool) -> Any:
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(one, other, strict=True)]
    return statistics.paired_difference(pairs, shared=shared)


class Crossed(NamedTuple):
    """One line of the table over languages; sds in points."""

    languages: int
    seeds: int
    shared: bool
    language_sd: float
    seed_sd: float
    both_sd: float


def crossed_settings() -> Iterator[Crossed]:
    """Every setting over languages there is; one seed without effects of seeds."""
    axes = ((2, 3, 4, 7), (1, 2, 3, 8), (True, False), (0.0, 3.0), (0.0, 1.0, 3.0), (0.0, 3.0))
    every = (Crossed(*values) for values in product(*axes))
    return (one for one in every if one.seeds > 1 or not one.seed_sd)


def crossed_drawn(given: Crossed, rng: np.random.Generator) -> list[list[list[np.ndarray]]]:
    """Differences of two arms by item: per language and seed one array a task, of -1, 0 and 1."""
    shape, (own, seed, both) = (given.languages, given.seeds), np.array(given[3:]) / 100
    truth = rng.normal(0, own, (given.languages, 1)) + rng.normal(0, seed, given.seeds)
    truth = truth + rng.normal(0, both, shape)
    easy = rng.normal(0, 0.2, (given.languages, 1 if given.shared else given.seeds, 2, 200))
    rate = np.broadcast_to(truth[..., None, None] + easy, (*shape, 2, 200)).clip(-0.6, 0.6)
    drawn_items = (rng.random(rate.shape) < 0.3 + rate / 2) * 1.0 - (rng.random(rate.shape) < 0.3 - rate / 2)
    return [[[*tasks] for tasks in seeds] for seeds in drawn_items]


def simulated_crossed(given: Crossed, simulations: int) -> dict[str, Any]:
    """One line of the table over languages: share in percent, the width as a ratio."""
    rng = np.random.default_rng([int(100 * x) for x in given])
    null = [
        statistics.over_languages(crossed_drawn(given, rng), shared=given.shared) for _ in range(simulations)
    ]
    oracle = 2 * stats.norm.ppf(0.975) * np.std([x.value for x in null])
    return given._asdict() | {
        "type_1": 100 * float(np.mean([x.p < 0.05 for x in null])),
        "width": float(np.mean([x.ci_high - x.ci_low for x in null]) / oracle),
    }


def misses(row: dict[str, Any], simulations: int) -> list[str]:
    """The goals that a line misses beyond what chance does to so many simulations."""
    found = []
    goals = (("type_1", 6, 0), ("coverage", 94, 1))
    for name, goal, end in (goal for goal in goals if goal[0] in row):
        hits = round(row[name] / 100 * simulations)
        bound = 100 * stats.binomtest(hits, simulations).proportion_ci(0.999)[end]
        if (bound > goal) if end == 0 else (bound < goal):
            found.append(name)
    return found


def line(row: dict[str, Any]) -> str:
    """One line as text."""
    items = "shared" if row["shared"] else "own"
    if "languages" in row:
        where = f"{row['languages']} languages  {row['seeds']} seeds  {items:6}  sd of languages "
        where += f"{row['language_sd']:g}, seeds {row['seed_sd']:g}, both {row['both_sd']:g}"
        told = f"type 1 {row['type_1']:4.1f}  width {row['width']:.2f}  {' '.join(row['misses'])}"
        return f"{where}   {told}".rstrip()
    where = f"{row['seeds']:2} seeds  {items:6}  stability {row['stability']:.1f}  sd {row['seed_sd']:g}  "
    where += f"{row['tasks']} tasks  {100 * row['rate']:.0f}%"
    told = f"type 1 {row['type_1']:4.1f}  coverage {row['coverage']:5.1f}  power {row['power']:5.1f}  "
    return f"{where}   {told}width {row['width']:.2f}  {' '.join(row['misses'])}".rstrip()


def bench(given: argparse.Namespace) -> None:
    """Every setting, printed as it is done; the rows as JSON at the end."""
    rows: list[dict[str, Any]] = []
    every = crossed_settings() if given.languages else settings()
    for setting in every:
        if isinstance(setting, Crossed):
            row = simulated_crossed(setting, given.simulations)
        else:
            row = simulated(setting, given.simulations)
        rows.append(row | {"misses": misses(row, given.simulations)})
        print(line(rows[-1]), flush=True)
    missed = sum(bool(row["misses"]) for row in rows)
    print(f"{len(rows)} settings, {given.simulations} simulations each; {missed} miss a goal")
    if given.json:
        result = {"schema": 1, "finished": now(), "simulations": given.simulations, "rows": rows}
        result |= {"versions": measure.versions(), "commit": measure.commit(Path(__file__).parent)}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command: see `measure.status`."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__.splitlines()[0])
    top.add_argument("--simulations", type=int, default=4000, help="of each setting (default 4000)")
    top.add_argument("--languages", action="store_true", help="the mean over languages instead")
    top.add_argument("--json", type=Path, help="write the rows there as well")
    return measure.status(bench, top.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
