"""The `lrnb` command. Every library is imported by the command that needs it, so that --help is instant.

That goes for lrnb.params too: pydantic takes longer than all the rest of --help. `merge` is in cli_merge.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lrnb import __version__
from lrnb.cli_conflicts import conflicts, conflicts_options
from lrnb.cli_merge import merge, merge_options

if TYPE_CHECKING:
    from lrnb.params import Study

KEEP_CODE = "treat finished steps as up to date although lrnb's own code changed"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 a step failed, 2 something the user can mend."""
    top = parser()
    given, rest = top.parse_known_args(arguments)
    if rest and given.run is not _lab:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    given.rest = rest
    try:
        return int(given.run(given) or 0)
    except KeyboardInterrupt:
        then = "Nothing was written" if given.run is _merge else "The same command continues where it was"
        print(f"lrnb: stopped. {then}.", file=sys.stderr)
        return 130
    except Exception as error:
        from lrnb.params import UserError

        if given.debug or not isinstance(error, UserError):
            raise
        print(f"lrnb: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lrnb", description=__import__("lrnb").__doc__)
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--debug", action="store_true", help="show Python's traceback for every error")
    commands = top.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, run, add, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        add(command)
    return top


def _run_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("params", type=Path, metavar="PARAMS.yaml", help="a language, for example params/bn.yaml")
    add("--preset", default="nano", help="how big the study is: nano (default), smol, released, paper")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a parameter; repeatable",
    )
    add("--seed", type=int, help="seed of the whole study (default 0)")
    add("--seeds", type=int, metavar="N", help="run seeds 0 to N-1, one after the other, and tabulate them")
    add("--jobs", type=int, metavar="N", help="notebooks at once (default: what the cores allow)")
    add("--gpus", type=int, metavar="N", help="GPUs to use (default: all that are visible)")
    add("--profile", default="", help="a folder below profiles/, for example slurm")
    add("--keep-code", action="store_true", help=KEEP_CODE)
    add("--dry-run", action="store_true", help="show steps and needs; run nothing")


def _run(given: argparse.Namespace) -> int:
    from lrnb import plan, taskload
    from lrnb.params import UserError, load_study, parse_override

    overrides = dict(parse_override(text) for text in given.set)
    if given.seeds is not None and (given.seeds < 1 or given.seed is not None):
        raise UserError("--seeds needs a number of at least 1, and goes without --seed")
    seeds = range(given.seeds) if given.seeds else [given.seed]
    studies = [anchor(load_study(given.params, given.preset, overrides, seed)) for seed in seeds]
    if given.preset == "released" and not studies[0].released_ct:
        raise UserError(
            f"the authors released no CT weights for {studies[0].lang_name or studies[0].lang}; "
            "use preset paper or smol"
        )
    taskload.require_known([*studies[0].compared, *studies[0].tasks_written, *studies[0].dev_tasks])
    plan.refuse_unused(plan.plan(studies[0]).values(), overrides)
    if given.dry_run:
        return _show_plan(studies[0], given.keep_code)
    failed = [_run_one(study, given) for study in studies]
    if given.seeds and not any(failed):
        from lrnb import batch, tables

        tables.print_seeds(studies)
        for study in studies:
            batch.rewrite_report(study)  # reports show the table over seeds
    return 1 if any(failed) else 0


def _run_one(study: Study, given: argparse.Namespace) -> bool:
    """Whether any step of the study failed; prints the results where none did."""
    from lrnb import runner, tables

    options = {key: getattr(given, key) for key in ("jobs", "gpus", "profile", "keep_code")}
    failed = runner.run_study(study, **options)
    if not failed:
        tables.print_results(study)
    elif "scores" in failed:
        tables.print_left_alone(study)
    return bool(failed)


def anchor(study: Study) -> Study:
    """Paths that the user gave count from where the command was typed; notebooks run in the checkout."""
    from lrnb.params import ROOT

    given = study.data_root or (os.environ.get("LRNB_DATA", "") if study.preset != "nano" else "")
    paths = {"runs": study.runs, "data_root": given}
    models = {key: getattr(study, key) for key in ("base_source", "released_ct", "released_sft")}
    paths |= {key: value for key, value in models.items() if value and Path(value).is_dir()}
    if Path.cwd() != ROOT:
        paths = {key: str(Path(value).absolute()) if value else "" for key, value in paths.items()}
    return study.model_copy(update=paths)


def _show_plan(study: Study, keep_code: bool) -> int:
    from lrnb import estimate, fresh, plan, tables

    steps = plan.plan(study)
    todo = fresh.outdated(study, steps, keep_code)
    tables.print_plan(study, steps, todo, estimate.describe(study))
    return 0


def _exec_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "notebook", help="a notebook; with --study the name of a step, as the Snakefile calls it"
    )
    command.add_argument(
        "-p", action="append", default=[], metavar="KEY=VALUE", help="a parameter; repeatable"
    )
    command.add_argument("--out", type=Path, help="executed copy (default runs/exec/<name>.ipynb)")
    command.add_argument("--study", type=Path, metavar="PARAMS.yaml", help="params.yaml of a run folder")
    command.add_argument("--keep-code", action="store_true", help=f"with --study: {KEEP_CODE}")


def _exec(given: argparse.Namespace) -> int:
    from lrnb import batch, plan
    from lrnb.params import ROOT, parse_override

    try:
        if given.study:
            params = given.study.absolute()
            os.chdir(ROOT)  # relative paths of a study count from the checkout
            batch.run_step(plan.read_study(params), given.notebook, keep_code=given.keep_code)
            return 0
        notebook = Path(given.notebook)
        out = given.out or ROOT / "runs" / "exec" / notebook.name
        print(batch.exec_notebook(notebook, dict(parse_override(text) for text in given.p), out))
        return 0
    except batch.NotebookFailed as error:
        print(f"lrnb: {error}", file=sys.stderr)
        return 1


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="a model folder")
    tasks = "names, separated by commas: files in lrnb/tasks/ (with _en for English), paths of task files, "
    command.add_argument("--tasks", required=True, help=tasks + "tasks of lm-evaluation-harness")
    command.add_argument("--lang", required=True)
    command.add_argument("--data-root", type=Path, required=True, help="folder that holds eval/")
    command.add_argument("--limit", type=int, help="items a task (default all)")
    command.add_argument("--shots", type=int, default=0, help="solved examples before each item")
    command.add_argument("--prompts", choices=("english", "native"), default="english")
    command.add_argument("--normalisation", choices=("task", "none", "token", "byte", "character"),
        default="task", help="of options' log-likelihoods (default: what the task file says)")  # fmt: skip
    command.add_argument("--split", choices=("test", "dev"), default="test")
    command.add_argument("--seed", type=int, default=0, help="picks items, examples and the order of options")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _evaluate(given: argparse.Namespace) -> int:
    from lrnb import tables
    from lrnb.evaluate import evaluate_folder

    keys = ("limit", "shots", "prompts", "normalisation", "split")
    how = {key: getattr(given, key) for key in keys}
    names = [name.strip() for name in given.tasks.split(",")]
    options = {"seed": given.seed, "device": given.device, "given": how}
    scores = evaluate_folder(given.folder, names, given.lang, given.data_root, **options)
    shown = ["task", "metric", "value", "ci_low", "ci_high", "chance", "n", "collapsed"]
    tables.print_frame(scores.reindex(columns=shown), str(given.folder))
    return 0


def _report_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="a run folder, for example runs/nano/qaa")


def _report(given: argparse.Namespace) -> int:
    from lrnb.params import UserError
    from lrnb.report import write_report

    if not given.folder.is_dir():
        raise UserError(f"{given.folder}: no such run folder; lrnb run makes it")
    print(write_report(given.folder))
    return 0


def _lab_options(command: argparse.ArgumentParser) -> None:
    command.epilog = "Further options go to jupyter lab, for example --no-browser --port 9000."


def _lab(given: argparse.Namespace) -> int:
    from lrnb.params import ROOT

    start = ROOT / "notebooks" / "00_start_here.ipynb"
    os.chdir(ROOT)
    command = [sys.executable, "-m", "jupyterlab", str(start.relative_to(ROOT)), *given.rest]
    os.execv(sys.executable, command)


def _merge(given: argparse.Namespace) -> int:
    """A terminated merge ends like an interrupted one: what was being written is removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return merge(given)
    finally:
        signal.signal(signal.SIGTERM, before)


Command = tuple[str, Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str]
COMMANDS: list[Command] = [
    ("run", _run, _run_options, "the whole study of one language"),
    ("merge", _merge, merge_options, "merge checkpoints"),
    ("evaluate", _evaluate, _evaluate_options, "score one model folder"),
    ("conflicts", conflicts, conflicts_options, "an atlas of what trimming and election drop"),
    ("report", _report, _report_options, "write report.html of a run folder"),
    ("lab", _lab, _lab_options, "JupyterLab at the map of the study"),
    ("exec", _exec, _exec_options, "run one notebook headless, with checked parameters"),
]
