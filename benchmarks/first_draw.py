"""From Run All to drawn figures, in a real browser at a real JupyterLab: an older tree against this one.

    python -m benchmarks.first_draw OLD_TREE [--rounds 3]

`00_ties_by_hand` (four figures) is run in a new page and a new kernel, then in the page loaded anew while the
kernel goes on, as a class does. The trees take turns; each is driven by its own tests/support. "late" counts
figures that took longer than the two seconds that anywidget waits. Writes results/<date>-first-draw.json
and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.atlas import write
from benchmarks.merge import RESULTS, ROOT, now

SIDES, FIGURES = ("before", "after"), 4
ONE = """
import json, sys, tempfile, time
from pathlib import Path
from support.browser import DRAWN, RUN_ALL, Notebook, browser
from support.lab import Lab
lab = Lab(Path(tempfile.mkdtemp()) / "lab")
ALL = f"() => document.querySelectorAll('.lrnb-figure').length >= {figures} && ({{DRAWN}})()"
with browser() as chrome:
    page, found = Notebook(chrome, lab, lab.add("00_ties_by_hand")), []
    for load in range(2):
        page.load()
        begun = time.perf_counter()
        page.page.evaluate(RUN_ALL)
        page.page.wait_for_function(ALL)
        found.append(time.perf_counter() - begun)
        page.settle()
    late = sum("Failed to initialize model" in error for error in page.errors)
    print(json.dumps({{"seconds": found, "late": late}}))
lab.close()
"""


def one(tree: Path) -> dict[str, Any]:
    """{seconds: [new kernel, page loaded anew], late: figures} of one process that works with `tree`."""
    env = measure.variables(tree)
    env["PYTHONPATH"] = f"{tree}:{tree / 'tests'}"
    command = [sys.executable, "-c", ONE.format(figures=FIGURES)]
    done = subprocess.run(command, env=env, cwd=tree, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(result: dict[str, Any]) -> str:
    """The table: medians of seconds, ratios of each round with their smallest and largest."""
    machine, rounds = result["machine"], result["rounds"]
    lines = [
        f"# Run All to drawn figures, after against before, {result['started'][:10]}",
        "",
        f"{machine['processor']}, {machine['cores']} cores; before: {result['before'][:10]}, after: "
        f"{result['commit'][:10]}; {len(rounds)} paired rounds; {FIGURES} figures; load {result['load']}.",
        "",
        "| | before, s | after, s | ratio |",
        "|---|---|---|---|",
    ]
    for load, name in enumerate(("new page, new kernel", "page loaded anew, kernel goes on")):
        times = {side: [one[side]["seconds"][load] for one in rounds] for side in SIDES}
        told = measure.paired(times["before"], times["after"])
        lines.append(f"| {name} | {median(times['before']):.1f} | {median(times['after']):.1f} | {told} |")
    late = [str(sum(one[side]["late"] for one in rounds)) for side in SIDES]
    return "\n".join([*lines, f"| figures that came late, of all | {late[0]} | {late[1]} | |"]) + "\n"


def bench(given: argparse.Namespace) -> None:
    """Run the rounds, write the result, print the table."""
    trees, rounds = {"before": given.old.absolute(), "after": ROOT}, []
    for number in range(given.rounds):
        order = SIDES if number % 2 else SIDES[::-1]
        rounds.append({side: one(trees[side]) for side in order})
        print(rounds[-1], file=sys.stderr, flush=True)
    result = {"schema": 1, "started": now(), "machine": measure.machine(), "versions": measure.versions()}
    result |= {"load": Path("/proc/loadavg").read_text().split()[1]}
    result |= {"before": measure.commit(trees["before"]), "commit": measure.commit(ROOT), "rounds": rounds}
    write(result, given.results, "first-draw", markdown(result))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="a checkout of an older version")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return measure.status(bench, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
