"""The `conflicts` command: an atlas of what a merge of ct and sft would keep, drop and win back."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.cli.merge import VOCABULARY_HELP, add_option, flag_of, model_options, refuse_forgotten, values_of
from lrnb.cli.output import print_json, refuse_other
from lrnb.errors import UserError
from lrnb.merging.gpu import worker_for
from lrnb.merging.methods.ties_sv import METHOD
from lrnb.report.tables import print_table
from lrnb.study.files import full_disk_message

if TYPE_CHECKING:
    from lrnb.conflicts.atlas import Atlas

DENSITY = 0.5  # where none is given
SPECS = METHOD.fields()
ASKED = {name: SPECS[name] for name in ("weights", "slack", "slack_threshold", "protect", "zero_sign")}
ASKED = {"density": replace(SPECS["density"], default=DENSITY)} | ASKED
EXAMPLES = """\
Counts are exact, for both trim scopes. With --out an atlas is written: tensors.parquet (one row a tensor),
sample.npz (some entries of every tensor, from which every other density, weight and slack is told without
the models) and atlas.json. In Python: conflicts.what_if(conflicts.load(DIR), density=0.3).

example:
  lrnb conflicts --base B --model ct=C --model sft=S --density 0.5 --slack 0.1 --out atlas
"""


def conflicts_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    model_options(command)
    add: Any = command.add_argument
    for name, spec in ASKED.items():
        add_option(command, name, {"": spec})
    add("--vocabulary", default="refuse", metavar="HOW", help=VOCABULARY_HELP)
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 (default) takes all cores")
    add("--out", type=Path, metavar="DIR", help="write the atlas here")
    add("--force", action="store_true", help="replace DIR even if it holds something else")
    add("--json", action="store_true", help="print the whole model's numbers as JSON")


def run_conflicts(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    if len(models := given.model) < 2:
        wanted = "two models or more, such as --model ct=DIR --model sft=DIR"
        raise UserError(f"conflicts needs {wanted}; got {len(models)}")
    _, threads = worker_for("cpu", given.threads)
    refuse_other(given.out, "atlas.json", "atlas", given.force)
    from lrnb.conflicts import atlas, counts
    from lrnb.merging import bits, task_vectors

    bits.leave_out_blas()
    options = _whose({"density": DENSITY} | values_of(given, ASKED), list(models))
    refuse_forgotten(SPECS, options, models)
    counts.setting(list(models), spell=partial(flag_of, SPECS), **options)  # before any model is opened
    start = time.perf_counter()
    how: dict[str, Any] = {"method": "conflicts", "threads": threads, "vocabulary": given.vocabulary}
    opened = task_vectors.TaskVectors(given.base, models, **how)
    for note in opened.notes:
        print(f"lrnb: {note}", file=sys.stderr)
    for doubt in opened.doubts:
        print(f"lrnb: warning: {doubt}", file=sys.stderr)
    rows = {"vocabulary": opened.alignment.facts} if opened.alignment else {}
    made = atlas.build(opened, **options, facts={"base": given.base, **models, **rows})
    if given.out:
        with full_disk_message(Path(given.out)):
            atlas.save(made, given.out)
    if given.json:
        print_json(_whole(made))
    else:
        _print(made, time.perf_counter() - start)
        if given.out:
            print(given.out)
    return 0


def _whose(options: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """Without slack nobody is protected: models need none that is called sft, and the last stands for it."""
    if options.keys() & {"protect", "slack", "slack_threshold"} or "sft" in models:
        return options
    return options | {"protect": models[-1]}


def _whole(made: Atlas) -> dict[str, Any]:
    from lrnb.conflicts.atlas import SCOPES, sizes
    from lrnb.conflicts.counts import sums

    rows = {scope: dict(sums(made.exact(scope), made.protect)) for scope in SCOPES}
    size = sizes(made).drop(columns=["tensor", "n"]).iloc[-1]
    return {**made.facts, **size, **{f"trim_scope_{name}": row for name, row in rows.items()}}


def _print(made: Atlas, seconds: float) -> None:
    from lrnb.conflicts.atlas import SCOPES
    from lrnb.conflicts.counts import sums

    found, of = {scope: sums(made.exact(scope), made.protect) for scope in SCOPES}, _of(made)
    keys = ("density", "weights", "slack", "slack_threshold")
    setting = "; ".join(f"{key} {_plain(made.facts[key])}" for key in keys if made.facts[key] is not None)
    print(f"{int(found['model']['n']):,} entries, {seconds:.1f} s; {setting}")
    rows = []
    for name, (words, whole) in of.items():
        cells = {"entries": f"{name.replace('_', ' ')}, % of {words}"}
        for scope, row in found.items():
            cells |= {scope: f"{int(row[name]):,}", f"{scope} %": f"{row[name] / max(row[whole], 1):.2%}"}
        rows.append(cells)
    print_table(rows, "by trim scope: one threshold for the model, or one for each tensor")
    _print_modules(made)


def _of(made: Atlas) -> dict[str, tuple[str, str]]:
    """Count: what it is given in percent of, in words and as a column."""
    lost = f"{made.protect}_discarded"
    return {
        **{f"{parent}_kept": ("all", "n") for parent in made.parents},
        **{f"{parent}_discarded": ("its kept", f"{parent}_kept") for parent in made.parents},
        "overlap": ("all", "n"),
        "conflicts": ("all", "n"),
        "reserved": (lost.replace("_", " "), lost),
    }


def _plain(value: Any) -> str:
    """0.5, or ct 0.2, sft 0.6 where the parents differ."""
    if not isinstance(value, dict):
        return f"{value:g}"
    if len(numbers := set(value.values())) == 1:
        return f"{numbers.pop():g}"
    return ", ".join(f"{name} {x:g}" for name, x in value.items())


def _print_modules(made: Atlas) -> None:
    from lrnb.conflicts.counts import sums

    rows = []
    for module, part in made.exact("model").groupby("module", sort=False):
        row = sums(part, made.protect)
        lost = {f"{p} discarded %": 100 * row[f"{p}_discarded_share"] for p in made.parents}
        rows.append({"module": module, "entries": int(row["n"]), **lost})
    print_table(rows, "by module, trim scope model: % of the parent's kept entries")
