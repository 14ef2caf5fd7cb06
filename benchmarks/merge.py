"""`make bench`: our merges and mergekit's on the same checkpoints, in turn, as whole processes.

    python -m benchmarks.merge --shape tinyllama --rounds 3

Each round runs every job once, ours beside its peer; before a timed run its inputs are read into the
page cache, after it the output is deleted, both untimed. Every single time goes to
benchmarks/results/<date>-<shape>.json, the table to the .md beside it. One run of each of our methods on
the pico checkpoint comes first: it compiles and caches the kernels, and is recorded as `first_runs`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measure, peer, table
from benchmarks.checkpoints import SHAPES, bench_dir, generate, tensor_shapes
from lrnb.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
DENSITY, SLACK = 0.2, 0.3
TIES = ["--density", str(DENSITY)]
LIKE_MERGEKIT = ["--trim-scope", "tensor", "--at-threshold", "exact", "--zero-sign", "positive"]
OURS = {
    "ties-tensor": ["ties", *TIES, *LIKE_MERGEKIT],
    "ties-model": ["ties", *TIES, "--trim-scope", "model"],
    "ties-sv": ["ties-sv", *TIES, "--trim-scope", "model", "--slack", str(SLACK)],
    "average": ["average", "--alpha", "0.5"],
    "task-arithmetic": ["task-arithmetic", "--lam", "1"],
}
PEERS = {"ties-tensor": "ties", "average": "linear", "task-arithmetic": "task_arithmetic"}
KINDS = ("lrnb", "mergekit", "copy", "help")
HELP_RUNS = 5  # of each round: short, and jittery


@dataclass(frozen=True)
class Job:
    """One thing that is run in every round; `run` returns the measures of one run."""

    name: str
    kind: str
    method: str
    run: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where the jobs work: the three folders, and room for an output beside them."""

    folders: Mapping[str, Path]
    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    def files(self) -> list[Path]:
        return [path for folder in self.folders.values() for path in measure.weights(folder)]


def our_command(
    arguments: Sequence[str], place: Place, *, device: str = "cpu", out: Path | None = None
) -> list[str]:
    """The whole command line of one of our merges, to `out` or the place's own output."""
    models = [part for name in ("ct", "sft") for part in ("--model", f"{name}={place.folders[name]}")]
    folders = ["--base", str(place.folders["base"]), *models, "--out", str(out or place.out)]
    common = ["--dtype", "bfloat16", "--device", device, "--json"]
    return [sys.executable, "-m", "lrnb", "merge", *arguments, *folders, *common]


def run_ours(arguments: Sequence[str], place: Place, device: str = "cpu") -> dict[str, Any]:
    """One merge of ours, measured; its own merging seconds come from its report."""
    done = _whole(our_command(arguments, place, device=device), place)
    return _measures(done) | {"merge_seconds": read_report(done.stdout).get("seconds")}


def read_report(stdout: str) -> dict[str, Any]:
    """The report that `lrnb merge --json` prints. ValueError where there is none."""
    start = stdout.find("{")
    if start < 0:
        raise ValueError(f"lrnb merge --json printed no report: {stdout[:200]!r}")
    return dict(json.loads(stdout[start:]))


def run_peer(bin_folder: Path, method: str, place: Place) -> dict[str, Any]:
    """One merge of mergekit's in bfloat16, its usual way; merging seconds from its log."""
    recipe = peer.config(method, place.folders, density=DENSITY, dtype="bfloat16")
    done = _whole(peer.command(bin_folder, recipe, place.root / "mergekit.yaml", place.out), place)
    return _measures(done) | {"merge_seconds": peer.merge_seconds(done.lines)}


def run_copy(place: Place, threads: int) -> dict[str, Any]:
    """Read three, write one."""
    measure.warm(place.files())
    out = place.root / "copy.bin"
    try:
        return {"seconds": measure.read_three_write_one(list(place.folders.values()), out, threads)}
    finally:
        measure.remove(out)


def run_help() -> dict[str, Any]:
    """`lrnb merge --help`, the median of several."""
    command, env = [sys.executable, "-m", "lrnb", "merge", "--help"], measure.variables(ROOT)
    runs = [measure.run_whole(command, env, ROOT) for _ in range(HELP_RUNS)]
    middle = sorted(runs, key=lambda run: run.seconds)[HELP_RUNS // 2]
    return _measures(middle) | {"each": [round(run.seconds, 4) for run in runs]}


def _whole(command: Sequence[str], place: Place) -> measure.Finished:
    measure.remove(place.out)
    measure.warm(place.files())
    try:
        return measure.run_whole(command, measure.variables(ROOT), ROOT)
    finally:
        measure.remove(place.out)


def _measures(done: measure.Finished) -> dict[str, Any]:
    keys = ("seconds", "peak_anon_bytes", "peak_rss_bytes", "samples")
    return {key: getattr(done, key) for key in keys}


def jobs(place: Place, bin_folder: Path | None) -> list[Job]:
    """Everything there is to run, ours beside its peer; no peers where `bin_folder` is None."""
    found = []
    for name, arguments in OURS.items():
        found.append(Job(f"lrnb {name}", "lrnb", name, partial(run_ours, arguments, place)))
        if bin_folder and name in PEERS:
            label = "ties" if name == "ties-tensor" else name
            run = partial(run_peer, bin_folder, PEERS[name], place)
            found.append(Job(f"mergekit {label}", "mergekit", name, run))
        if name == "ties-model":
            found += [Job(f"copy {n}", "copy", "copy", partial(run_copy, place, n)) for n in (1, 2)]
    return [*found, Job("lrnb help", "help", "help", run_help)]


def run_all(
    chosen: Sequence[Job], rounds: int, result: dict[str, Any], save: Callable[[], object], settle: float = 0
) -> None:
    """Every job once a round; `save` is called after each round, so that a stop loses one at most.

    settle: seconds of rest before each run. A virtual machine gives the memory of a deleted output back to
    its host within seconds; a run that starts sooner would write to it at less cost than the others.
    """
    for number in range(1, rounds + 1):
        for job in chosen:
            time.sleep(settle if job.kind != "help" else 0)
            started = now()
            measures = {k: round(v, 4) if isinstance(v, float) else v for k, v in job.run().items()}
            result["runs"].append({"round": number, "job": job.name, "started": started} | measures)
            print(f"round {number}: {job.name}: {measures['seconds']:.2f} s", file=sys.stderr, flush=True)
        result |= {"rounds": number, "finished": now(), "medians": table.medians(result["runs"])}
        result["table"] = table.rows(result["medians"], result["shape"])
        save()


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(shape: str, place: Place, seed: int, bin_folder: Path | None) -> dict[str, Any]:
    """What a result file says beside the times; no path of this machine."""
    total = sum(path.stat().st_size for path in place.files())
    recipes = {f"lrnb {name}": f"lrnb merge {' '.join(arguments)}" for name, arguments in OURS.items()}
    return {
        "schema": 1,
        "shape": shape,
        "seed": seed,
        "parameters": sum(map(math.prod, tensor_shapes(SHAPES[shape]).values())),
        "density": DENSITY,
        "slack": SLACK,
        "started": now(),
        "machine": measure.machine(),
        "versions": measure.versions(),
        "peer_versions": peer.versions(bin_folder) if bin_folder else None,
        "commit": measure.commit(ROOT),
        "inputs": {"bytes": total, "cached": measure.warm(place.files())},
        "commands": recipes | {"mergekit": f"mergekit-yaml CONFIG OUT {' '.join(peer.OPTIONS)}"},
        "first_runs": [],
        "runs": [],
    }


def write_result(result: Mapping[str, Any], folder: Path, name: str) -> Path:
    """<date>-<name>.json and .md in `folder`; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['started'][:10]}-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table.markdown(result), encoding="utf-8")
    return path


def choose(found: Sequence[Job], methods: str | None, only: str | None) -> list[Job]:
    """The jobs named by --methods and --only, both comma lists. UserError naming what is unknown."""
    for given, known in ((methods, {job.method for job in found} | set(OURS)), (only, set(KINDS))):
        if odd := set(given.split(",") if given else ()) - known:
            raise UserError(
                f"{sorted(odd)[0]!r}: nothing is called so; choose from {', '.join(sorted(known))}"
            )
    return [
        job
        for job in found
        if (not methods or job.method in methods.split(",")) and (not only or job.kind in only.split(","))
    ]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--shape", choices=SHAPES, default="tinyllama")
    add("--rounds", type=int, default=3)
    add("--methods", help=f"comma list of {', '.join(OURS)}, copy, help (default all)")
    add("--only", help=f"comma list of {', '.join(KINDS)} (default all)")
    add("--no-mergekit", action="store_true", help="do not install or run mergekit")
    add("--dir", type=Path, help="checkpoints and outputs (default $LRNB_BENCH, else ~/.cache/lrnb/bench)")
    add("--results", type=Path, default=RESULTS, help="folder for the result files")
    add("--settle", type=float, default=8, help="seconds of rest before each run (default 8)")
    add("--seed", type=int, default=0)
    return top


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 done, 2 where the user can mend something, 1 where a measured command failed."""
    given = parser().parse_args(arguments)
    return measure.status(bench, given)


def bench(given: argparse.Namespace) -> None:
    """Generate, run in turn, write the result, print the table."""
    root = bench_dir(given.dir).absolute()
    peers_wanted = not given.no_mergekit and (not given.only or "mergekit" in given.only.split(","))
    bin_folder = peer.environment(root) if peers_wanted else None
    place = Place(generate(given.shape, root, given.seed), root / given.shape)
    chosen = choose(jobs(place, bin_folder), given.methods, given.only)
    result = describe(given.shape, place, given.seed, bin_folder)
    result["first_runs"] = first_runs(chosen, Place(generate("pico", root), root / "pico"), bin_folder)
    save = partial(write_result, result, given.results, given.shape)
    run_all(chosen, given.rounds, result, save, given.settle)
    print(table.markdown(result))


def first_runs(chosen: Sequence[Job], pico: Place, bin_folder: Path | None) -> list[dict[str, Any]]:
    """Each chosen merge once on the pico checkpoint: compiled kernels and bytecode are cached after it."""
    wanted = {job.name for job in chosen if job.kind in ("lrnb", "mergekit")}
    mine = [job for job in jobs(pico, bin_folder) if job.name in wanted]
    return [{"job": job.name, "seconds": round(job.run()["seconds"], 4)} for job in mine]


if __name__ == "__main__":
    sys.exit(main())
