"""Seconds from a slider to the new answer: the merge made again in memory, and what it answers.

    python -m benchmarks.playground runs/nano/qaa runs/smol/bn     # finished studies, on this machine
    python -m benchmarks.playground --shape 7b --device cuda       # the merge of resident tensors alone

Of a study, the first items of every task are asked at each of SETTINGS in turn; the parents' answers are
known then, as when a person moves a slider. `new density` looks for thresholds, the others remember them.
With --shape the tensors are made on the device; the merge is written over those of a model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import gpu, measure
from benchmarks.checkpoints import SHAPES
from benchmarks.merge import RESULTS, ROOT, now
from lrnb.errors import UserError

#: (what the hand moved, method, options), in the order they are set
SETTINGS: list[tuple[str, str, dict[str, float]]] = [
    ("new density", "ties_sv", {"density": 0.5, "lam": 1.0, "slack": 0.3}),
    ("slack", "ties_sv", {"density": 0.5, "lam": 1.0, "slack": 0.6}),
    ("lambda", "ties_sv", {"density": 0.5, "lam": 0.8, "slack": 0.6}),
    ("new density", "ties", {"density": 0.25, "lam": 1.0}),
    ("lambda", "ties", {"density": 0.25, "lam": 0.7}),
    ("alpha", "average", {"alpha": 0.4}),
    ("lambda", "task_arithmetic", {"lam": 0.6}),
]
Row = dict[str, Any]


def of_study(folder: Path, device: str, each: int) -> list[Row]:
    """Rows: prompt, moved, method, merge and answer seconds, for `each` items of every task."""
    from lrnb.tuning.live_merge import Playground

    study = _study(folder)
    warm = Playground(study, device=device)
    prompts = warm.prompts(each)
    for prompt in prompts:  # compiles the loops, asks the parents
        warm.merge("ties_sv", density=0.4, lam=1.0, slack=0.5)
        warm.answers(prompt)
    rows = []
    for number, prompt in enumerate(prompts):
        for moved, method, options in SETTINGS:
            if moved == "new density":  # unlike any that was asked for
                options = options | {"density": options["density"] + 0.001 * number + 0.0005}
            warm.merge(method, **options)
            warm.answers(prompt)
            seconds = {"merge": warm.seconds["merge"], "answer": warm.seconds["answer"]}
            rows.append({"prompt": prompt.name, "moved": moved, "method": method, **seconds})
    return rows


def _study(folder: Path) -> Any:
    from lrnb.study.parameters import read_yaml, validate

    path = folder / "params.yaml"
    given = read_yaml(path) | {"runs": str(folder.parent.parent)}
    return validate(given, str(path))


def of_shape(shape: str, device: str, rounds: int) -> list[Row]:
    """The same settings on resident tensors: rows with moved, method and merge seconds."""
    import torch

    from lrnb.merging.whole_models import merge_into
    from lrnb.tuning import live_merge

    gpu.check_room(shape, device)
    states = gpu.make(shape, device)
    own = {name: torch.empty_like(x) for name, x in states["base"].items()}

    def timed(work: Callable[[], Any]) -> float:
        gpu.synchronize(device)
        started = time.perf_counter()
        work()
        gpu.synchronize(device)
        return time.perf_counter() - started

    rows = []
    for number in range(rounds + 1):  # the first warms up
        vectors = live_merge.resident(states)
        for moved, method, options in SETTINGS:
            seconds = timed(lambda m=method, o=options, v=vectors: merge_into(own, m, v, **o))  # type: ignore[misc]
            if number:
                rows.append({"prompt": "", "moved": moved, "method": method, "merge": seconds})
    return rows


def summary(rows: list[Row]) -> list[Row]:
    """Per kind of move: n, and median and largest seconds of merge, answer and both."""
    found = []
    for key in dict.fromkeys((row["moved"], row["method"]) for row in rows):
        own = [row for row in rows if (row["moved"], row["method"]) == key]
        both = [row["merge"] + row.get("answer", 0.0) for row in own]
        line = {"moved": key[0], "method": key[1], "n": len(own), "merge": median(r["merge"] for r in own)}
        if "answer" in own[0]:
            line["answer"] = median(r["answer"] for r in own)
        found.append(line | {"both": median(both), "longest": max(both)})
    return found


def markdown(result: Row) -> str:
    """A table a part."""
    lines = [f"# From slider to answer on {result['device']}, {result['started'][:10]}", ""]
    for part, rows in result["parts"].items():
        lines += [f"{part}: medians of n moves, and the longest, in seconds", ""]
        lines += ["| moved | method | n | merge | answer | both | longest |", "|---|---|---|---|---|---|---|"]
        for row in summary(rows):
            answer = f"{row['answer']:.2f}" if "answer" in row else ""
            lines.append(
                f"| {row['moved']} | {row['method']} | {row['n']} | {row['merge']:.3f} | {answer} "
                f"| {row['both']:.2f} | {row['longest']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command: measure, print the table; with --results write it and every single time there."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.playground", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("studies", nargs="*", type=Path, help="folders runs/<preset>/<lang> of finished studies")
    add("--shape", choices=SHAPES, help="the merge of tensors of this shape that live on the device")
    add("--device", default="cpu", help="cpu or cuda")
    add("--each", type=int, default=2, help="items of every task")
    add("--rounds", type=int, default=3, help="of --shape")
    add("--results", type=Path, help=f"folder for the result files, such as {RESULTS.name}")
    return measure.status(bench, top.parse_args(arguments))


def bench(given: argparse.Namespace) -> None:
    """What `main` does, errors raised."""
    if not given.studies and not given.shape:
        raise UserError("nothing to measure: give folders of finished studies, or --shape")
    started = now()
    parts = {"/".join(f.resolve().parts[-2:]): of_study(f, given.device, given.each) for f in given.studies}
    if given.shape:
        parts[f"{given.shape} shape, resident"] = of_shape(given.shape, given.device, given.rounds)
    result = {"schema": 1, "started": started, "device": gpu.device_name(given.device), "parts": parts}
    result |= {"machine": measure.machine(), "versions": measure.versions(), "commit": measure.commit(ROOT)}
    print(markdown(result))
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        path = given.results / f"{started[:10]}-playground-{given.device.partition(':')[0]}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
