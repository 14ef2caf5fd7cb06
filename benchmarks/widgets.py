"""From a slider's move to the redrawn figure, in a real browser at a real JupyterLab.

    python -m benchmarks.widgets [--moves 30] [--nano runs/nano/qaa/conflicts/262k]
    python -m benchmarks.widgets --old TREE --atlases nano=NEW,OLD 7B=NEW,OLD [--rounds 9]

Debian's chromium, driven by playwright, opens SlackExplorer, the sign-conflict histogram and BudgetPlayer on
an atlas of the nano study and on the 7B-shaped one of `benchmarks.atlas`. A move is a key press on the
slider of slack; its time ends when plotly has drawn the answer. The rig is that of
tests/support/browser.py. Writes results/<date>-widgets.json and .md.

With `--old`, another checkout of this project: the kernel's part alone, in processor seconds of the kernel,
which other programs disturb less than a browser's clock. A kernel of each tree, each with an atlas in its own
format, draws the same moves of the slider in turn, the first of the two changing from round to round. Writes
results/<date>-widgets-kernel.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.atlas import atlas_7b, write
from benchmarks.checkpoints import bench_dir
from benchmarks.merge import RESULTS, ROOT, now

GOALS = {"nano": 0.150, "7B": 0.300}  # seconds, medians
WIDGETS = {
    "slack-explorer": "slack_explorer(a)",
    "sign-explorer": "sign_explorer(a)",
    "budget-player": "budget_player({25_000: a, 50_000: a, 100_000: a})",  # three elections a move
}
TIMED = """([css, key]) => new Promise(done => {
  const box = document.querySelector(css), figure = box.querySelector('.js-plotly-plot');
  const handle = box.querySelector('.lrnb-control-slack .noUi-handle');
  let drawn = null, first = null;
  figure.on('plotly_afterplot', () => { drawn = performance.now(); });
  first = performance.now();
  handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  const look = () => {
    if (drawn && performance.now() - drawn > 250) {
      figure.removeAllListeners('plotly_afterplot');
      return done((drawn - first) / 1000);
    }
    if (performance.now() - first > 10000) return done(null);
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""


def notebook(atlas: Path, expression: str) -> dict[str, Any]:
    """A notebook with one widget."""
    code = [
        "from lrnb import widgets\nfrom lrnb.conflicts import atlas\n",
        f"a = atlas.load({str(atlas)!r})\n",
        f"widgets.{expression}",
    ]
    cell: dict[str, Any] = {"cell_type": "code", "id": "one", "metadata": {}, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {
        "cells": [cell | {"source": code, "execution_count": None}],
        "metadata": kernel,
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def latencies(chrome: Any, lab: Any, atlas: Path, name: str, moves: int) -> list[float]:
    """Seconds of `moves` moves of the slack slider, after five that are not counted."""
    from support.browser import Notebook

    path = lab.root / f"{atlas.name}-{name}.ipynb"
    path.write_text(json.dumps(notebook(atlas.absolute(), WIDGETS[name])), encoding="utf-8")
    page = Notebook(chrome, lab, path.name)
    page.run()
    found = []
    for number in range(moves + 5):
        key = "ArrowLeft" if number % 2 else "ArrowRight"
        found.append(page.page.evaluate(TIMED, [f".lrnb-{name}", key]))
    page.close()
    if None in found:
        raise RuntimeError(f"{name}: a move was never drawn")
    return found[5:]


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [f"# Slider to redrawn figure, {result['started'][:10]}", ""]
    lines += [
        f"{result['machine']['processor']}, {result['machine']['cores']} cores, {result['browser']}.",
        "",
    ]
    lines += [
        "| atlas | widget | tensors | median, ms | 90th percentile, ms | goal, ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        times = sorted(row["seconds"])
        numbers = [median(times), times[int(0.9 * (len(times) - 1))], GOALS[row["atlas"]]]
        cells = [row["atlas"], row["widget"], row["tensors"], *(f"{1e3 * x:.0f}" for x in numbers)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


OPEN = """
from lrnb import widgets
try:
    from lrnb.conflicts import atlas
except ImportError:
    from lrnb import atlas
a = atlas.load({atlas!r})
e = widgets.{expression}
e
"""
MOVES = """
import json, time
found, slider = [], e.controls["slack"]
for share in {shares}:
    begun = time.perf_counter(), time.process_time()
    slider.value = share
    found.append([time.perf_counter() - begun[0], time.process_time() - begun[1]])
print(json.dumps(found))
"""
SIDES = ("before", "after")


@contextmanager
def kernel(tree: Path, atlas: Path, expression: str) -> Iterator[Any]:
    """A client of a kernel that works with the package in `tree` and has a widget open, as `e`."""
    from jupyter_client.manager import start_new_kernel

    env = measure.variables(tree) | {"LRNB_HEADLESS": ""}
    manager, client = start_new_kernel(startup_timeout=300, env=env, cwd=str(tree))
    try:
        told(client, OPEN.format(atlas=str(atlas), expression=expression))
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def told(client: Any, code: str) -> str:
    """What some code prints in a kernel. RuntimeError for an error in it."""
    said: list[str] = []

    def hear(message: Mapping[str, Any]) -> None:
        said.append(message["content"].get("text", ""))

    reply = client.execute_interactive(code, output_hook=hear, timeout=900)["content"]
    if reply["status"] != "ok":
        raise RuntimeError("\n".join(reply.get("traceback", [reply["status"]])))
    return "".join(said)


def kernel_rounds(
    sides: Mapping[str, tuple[Path, Path]], expression: str, rounds: int
) -> list[dict[str, Any]]:
    """Of every round the medians of nine moves of the slider: {side: [seconds, processor seconds]}."""
    shares, found = [round(0.30 + 0.01 * step, 2) for step in range(10)], []
    with ExitStack() as stack:
        open_ = {name: stack.enter_context(kernel(*given, expression)) for name, given in sides.items()}
        for number in range(rounds + 1):
            own = {}
            for name in SIDES if number % 2 else SIDES[::-1]:
                order = shares if number % 2 else shares[::-1]  # each move is a change
                times = json.loads(told(open_[name], MOVES.format(shares=order)))[1:]
                own[name] = [median(column) for column in zip(*times, strict=True)]
            found.append(own)
    return found[1:]  # the first compiles


def bench_kernels(given: argparse.Namespace) -> None:
    """Measure the kernel's part in both trees, write the result, print the table."""
    old, rows = given.old.absolute(), []
    for name, _, paths in (text.partition("=") for text in given.atlases):
        new_atlas, old_atlas = (Path(path).absolute() for path in paths.split(","))
        sides = {"before": (old, old_atlas), "after": (ROOT, new_atlas)}
        for widget, expression in WIDGETS.items():
            rows.append(
                {"atlas": name, "widget": widget, "rounds": kernel_rounds(sides, expression, given.rounds)}
            )
            print(kernel_row(rows[-1]), file=sys.stderr, flush=True)
    result = {"schema": 1, "started": now(), "machine": measure.machine(), "versions": measure.versions()}
    result |= {"before": measure.commit(old), "commit": measure.commit(ROOT), "rows": rows}
    write(result, given.results, "widgets-kernel", kernel_markdown(result))


def kernel_row(row: Mapping[str, Any]) -> str:
    """A line of the table: processor milliseconds of the medians, ratios with their smallest and largest."""
    cpu = {side: [one[side][1] for one in row["rounds"]] for side in SIDES}
    told_ratio = measure.paired(cpu["before"], cpu["after"])
    cells = [row["atlas"], row["widget"], *(f"{1e3 * median(cpu[side]):.0f}" for side in SIDES), told_ratio]
    return f"| {' | '.join(cells)} |"


def kernel_markdown(result: Mapping[str, Any]) -> str:
    """The table."""
    machine, rounds = result["machine"], len(result["rows"][0]["rounds"])
    return "\n".join(
        [
            f"# Slider to redrawn figure, the kernel's part, after against before, {result['started'][:10]}",
            "",
            f"{machine['processor']}, {machine['cores']} cores; before: {result['before'][:10]}, after: "
            f"{result['commit'][:10]}; {rounds} paired rounds of nine moves; processor time a move.",
            "",
            "| atlas | widget | before, ms | after, ms | ratio |",
            "|---|---|---|---|---|",
            *map(kernel_row, result["rows"]),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Open, move, measure."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.widgets", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--moves", type=int, default=30)
    add("--nano", type=Path, default=ROOT / "runs/nano/qaa/conflicts/262k", help="an atlas of the nano study")
    add("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    add("--results", type=Path, default=RESULTS)
    add("--old", type=Path, help="another checkout: the kernel's part in both, in paired rounds")
    add("--rounds", type=int, default=9)
    add("--atlases", nargs="+", default=[], metavar="NAME=NEW,OLD", help="atlases of both trees' formats")
    given = top.parse_args(arguments)
    return measure.status(bench_kernels if given.old else bench, given)


def bench(given: argparse.Namespace) -> None:
    """Measure, write the result, print the table."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.browser import browser
    from support.lab import Lab

    from lrnb.conflicts import atlas

    folders = {"nano": given.nano, "7B": atlas_7b(bench_dir(given.dir).absolute())}
    tensors = {name: len(atlas.load(folder).tensors) for name, folder in folders.items()}
    result: dict[str, Any] = {"schema": 1, "started": now(), "machine": measure.machine(), "rows": []}
    result |= {"versions": measure.versions(), "commit": measure.commit(ROOT)}
    with tempfile.TemporaryDirectory() as home, browser() as chrome, closing(Lab(Path(home, "lab"))) as lab:
        result["browser"] = f"chromium {chrome.version}"
        for name, folder in folders.items():
            for widget in WIDGETS:
                seconds = latencies(chrome, lab, folder, widget, given.moves)
                print(f"{name}: {widget}: {median(seconds):.3f} s", file=sys.stderr, flush=True)
                row = {"atlas": name, "widget": widget, "tensors": tensors[name]}
                result["rows"].append(row | {"seconds": [round(s, 4) for s in seconds]})
    write(result, given.results, "widgets", markdown(result))


if __name__ == "__main__":
    sys.exit(main())
