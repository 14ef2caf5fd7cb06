"""Items a second in scoring: lrnb's scorer against the harness's own `hf` model, same tasks, one process.

    python -m benchmarks.scoring NAME=DIR [NAME=DIR ...] --lang bn --tasks topic,math --data-root PATH
    python -m benchmarks.scoring --made 7b --device cuda --precision bf16   # no model, no data: random ones

Requests are built before; what is timed is the harness's run over them, with one model of each kind loaded
once in the same precision. Rounds in turn, medians shown, every time stored. Both give the same answers:
log-likelihoods are compared and the largest difference is in the table. Writes results/<date>-scoring.json
and .md, or a name of your own (--name).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import made_model, measure
from benchmarks.atlas import write
from benchmarks.merge import RESULTS, ROOT, now
from benchmarks.train import TRAINED

KINDS = ("lrnb", "hf")


def opened(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The model as our scorer and as the harness's own class, on one set of weights."""
    from lm_eval.models.huggingface import HFLM

    from lrnb.scoring.scorer import Scorer

    ours = Scorer.from_folder(folder, device=given.device, precision=given.precision)
    theirs = HFLM(
        pretrained=ours.model, tokenizer=ours.tokenizer, batch_size=given.hf_batch, max_length=ours.max_length
    )
    return {"lrnb": ours, "hf": theirs}


def timed(judge: Any, task: Any) -> tuple[float, float, list[float]]:
    """Seconds for one run of a task, processor seconds of the process, and all log-likelihoods."""
    import torch

    from lrnb.tasks.harness import run_harness

    start, worked = time.perf_counter(), time.process_time()
    samples = run_harness(judge, {task.task_name: task})[task.task_name]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    return seconds, worked, [float(pair[0]) for sample in samples for pair in sample["filtered_resps"]]


def measure_task(judges: dict[str, Any], task: Any, rounds: int) -> dict[str, Any]:
    """Times of both kinds in turn; the first round also compares what they say."""
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    worked: dict[str, list[float]] = {kind: [] for kind in KINDS}
    values: dict[str, list[float]] = {}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            judges["lrnb"]._encoded.clear()  # each run cuts its texts into tokens anew, as a first one does
            spent, busy, values[kind] = timed(judges[kind], task)
            seconds[kind].append(spent)
            worked[kind].append(busy)
    apart = max(abs(a - b) for a, b in zip(values["lrnb"], values["hf"], strict=True))
    options = len(values["lrnb"]) / len(task)
    row = {"task": task.task_name, "items": len(task), "options": options, "largest_difference": apart}
    return row | {"seconds": seconds, "cpu_seconds": worked}


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    machine = result["machine"]
    lines = [
        f"# Scoring against the harness's own model, {result['started'][:10]}",
        "",
        f"{result['device']}, {machine['cores']} cores, {result['precision']}; batches: lrnb by a budget of "
        f"padded tokens, hf {result['hf_batch']} requests; medians of {result['rounds']} rounds in turn. "
        "Ratio of items/s, and of processor time, which other programs disturb less. "
        "Difference: the largest between the two, of a log-likelihood in nats.",
        "",
        "| model | task | items | options | lrnb, items/s | hf, items/s | ratio | processor | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        speed = {kind: run["items"] / median(run["seconds"][kind]) for kind in KINDS}
        busy = median(run["cpu_seconds"]["hf"]) / median(run["cpu_seconds"]["lrnb"])
        cells = [run["model"], run["task"], run["items"], f"{run['options']:.0f}", f"{speed['lrnb']:.1f}"]
        cells += [f"{speed['hf']:.1f}", f"{speed['lrnb'] / speed['hf']:.1f}×", f"{busy:.1f}×"]
        cells.append(f"{run['largest_difference']:.0e}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.splitlines()[0])
    top.add_argument("models", nargs="*", metavar="NAME=DIR", help="model folders with a name for the table")
    top.add_argument("--made", choices=TRAINED, help="a model of this shape and items, both random, instead")
    top.add_argument("--lang", default="bn")
    top.add_argument("--tasks", default="topic,tatoeba_choice,next_passage")
    top.add_argument("--data-root", help="folder with eval/; needed unless --made is given")
    top.add_argument("--limit", type=int, default=24, help="items a task")
    top.add_argument("--rounds", type=int, default=3)
    top.add_argument(
        "--hf-batch", type=int, default=16, help="requests that the harness's model takes at once"
    )
    top.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    top.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    top.add_argument("--name", default="scoring", help="of the files in results/")
    top.add_argument("--results", type=Path, default=RESULTS, help="folder for the result files")
    given = top.parse_args(arguments)
    if not given.made and not (given.models and given.data_root):
        top.error("give NAME=DIR and --data-root, or --made SHAPE")
    return given


def on_folders(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of models in folders, on tasks of the data root."""
    from lrnb.tasks import loading

    tasks = loading.load_tasks(given.tasks.split(","), given.lang, given.data_root, limit=given.limit)
    rows = []
    for text in given.models:
        name, _, folder = text.rpartition("=")
        judges = opened(Path(folder), given)
        rows += [
            {"model": name or Path(folder).name} | measure_task(judges, task, given.rounds)
            for task in tasks.values()
        ]
    return rows


def on_made(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of a model and of items that are made here."""
    from lrnb.study.environment import resolved_device
    from lrnb.tasks import loading

    device = resolved_device(given.device)
    judges = made_model.made_judges(given.made, device, given.precision, given.hf_batch)
    with tempfile.TemporaryDirectory() as folder:
        root = made_model.write_items(Path(folder), TRAINED[given.made].vocab, given.limit)
        tasks = loading.load_tasks(made_model.TASKS, made_model.LANG, root)
        return [
            {"model": f"{given.made}, made"} | measure_task(judges, task, given.rounds)
            for task in tasks.values()
        ]


def main(arguments: list[str] | None = None) -> int:
    """The command: see `measure.status`."""
    return measure.status(bench, options(arguments))


def bench(given: argparse.Namespace) -> None:
    """Every model on every task, and the files of the result."""
    from lrnb.study import environment

    result: dict[str, Any] = {"schema": 1, "started": now(), "precision": given.precision}
    result |= {"machine": measure.machine(), "versions": measure.versions(), "commit": measure.commit(ROOT)}
    result |= {key: getattr(given, key) for key in ("rounds", "hf_batch", "limit", "lang")}
    runs = on_made(given) if given.made else on_folders(given)
    result |= {"device": environment.device_name(), "runs": runs}
    write(result, given.results, given.name, markdown(result))


if __name__ == "__main__":
    sys.exit(main())
