"""From a slider's move to the redrawn figure, in a real browser at a real JupyterLab.

    python -m benchmarks.widgets [--moves 30] [--nano runs/nano/qaa/conflicts/262k]

Debian's chromium, driven by playwright, opens SlackExplorer, the sign-conflict histogram and BudgetPlayer on
an atlas of the nano study and on the 7B-shaped one of `benchmarks.atlas`. A move is a key press on the
slider of slack; its time ends when plotly has drawn the answer. The rig is that of
tests/support/browser.py. Writes results/<date>-widgets.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import closing
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


def main(arguments: list[str] | None = None) -> int:
    """Open, move, measure."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.widgets", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--moves", type=int, default=30)
    add("--nano", type=Path, default=ROOT / "runs/nano/qaa/conflicts/262k", help="an atlas of the nano study")
    add("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    add("--results", type=Path, default=RESULTS)
    return measure.status(bench, top.parse_args(arguments))


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
