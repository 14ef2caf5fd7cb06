"""This tree against another one of this project: the same commands in turn, as ratios of paired runs.

    python -m benchmarks.before OLD_TREE [--shape tinyllama] [--rounds 9] [--only ties-tensor ties-sv]
    python -m benchmarks.before OLD_TREE --only evaluate --model DIR --data-root DIR # scoring

Whole processes, the old tree's and this one's side by side in every round, in an order that changes from
round to round, with the same Python and libraries. Seconds, and processor seconds, which other programs
disturb less. Merges that only this tree has are paired with its own task arithmetic. Inputs are read into the
page cache before, outputs deleted after each run. Writes results/<date>-before.json and .md.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.atlas import commands, write
from benchmarks.checkpoints import SHAPES, bench_dir, generate
from benchmarks.merge import OURS, RESULTS, ROOT, Place, now, our_command
from lrnb.errors import UserError

ALONE = {"slerp": ["slerp", "--t", "0.5"], "nuslerp": ["nuslerp", "--t", "0.5"]}
LIMITS = {name: 0.8 if name.startswith("ties") else 1.05 for name in OURS} | dict.fromkeys(ALONE, 1.5)
PYTHON = [sys.executable, "-m", "lrnb"]


def jobs(place: Place) -> dict[str, list[str]]:
    """name -> a command that both trees know."""
    found = {name: our_command(arguments, place) for name, arguments in OURS.items()}
    found["atlas"] = commands(place)["atlas"]
    found["playground"] = [sys.executable, "-m", "benchmarks.playground", "--shape", "small"]
    found["merge --help"] = [*PYTHON, "merge", "--help"]
    found["--help"] = [*PYTHON, "--help"]
    found["import lrnb"] = [sys.executable, "-c", "import lrnb"]
    return found


def scoring(model: Path, root: Path) -> list[str]:
    """A command that both trees know: a model's score on the English topics."""
    asked = ["--tasks", "topic_en", "--lang", "en", "--data-root", str(root), "--limit", "40"]
    return [*PYTHON, "evaluate", str(model), *asked, "--device", "cpu"]


def timed(command: list[str], tree: Path, place: Place) -> dict[str, float]:
    """Seconds and processor seconds of one command run with the package in `tree`."""
    measure.remove(place.out)
    measure.warm(place.files())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = measure.run_whole(command, measure.variables(tree), tree)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    measure.remove(place.out)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": done.seconds, "cpu_seconds": worked, "peak_anon_bytes": done.peak_anon_bytes}


def pairs(
    old: Path, place: Place, more: Mapping[str, list[str]]
) -> dict[str, tuple[tuple[list[str], Path], tuple[list[str], Path]]]:
    """name -> (what it is compared with, what is measured), each a command and a tree."""
    known = jobs(place)
    found = {name: ((command, old), (command, ROOT)) for name, command in {**known, **more}.items()}
    usual = (known["task-arithmetic"], ROOT)
    return found | {name: (usual, (our_command(given, place), ROOT)) for name, given in ALONE.items()}


def run_pairs(
    asked: Mapping[str, tuple[tuple[list[str], Path], tuple[list[str], Path]]],
    place: Place, rounds: int, rest: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every pair once a round; the first of the two changes from round to round."""
    runs = []
    for number in range(1, rounds + 1):
        for name, (reference, own) in asked.items():
            found: dict[str, Any] = {"round": number, "job": name}
            sides = [("before", reference), ("after", own)]
            for side, (command, tree) in sides if number % 2 else sides[::-1]:
                time.sleep(rest)
                found[side] = {k: round(v, 4) for k, v in timed(command, tree, place).items()}
            runs.append(found)
            print(found, file=sys.stderr, flush=True)
    return runs


def asked_of(only: list[str] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """The jobs that are named, all where none is. UserError for one that there is not."""
    if unknown := set(only or ()) - known.keys():
        raise UserError(f"--only {' '.join(unknown)}: give of {', '.join(known)}; evaluate needs --model")
    return {name: pair for name, pair in known.items() if not only or name in only}


def ratios(runs: list[dict[str, Any]], what: str) -> dict[str, list[float]]:
    """job -> after / before of every round, sorted."""
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run["job"], []).append(run["after"][what] / run["before"][what])
    return {name: sorted(values) for name, values in found.items()}


def markdown(result: Mapping[str, Any]) -> str:
    """The table."""
    runs, machine = result["runs"], result["machine"]
    lines = [
        f"# After against before, {result['started'][:10]}",
        "",
        f"{machine['processor']}, {machine['cores']} cores; shape {result['shape']}; before: "
        f"{result['before'][:10]}, after: {result['commit'][:10]}; {result['rounds']} paired rounds. "
        "Medians; ratios after/before with their smallest and largest. "
        "slerp and NuSlerp: against task arithmetic.",
    ]
    heads = ("command", "before, s", "after, s", "ratio", "processor before, s", "after, s", "ratio", "goal")
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in dict.fromkeys(run["job"] for run in runs):
        own, cells = [run for run in runs if run["job"] == name], [name]
        for what in ("seconds", "cpu_seconds"):
            cells += [f"{median(run[side][what] for run in own):.2f}" for side in ("before", "after")]
            found = ratios(own, what)[name]
            cells.append(f"{median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})")
        lines.append(f"| {' | '.join([*cells, f'at most {LIMITS.get(name, 1.05):g}'])} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command: see `measure.status`."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.before", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("old", type=Path, help="another checkout of this project")
    add("--shape", choices=SHAPES, default="tinyllama")
    add("--rounds", type=int, default=9)
    add("--rest", type=float, default=2.0, help="seconds of rest before each run (default 2)")
    add("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    add("--only", nargs="+", metavar="JOB", help="these alone (default all)")
    add("--model", type=Path, help="of job evaluate: a model folder")
    add("--data-root", type=Path, help="of job evaluate: a folder with eval/topic/en")
    add("--results", type=Path, default=RESULTS)
    return measure.status(bench, top.parse_args(arguments))


def bench(given: argparse.Namespace) -> None:
    """Compile once in both trees on the pico checkpoint, then measure, write the result, print the table."""
    root, old = bench_dir(given.dir).absolute(), given.old.absolute()
    more = {"evaluate": scoring(given.model.absolute(), given.data_root.absolute())} if given.model else {}
    small = Place(generate("pico", root), root / "pico")
    run_pairs(asked_of(given.only, pairs(old, small, more)), small, 1, 0)
    place = Place(generate(given.shape, root), root / given.shape)
    result: dict[str, Any] = {"schema": 1, "started": now(), "shape": given.shape, "rounds": given.rounds}
    result |= {"machine": measure.machine(), "versions": measure.versions()}
    result |= {"commit": measure.commit(ROOT), "before": measure.commit(old)}
    result["runs"] = run_pairs(asked_of(given.only, pairs(old, place, more)), place, given.rounds, given.rest)
    write(result, given.results, "before", markdown(result))


if __name__ == "__main__":
    sys.exit(main())
