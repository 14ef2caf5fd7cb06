"""Nano at four sizes of model, a pool a size: `python -m lrnb.cli.sizes plan | rates | run`.

plan: what each size takes on this machine, foretold. rates: learning rates of base and CT for each size,
chosen on seeds of 100 and above by CT's bits per byte in X, into rates.json. run: the study at each size
with them. World, tokens and steps are the same at all sizes. Both go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrnb.analysis.pool import read_pool
from lrnb.analysis.sizes import best_rate
from lrnb.cli import main as command_line
from lrnb.errors import UserError
from lrnb.merging.methods import METHODS
from lrnb.pipeline import estimate, speed
from lrnb.pipeline.steps import plan
from lrnb.study.files import write_text
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.recipe import pool_file

#: name -> width and layers of the base; heads stay 4
SIZES: dict[str, dict[str, int]] = {
    "0.2M": {"base_width": 80, "base_layers": 2},
    "0.65M": {"base_width": 128, "base_layers": 3},
    "1.5M": {"base_width": 200, "base_layers": 3},
    "3M": {"base_width": 248, "base_layers": 4},
}
FACTORS = (0.5, 1.0, 2.0)  # on the rates that are foretold
RATE_SEEDS, SEEDS = "100-101", "0-3"
LANGUAGE = ROOT / "params" / "qaa.yaml"
HOME = ROOT / "docs" / "results" / "sizes"
#: what choosing a rate leaves out, which it does not need; one method, since a study has some
QUICK: dict[str, Any] = {
    "methods": [next(iter(METHODS))],
    "alphas": [0.5],
    "tuning_trials": 1,
    "test_limit": 20,
}
Run = Callable[[list[str]], int]


def options_of(size: str, factor: float = 1.0) -> dict[str, float]:
    """The parameters that make a size: width, layers, and rates of base and CT in inverse proportion to the
    width (Yang et al. 2022, arXiv 2203.03466), times a factor. UserError for a size that is not there.
    """
    if size not in SIZES:
        raise UserError(f"size {size!r}: give one of {', '.join(SIZES)}")
    usual = load_study(LANGUAGE, "nano")
    by_width = factor * usual.base_width / SIZES[size]["base_width"]
    rates = {name: getattr(usual, name) * by_width for name in ("base_lr", "ct_lr")}
    return {**SIZES[size], **{name: float(f"{rate:.3g}") for name, rate in rates.items()}}


def study_of_size(size: str) -> Study:
    return load_study(LANGUAGE, "nano", options_of(size))


def needs_of_sizes(flops: float) -> list[dict[str, Any]]:
    """A row a size: parameters, minutes on a core of `flops` operations a second, MB on disk, of states."""
    rows = []
    for size in SIZES:
        study = study_of_size(size)
        n = estimate.parameters(study)
        rows.append({
            "size": size, "parameters": n, "minutes": 60 * estimate.hours([study], flops),
            "disk_mb": estimate.disk_bytes(study, plan(study).values()) / 1e6,
            "states_mb": 16 * n / 1e6,  # weights, gradients and two moments; activations come on top
        })  # fmt: skip
    return rows


def command_of(
    size: str, factor: float, seeds: str, folder: Path, runs: Path, more: Mapping[str, Any]
) -> list[str]:
    """The words of `lrnb run` of a size into a pool."""
    given = {**options_of(size, factor), **more, "runs": str(runs)}
    words = ["run", str(LANGUAGE), "--preset", "nano", "--seeds", seeds, "--pool", str(folder)]
    return words + [word for key, value in given.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def choose_rates(home: Path, runs: Path, run: Run = command_line.main) -> dict[str, float]:
    """Size -> its factor on the rates, written to `home`/rates.json; what the runs made is in `runs`."""
    chosen = {}
    for size in SIZES:
        pools = {}
        for factor in FACTORS:
            folder = runs / "rates" / f"{size}-x{factor:g}"
            _checked(run, command_of(size, factor, RATE_SEEDS, folder, folder / "runs", QUICK))
            pools[factor] = read_pool(pool_file(folder, study_of_size(size)))
        chosen[size] = best_rate(pools, "qaa")
    write_text(home / "rates.json", json.dumps(chosen, indent=1) + "\n")
    return chosen


def run_sizes(home: Path, runs: Path, seeds: str = SEEDS, run: Run = command_line.main) -> None:
    """The study at every size with its chosen rates, a pool a size in `home`. UserError without rates."""
    path = home / "rates.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: choose the learning rates first, `make size-rates`")
    for size, factor in json.loads(path.read_text(encoding="utf-8")).items():
        _checked(run, command_of(size, factor, seeds, home / size, runs / size, {}))


def _checked(run: Run, words: list[str]) -> None:
    if status := run(words):
        raise UserError(f"lrnb {' '.join(words)}: ended with status {status}; the same command goes on there")


def _show_foretold() -> None:
    for row in needs_of_sizes(speed.training_flops("cpu")):
        told = f"{row['parameters']:,} parameters, about {row['minutes']:.0f} minutes a seed on one core"
        print(
            f"{row['size']:>6}: {told}, {row['disk_mb']:,.0f} MB on disk, {row['states_mb']:.0f} MB of states"
        )


def size_command(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lrnb.cli.sizes", description=__doc__)
    parser.add_argument("what", choices=("plan", "rates", "run"))
    parser.add_argument("--seeds", default=SEEDS)
    given = parser.parse_args(arguments)
    runs = ROOT / "runs" / "sizes"
    if given.what == "plan":
        _show_foretold()
    elif given.what == "rates":
        print(choose_rates(HOME, runs))
    else:
        run_sizes(HOME, runs, given.seeds)


if __name__ == "__main__":
    size_command()
