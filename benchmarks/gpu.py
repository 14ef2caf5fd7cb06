"""The same merges on tensors that live on a GPU, in GB/s against a device-to-device copy in the same run.

    python -m benchmarks.gpu --shape 7b            # resident tensors, made on the device
    python -m benchmarks.gpu --shape 7b --files    # besides: `lrnb merge --device cuda` on checkpoints
    python -m benchmarks.gpu --all                 # merges at 7b; training and scoring at 7b, 1.1b and 270m
    python -m benchmarks.gpu --all --shape pico --device cpu   # the same in small, to see that it runs

A merge of two parents reads three bytes for each one that it writes: GB/s counts all four; a copy counts
its two. Every method is run once untimed (kernels are compiled then), then in turn with the copy. One
tensor is merged on the CPU too, and entries that differ from the device's are counted: 0 is expected.
With --device cpu the same code runs on CPU tensors; it is how the tests reach it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.checkpoints import SHAPES, bench_dir, generate, tensor_shapes
from benchmarks.merge import DENSITY, OURS, RESULTS, ROOT, SLACK, Place, now, run_ours
from lrnb.errors import UserError

COPY_BYTES = 4 << 30  # of the copied buffer, where the shape is not smaller
SCRATCH = 1.5  # room for the engine's own buffers, on top of three inputs and one output
TRAINED: tuple[tuple[str, list[str]], ...] = (
    ("7b", []),
    ("tinyllama", ["--batch", "8"]),
    ("tinyllama", ["--batch", "4", "--keep-activations"]),
    ("270m", ["--batch", "8"]),
)  # shapes that --all trains, with options of benchmarks.train
SCORED = ("7b", "tinyllama", "270m")  # shapes that --all scores with, against the harness
TRIAL: tuple[tuple[str, list[str]], ...] = (
    ("pico", ["--length", "16", "--steps", "2"]),
)  # with --shape pico
SPOT = "model.layers.0.self_attn.k_proj.weight"  # merged on the CPU too
State = dict[str, Any]  # name -> torch tensor


def make(shape: str, device: str, seed: int = 0) -> dict[str, State]:
    """{"base", "ct", "sft"}: tensors on `device`, distributed like those of `benchmarks.checkpoints`."""
    import torch

    random = torch.Generator(device).manual_seed(seed)
    found: dict[str, State] = {"base": {}, "ct": {}, "sft": {}}

    def normal(size: tuple[int, ...]) -> Any:
        return torch.randn(size, generator=random, device=device, dtype=torch.float32)

    for name, size in tensor_shapes(SHAPES[shape]).items():
        mean, spread = (1.0, 0.05) if name.endswith("norm.weight") else (0.0, 0.02)
        found["base"][name] = base = (mean + spread * normal(size)).bfloat16()
        for parent, scale in (("ct", 4e-4), ("sft", 3e-4)):
            tail = torch.empty(size, device=device).exponential_(generator=random)
            step = scale * math.sqrt(3) * normal(size) / (normal(size).square() + 2 * tail).sqrt()
            found[parent][name] = (base.float() + step).bfloat16()
    return found


def methods() -> dict[str, Callable[[dict[str, State]], State]]:
    """{name of OURS: the merge as a call on the three states}."""
    from lrnb.merging.methods.average import average
    from lrnb.merging.methods.task_arithmetic import task_arithmetic
    from lrnb.merging.methods.ties import ties
    from lrnb.merging.methods.ties_sv import ties_sv

    exact: dict[str, Any] = {"density": DENSITY, "at_threshold": "exact", "zero_sign": "positive"}

    def tensor_scope(x: dict[str, State]) -> State:
        return {n: ties(b, {"ct": x["ct"][n], "sft": x["sft"][n]}, **exact) for n, b in x["base"].items()}

    return {
        "ties-tensor": tensor_scope,
        "ties-model": lambda x: ties(x["base"], parents(x), density=DENSITY),
        "ties-sv": lambda x: ties_sv(x["base"], x["ct"], x["sft"], density=DENSITY, slack=SLACK),
        "average": lambda x: average(x["base"], parents(x), alpha=0.5),
        "task-arithmetic": lambda x: task_arithmetic(x["base"], parents(x), lam=1.0),
    }


def parents(states: Mapping[str, State]) -> dict[str, State]:
    """CT and SFT."""
    return {name: states[name] for name in ("ct", "sft")}


def seconds(work: Callable[[], Any], device: str) -> float:
    """Of one call, with everything on the device finished before and after."""
    synchronize(device)
    started = time.perf_counter()
    kept = work()
    synchronize(device)
    passed = time.perf_counter() - started
    del kept
    return passed


def synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def copy_once(device: str, size: int) -> Callable[[], Any]:
    """A call that copies `size` bytes on the device."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def differing(states: dict[str, State], merge: Callable[[dict[str, State]], State]) -> int:
    """Entries of tensor SPOT, merged alone, that are not the same bits on the CPU."""
    import torch

    here = {role: {SPOT: state[SPOT]} for role, state in states.items()}
    there = {role: {SPOT: state[SPOT].cpu()} for role, state in states.items()}
    a, b = (merge(x)[SPOT].cpu().view(torch.int16) for x in (here, there))
    return int((a != b).sum())


def check_room(shape: str, device: str) -> None:
    """UserError where three inputs, one output and scratch space do not fit on the device."""
    import torch

    require_gpu(device)
    if not device.startswith("cuda"):
        return
    largest = 4 * max(map(math.prod, tensor_shapes(SHAPES[shape]).values()))
    need = SCRATCH * 4 * model_bytes(shape) + 4 * largest
    free, _ = torch.cuda.mem_get_info(device)
    if need > free:
        raise UserError(
            f"{shape}: {need / 1e9:.0f} GB are needed to keep all on the device, {free / 1e9:.0f} GB are "
            "free. Choose a smaller --shape"
        )


def require_gpu(device: str) -> None:
    """UserError where a GPU is asked for and there is none."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no GPU: torch sees no CUDA device. Run on a machine with one, or --device cpu")


def model_bytes(shape: str) -> int:
    """Of one checkpoint in bfloat16."""
    return 2 * sum(map(math.prod, tensor_shapes(SHAPES[shape]).values()))


def resident(shape: str, device: str, rounds: int) -> list[dict[str, Any]]:
    """Rows: method, single seconds, GB/s at their median, its share of the copy, peak bytes, differing.

    A method for which the device's memory is too small has a row with `error` and no numbers.
    """
    check_room(shape, device)
    states, found = make(shape, device), methods()
    size = min(COPY_BYTES, model_bytes(shape))
    first = {name: first_run(merge, states, device) for name, merge in found.items()}
    found = {name: merge for name, merge in found.items() if "error" not in first[name]}
    copy = copy_once(device, size)
    copy()
    times: dict[str, list[float]] = {name: [] for name in ("copy", *found)}
    for _ in range(rounds):
        for name, merge in found.items():
            times["copy"].append(seconds(copy, device))
            times[name].append(seconds(partial(merge, states), device))
    moved = {name: 4 * model_bytes(shape) for name in found} | {"copy": 2 * size}
    rates = {name: moved[name] / median(values) / 1e9 for name, values in times.items() if values}
    rows: list[dict[str, Any]] = []
    for name in ("copy", *first):
        row = {"method": name} | first.get(name, {})
        if times.get(name):
            single = [round(value, 6) for value in times[name]]
            row |= {"seconds": single, "gb_per_s": rates[name], "of_copy": rates[name] / rates["copy"]}
        if name in found:
            row["differing"] = differing(states, found[name])
        rows.append(row)
    return rows


def first_run(
    merge: Callable[[dict[str, State]], State], states: dict[str, State], device: str
) -> dict[str, Any]:
    """Run once, untimed: {"peak_bytes": what torch held on the device, inputs included} or {"error": why}."""
    import torch

    gc.collect()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        merge(states)
        synchronize(device)
    except torch.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    return {"peak_bytes": int(torch.cuda.max_memory_allocated(device))} if on_gpu else {}


def from_files(shape: str, root: Path, device: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of `lrnb merge --device DEVICE` as whole commands on the checkpoints of `make bench`."""
    place = Place(generate(shape, root), root / shape)
    pico = Place(generate("pico", root), root / "pico")
    for arguments in OURS.values():
        run_ours(arguments, pico, device)
    return [
        {"round": number, "job": f"lrnb {name}"} | run_ours(arguments, place, device)
        for number in range(1, rounds + 1)
        for name, arguments in OURS.items()
    ]


def device_name(device: str) -> str:
    """As the driver calls it; the processor's name for the CPU."""
    import torch

    return (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else str(measure.machine()["processor"])
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The table of the resident merges, and of the whole commands where they were run."""
    lines = [
        f"# Merging on {result['device']}, shape {result['shape']}, {result['started'][:10]}",
        "",
        f"{result['rounds']} rounds in turn, medians; torch {result['versions'].get('torch', '')}.",
        "",
        "| | s | GB/s | of a device copy | peak GB on the device | entries unlike the CPU's |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_resident_line(row) for row in result["resident"]]
    if result["files"]:
        lines += ["", "| whole command | s | merging, s |", "|---|---|---|"]
    for job in dict.fromkeys(run["job"] for run in result["files"]):
        mine = [run for run in result["files"] if run["job"] == job]
        whole, merging = (
            [run[key] for run in mine if run[key] is not None] for key in ("seconds", "merge_seconds")
        )
        lines.append(f"| {job} | {median(whole):.3g} | {f'{median(merging):.3g}' if merging else ''} |")
    return "\n".join(lines) + "\n"


def _resident_line(row: Mapping[str, Any]) -> str:
    if "seconds" not in row:
        return f"| {row['method']} | {row.get('error', 'not run')} |  |  |  |  |"
    peak = f"{row['peak_bytes'] / 1e9:.1f}" if "peak_bytes" in row else ""
    unlike = f"{row['differing']:,}" if "differing" in row else ""
    rate = f"{median(row['seconds']):.4g} | {row['gb_per_s']:.4g} | {row['of_copy']:.0%}"
    return f"| {row['method']} | {rate} | {peak} | {unlike} |"


def main(arguments: list[str] | None = None) -> int:
    """The command: measure, write <date>-<shape>-<device>.json and .md, print the table."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--shape", choices=SHAPES, default="7b")
    add("--rounds", type=int, default=5)
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    add("--all", action="store_true", help="training and scoring too, each in a process of its own")
    add("--files", action="store_true", help="whole commands on checkpoints too")
    add("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    add("--results", type=Path, default=RESULTS, help="folder for the result files")
    given = top.parse_args(arguments)
    return measure.status(bench_all if given.all else bench, given)


def bench_all(given: argparse.Namespace) -> None:
    """Merges, then training, then scoring; what a shape has no room for is told and passed over."""
    bench(given)
    for name, command in parts(given).items():
        if subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode:
            print(f"{name}: not measured")


def parts(given: argparse.Namespace) -> dict[str, list[str]]:
    """Name -> module and options of each process that --all starts after the merges."""
    small = given.shape == "pico"
    trained = TRIAL if small else TRAINED
    scored = ("pico",) if small else SCORED
    place = ["--device", given.device, "--results", str(given.results.absolute())]
    found = {
        " ".join(["training", shape, *more]): ["benchmarks.train", "--shape", shape, *more, *place]
        for shape, more in trained
    }
    place[1] = given.device.partition(":")[0]
    for shape in scored:
        own = ["--made", shape, "--name", f"scoring-{shape}-{place[1]}", "--precision", "bf16", *place]
        found[f"scoring {shape}"] = ["benchmarks.scoring", *own, "--limit", "8" if small else "200"]
    return found


def bench(given: argparse.Namespace) -> None:
    """What `main` does, errors raised."""
    result: dict[str, Any] = {"schema": 1, "shape": given.shape, "rounds": given.rounds, "started": now()}
    result |= {"machine": measure.machine(), "versions": measure.versions(), "commit": measure.commit(ROOT)}
    result["resident"] = resident(given.shape, given.device, given.rounds)
    result["device"] = device_name(given.device)
    kind = given.device.partition(":")[0]
    files = (
        from_files(given.shape, bench_dir(given.dir).absolute(), kind, given.rounds) if given.files else []
    )
    result |= {"files": files, "finished": now()}
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{result['started'][:10]}-{given.shape}-{kind}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    sys.exit(main())
