"""The conflict atlas: building one against a TIES merge of the same files, and what-ifs at 7B shape.

    python -m benchmarks.atlas [--shape small] [--rounds 3] [--no-7b]

`lrnb conflicts --out` and `lrnb merge ties` (trim scope model) run in turn as whole processes on the bf16
checkpoints of `benchmarks.checkpoints`. The 7B atlas is built from 291 tensors of 7B shape over the files of
`tinyllama`, as in `benchmarks.memory`, and kept in --dir; a what-if is timed from options to the table of all
tensors. Writes results/<date>-atlas.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.checkpoints import bench_dir, generate
from benchmarks.memory import enlarged
from benchmarks.merge import RESULTS, ROOT, SLACK, Place, now, our_command

DENSITY = 0.5
SETTINGS: list[dict[str, Any]] = [
    {"density": density, "slack": slack, "trim_scope": scope}
    for scope in ("model", "tensor")
    for slack in (0.0, 0.2)
    for density in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
]


def commands(place: Place) -> dict[str, list[str]]:
    """The two whole commands that are compared."""
    models = [part for name in ("ct", "sft") for part in ("--model", f"{name}={place.folders[name]}")]
    given = ["--base", str(place.folders["base"]), *models, "--density", str(DENSITY), "--json"]
    atlas = ["conflicts", *given, "--slack", str(SLACK), "--out", str(place.out)]
    return {
        "merge": our_command(["ties", "--density", str(DENSITY)], place),
        "atlas": [sys.executable, "-m", "lrnb", *atlas],
    }


def build_runs(shape: str, root: Path, rounds: int, rest: float) -> list[dict[str, Any]]:
    """Each command once a round: seconds and peak anonymous memory."""
    place, runs = Place(generate(shape, root), root), []
    for number in range(1, rounds + 1):
        for name, command in commands(place).items():
            time.sleep(rest)
            measure.remove(place.out)
            measure.warm(place.files())
            done = measure.run_whole(command, measure.variables(ROOT), ROOT)
            measure.remove(place.out)
            run = {"round": number, "job": name, "seconds": round(done.seconds, 3)}
            runs.append(run | {"peak_anon_bytes": done.peak_anon_bytes})
            print(run, file=sys.stderr, flush=True)
    return runs


def atlas_7b(root: Path) -> Path:
    """The folder of the 7B-shaped atlas, made if it is not there."""
    from lrnb.conflicts import atlas
    from lrnb.merging import task_vectors

    folder = root / f"atlas-7b-format{atlas.FORMAT}"
    if not (folder / atlas.FACTS).is_file():
        folders = generate("tinyllama", root)
        models = {label: enlarged(path) for label, path in folders.items()}
        parents = {label: models[label] for label in ("ct", "sft")}
        opened = task_vectors.TaskVectors(models["base"], parents, method="conflicts")
        atlas.save(atlas.build(opened, density=DENSITY, slack=SLACK), folder)
    return folder


def what_ifs(folder: Path) -> dict[str, Any]:
    """Seconds of what-ifs over all tensors, by trim scope and slack; the first, which loads code, apart."""
    from lrnb.conflicts import atlas
    from lrnb.conflicts.what_ifs import what_if

    start = time.perf_counter()
    opened = atlas.load(folder)
    loaded = time.perf_counter()
    what_if(opened, **SETTINGS[0]).table  # noqa: B018
    first = time.perf_counter()
    for setting in SETTINGS[::4]:
        what_if(opened, **setting).table  # noqa: B018
    found: dict[str, list[float]] = {}
    for setting in SETTINGS:
        begin = time.perf_counter()
        what_if(opened, **setting).table  # noqa: B018
        name = f"{setting['trim_scope']} scope, slack {setting['slack']}"
        found.setdefault(name, []).append(time.perf_counter() - begin)
    return {
        "tensors": len(opened.tensors),
        "entries": int(opened.tensors["n"].sum()),
        "load_seconds": loaded - start,
        "first_seconds": first - loaded,
        "median_seconds": {name: median(times) for name, times in found.items()},
        "max_seconds": {name: max(times) for name, times in found.items()},
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [f"# The conflict atlas, {result['started'][:10]}", ""]
    lines += [f"{result['machine']['processor']}, {result['machine']['cores']} cores; medians.", ""]
    lines += [f"| {result['shape']} | seconds | peak anonymous memory, MB |", "|---|---|---|"]
    medians = {}
    for job in ("merge", "atlas"):
        runs = [run for run in result["runs"] if run["job"] == job]
        medians[job] = median(run["seconds"] for run in runs)
        memory = max(run["peak_anon_bytes"] for run in runs) / 1e6
        command = {"merge": "lrnb merge ties, model scope", "atlas": "lrnb conflicts, both scopes"}[job]
        lines.append(f"| {command} | {medians[job]:.2f} | {memory:.0f} |")
    lines += ["", f"Ratio {medians['atlas'] / medians['merge']:.2f}; goal at most 2.5."]
    if found := result.get("what_if"):
        lines += [
            "",
            f"What-if over {found['tensors']} tensors, {found['entries']:,} entries; goal 50 ms.",
            "",
        ]
        lines += ["| setting | median, ms | largest, ms |", "|---|---|---|"]
        for name, seconds in found["median_seconds"].items():
            lines.append(f"| {name} | {1e3 * seconds:.1f} | {1e3 * found['max_seconds'][name]:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Both measurements."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.atlas", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--shape", choices=("pico", "small", "tinyllama"), default="tinyllama")
    add("--rounds", type=int, default=3)
    add("--rest", type=float, default=8.0, help="seconds of rest before each run (default 8)")
    add("--no-7b", action="store_true", help="leave the 7B-shaped what-ifs out")
    add("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    add("--results", type=Path, default=RESULTS)
    return measure.status(bench, top.parse_args(arguments))


def bench(given: argparse.Namespace) -> None:
    """Measure, write the result, print the tables."""
    root = bench_dir(given.dir).absolute()
    result: dict[str, Any] = {"schema": 1, "started": now(), "shape": given.shape, "density": DENSITY}
    result |= {"slack": SLACK, "machine": measure.machine(), "versions": measure.versions()}
    result |= {"commit": measure.commit(ROOT)}
    result["runs"] = build_runs(given.shape, root, given.rounds, given.rest)
    if not given.no_7b:
        result["what_if"] = what_ifs(atlas_7b(root))
    write(result, given.results, "atlas", markdown(result))


def write(result: dict[str, Any], folder: Path, name: str, text: str) -> None:
    """<date>-<name>.json and .md in `folder`; prints the text."""
    path = folder / f"{result['started'][:10]}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"finished": now()}, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
