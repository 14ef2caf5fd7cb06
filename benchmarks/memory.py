"""Peak anonymous memory at 7B shape without 40 GB of checkpoints: 291 tensors over the files of `tinyllama`.

    python -m benchmarks.memory

Every tensor of the 7B shape is a range of the mapped `tinyllama` checkpoint, the same range in base, CT and
SFT, so that task vectors have real distributions and n is 6.7 billion; ranges overlap, nothing else is
different from a merge of folders. The output (13.5 GB) is written and deleted. Each merge is a process of
its own; RssAnon is looked at 20 times a second. Writes results/<date>-memory-7b.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.checkpoints import SHAPES, bench_dir, generate, tensor_shapes
from benchmarks.merge import DENSITY, RESULTS, ROOT, SLACK, now

MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "average": ("average", {"alpha": 0.5}),
    "task arithmetic": ("task_arithmetic", {"lam": 1.0}),
    "TIES, model scope": ("ties", {"density": DENSITY}),
    "TIES, tensor scope": ("ties", {"density": DENSITY, "trim_scope": "tensor"}),
    "TIES-SV, model scope": ("ties_sv", {"density": DENSITY, "slack": SLACK}),
    "TIES-SV, model scope, density 0.5": ("ties_sv", {"density": 0.5, "slack": SLACK}),
    "TIES-SV, tensor scope": (
        "ties_sv",
        {"density": DENSITY, "slack": SLACK, "trim_scope": "tensor"},
    ),
}


def enlarged(folder: Path) -> Any:
    """The checkpoint in `folder` as one of 7B shape: entry after entry, from the start again at its end."""
    import numpy as np

    from lrnb.checkpoints.reading import BFLOAT16, Checkpoint, open_checkpoint

    small = open_checkpoint(folder, finite=False)
    (file,) = small.files
    data = np.memmap(file, np.uint8, "r")
    first = data.size - sum(tensor.nbytes for tensor in small.values())
    tensors, at = {}, first
    for name, shape in tensor_shapes(SHAPES["7b"]).items():
        size = 2 * math.prod(shape)
        at = at if at + size <= data.size else first
        tensors[name] = np.ndarray(shape, BFLOAT16, data.data, at)
        at += size
    return Checkpoint(folder, tensors, small.config, [file])


def merge(name: str, folder: Path, out: Path) -> int:
    """One merge at 7B shape; returns the bytes that its plan allowed for."""
    from lrnb.checkpoints.small_files import small_files
    from lrnb.merging import jobs, whole_models
    from lrnb.merging.methods import find
    from lrnb.merging.task_vectors import TaskVectors

    method, given = MERGES[name]
    how = find(method)
    models = {label: enlarged(folder / label) for label in ("base", "ct", "sft")}
    vectors = TaskVectors(models["base"], {label: models[label] for label in ("ct", "sft")}, method=method)
    options, dtypes = how.settle(["ct", "sft"], given), jobs.output_dtypes(how, vectors, "auto")
    recipe = {"method": method, "base": "base", "models": {"ct": "ct", "sft": "sft"}, **given}
    files = small_files(folder / "base", folder / "base")
    job = jobs.Job(how, options, out, vectors, dtypes, folder / "base", files, [], given, [], recipe)
    whole_models.write(job)
    return job.memory()


def run_one(name: str, root: Path) -> dict[str, Any]:
    """The merge in a process of its own, measured."""
    out = root / "out-7b"
    command = [sys.executable, "-m", "benchmarks.memory", "--one", name, "--dir", str(root)]
    try:
        done = measure.run_whole(command, measure.variables(ROOT), ROOT)
    finally:
        measure.remove(out)
    keys = ("seconds", "peak_anon_bytes", "peak_rss_bytes", "samples")
    planned = int(done.stdout.split()[-1])
    return {"merge": name, "planned_bytes": planned} | {key: getattr(done, key) for key in keys}


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"# Peak anonymous memory at 7B shape, {result['started'][:10]}",
        "",
        f"{result['parameters']:,} entries, bf16, {result['threads']} threads; goal 300 MB, stretch 200 MB. "
        "Python and its libraries are included.",
        "",
        "| merge | peak, MB | planned beside Python, MB | s, files partly uncached |",
        "|---|---|---|---|",
    ]
    for run in result["runs"]:
        peak, planned = run["peak_anon_bytes"] / 1e6, run["planned_bytes"] / 1e6
        lines.append(f"| {run['merge']} | {peak:.0f} | {planned:.0f} | {run['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """All merges, or one."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    top.add_argument("--one", choices=MERGES, help="this merge, in this process")
    top.add_argument("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    given = top.parse_args()
    root = bench_dir(given.dir).absolute()
    generate("tinyllama", root)
    if given.one:
        print(merge(given.one, root / "tinyllama", root / "out-7b"))
        return
    from lrnb.merging.task_vectors import cores

    parameters = sum(map(math.prod, tensor_shapes(SHAPES["7b"]).values()))
    result: dict[str, Any] = {"schema": 1, "started": now(), "parameters": parameters, "threads": cores()}
    result |= {"machine": measure.machine(), "versions": measure.versions(), "commit": measure.commit(ROOT)}
    result["runs"] = [run_one(name, root) for name in MERGES]
    path = RESULTS / f"{result['started'][:10]}-memory-7b.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result | {"finished": now()}, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
