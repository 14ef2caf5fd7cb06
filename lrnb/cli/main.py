"""The `lrnb` command. Every library is imported by the command that needs it, so that --help is instant.

That goes for `lrnb.study.parameters` too: pydantic takes longer than all the rest of --help.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb import __version__
from lrnb.cli.check import check_options, check_study
from lrnb.cli.compare import compare_options, run_compare
from lrnb.cli.evaluate import evaluate_options, run_evaluate
from lrnb.cli.freeze import freeze_options, run_freeze
from lrnb.cli.importance import importance_options, run_importance
from lrnb.cli.new import new_options, run_new
from lrnb.cli.output import refuse_other
from lrnb.cli.pool import pool_options, run_pool
from lrnb.cli.questions import questions_options, run_questions
from lrnb.cli.vocabulary import run_vocabulary, vocabulary_options
from lrnb.errors import UserError, did_you_mean
from lrnb.pipeline import warm
from lrnb.study.environment import UNTESTED, instruction_set, usable_home

if TYPE_CHECKING:
    from lrnb.study.parameters import Study

KEEP_CODE = "treat finished steps as up to date although lrnb's own code changed"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 a step failed, 2 something the user can mend."""
    top = parser()
    given, rest = top.parse_known_args(arguments)
    if rest and given.run is not _lab:
        given.command.error(f"unrecognized arguments: {' '.join(rest)}{_nearest(rest, given.command)}")
    given.rest = rest
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows ? for what it lacks
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")
    usable_home()
    try:
        return int(given.run(given) or 0)
    except KeyboardInterrupt:
        then = "Nothing was written" if given.run is _merge else "The same command continues where it was"
        print(f"lrnb: stopped. {then}.", file=sys.stderr)
        return 130
    except Exception as error:
        if given.debug or not isinstance(error, UserError):
            raise
        print(f"lrnb: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lrnb", description=__import__("lrnb").__doc__)
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--debug", action="store_true", help="show Python's traceback for every error")
    commands = top.add_subparsers(
        required=True, metavar="COMMAND", title="commands", parser_class=CommandParser
    )
    for name, run, add, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, command=command)
        command.fill = add
    return top


def _nearest(rest: Sequence[str], command: CommandParser) -> str:
    """The flags of a command that are most like those that it does not know."""
    flags = {flag for action in command._actions for flag in action.option_strings}
    wrong = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return "".join(dict.fromkeys(did_you_mean(word, sorted(flags), str) for word in wrong))


class CommandParser(argparse.ArgumentParser):
    """The options of one command, made when it is called: what they are made from may take long to import."""

    fill: Callable[[argparse.ArgumentParser], None] | None = None
    help_of: Callable[[Sequence[str]], str] | None = None  # help that depends on the command's words, or ""
    words: Sequence[str] = ()

    def parse_known_args(self, *given: Any, **more: Any) -> Any:
        self.words = given[0] if given else ()
        if self.fill is not None:
            self.fill(self)
            self.fill = None
        return super().parse_known_args(*given, **more)

    def format_help(self) -> str:
        return (self.help_of(self.words) if self.help_of else "") or super().format_help()


def _run_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("params", type=Path, nargs="+", metavar="PARAMS.yaml",
        help="a language, for example params/bn.yaml; several, or a file of names: one study")  # fmt: skip
    add(
        "--preset",
        help="how big the study is: smol (default), released, released-qwen, "
        "released-qwen-3b, paper; nano for the micro-world",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a parameter, or @FILE with such values in YAML; repeatable",
    )
    add("--seed", type=int, help="seed of the whole study (default 0)")
    add("--seeds", metavar="N|A-B",
        help="run seeds 0 to N-1, or A to B, and tabulate them (as one graph on a cluster)")  # fmt: skip
    add("--pool", type=Path, metavar="DIR",
        help="keep what each seed has right in a small file there; seeds it has are not run")  # fmt: skip
    add("--jobs", type=int, metavar="N", help="notebooks at once (default: what the cores allow)")
    add("--gpus", type=int, metavar="N", help="GPUs to use (default: all that are visible)")
    add("--profile", default="", help="a folder below profiles/, for example slurm")
    add("--keep-code", action="store_true", help=KEEP_CODE)
    add("--no-warm", dest="warm", action="store_false",
        help="start every kernel from nothing, not from one process that has imported")  # fmt: skip
    add("--dry-run", action="store_true", help="show steps and needs; run nothing")


def _run(given: argparse.Namespace) -> int:
    from lrnb.pipeline import profiles
    from lrnb.pipeline import steps as plan
    from lrnb.study.parameters import default_preset, load_languages, read_overrides, require_checkout
    from lrnb.tasks import loading

    require_checkout("run")
    given.preset = given.preset or default_preset(given.params)
    overrides = read_overrides(given.set)
    if given.seeds is not None and given.seed is not None:
        raise UserError("--seeds goes without --seed")
    if given.pool and given.seeds is None and given.seed is None:
        raise UserError("--pool needs --seeds or --seed: which seeds are to be in the pool?")
    seeds = [given.seed] if given.seeds is None else parse_seeds(given.seeds)
    by_seed = [
        [anchor(study) for study in load_languages(given.params, given.preset, overrides, seed)]
        for seed in seeds
    ]
    for study in by_seed[0]:
        if not study.trains and not study.released_ct:
            raise UserError(
                f"the authors released no CT weights for {study.lang_name or study.lang}; "
                "use preset paper or smol"
            )
        loading.require_names(study)
        plan.refuse_unused(plan.plan(study).values(), overrides)
    if (device := by_seed[0][0].device) in UNTESTED:
        print(UNTESTED[device])
    is_local = profiles.read_profile(given.profile).is_local
    if is_local and not given.dry_run:
        tell_slow_precision(by_seed[0][0])
    if given.pool:
        return max(_run_into_pool([*studies], given) for studies in zip(*by_seed, strict=True))
    graphs = by_seed if is_local else _one_graph(by_seed)
    if given.dry_run:
        return _show_plan(graphs, given)
    failed = [_run_together(studies, given) for studies in graphs]
    if given.seeds and not any(failed):
        _after_seeds(by_seed)
    if len(by_seed[0]) > 1:
        _after_languages(by_seed[0][0])
    return 1 if any(failed) else 0


def tell_slow_precision(study: Study) -> None:
    """A line where this machine trains much slower in the precision asked for than in another."""
    from lrnb.pipeline import estimate

    if slow := estimate.slow_precision(study):
        print(f"precision: {slow}", file=sys.stderr, flush=True)


def _one_graph(by_seed: list[list[Study]]) -> list[list[Study]]:
    """All languages of all seeds together: no seed waits for the last step of another."""
    return [[study for studies in by_seed for study in studies]]


def _after_seeds(by_seed: list[list[Study]]) -> None:
    """The table over seeds of every language, in the terminal and in the reports."""
    from lrnb.pipeline import notebooks
    from lrnb.report import terminal

    for studies in zip(*by_seed, strict=True):
        terminal.print_seeds([*studies])
        for study in studies:
            notebooks.rewrite_report(study)


def _after_languages(study: Study) -> None:
    """The page of all languages and seeds that are finished beside `study`, and what it says in a table."""
    from lrnb.report import languages_page, terminal

    runs = Path(study.runs)
    if languages_page.finished(languages_page.runs_of(runs, study.preset)):
        content = languages_page.content_of(runs, study.preset)
        page = languages_page.write_content(runs, study.preset, content)
        terminal.print_languages(content["frames"]["leads_over_languages"], page)


def parse_seeds(text: str) -> range:
    """ "4" -> 0 to 3, "8-15" -> 8 to 15. UserError for anything else."""
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() if dash else int(first))):
        raise UserError(
            f"--seeds {text!r}: give a number of seeds of at least 1, or a first and a last: 0-31"
        )
    found = range(int(first), int(last) + 1) if dash else range(int(first))
    if not found:
        raise UserError(
            f"--seeds {text!r}: the first seed comes after the last; did you mean {last}-{first}?"
        )
    return found


def _run_into_pool(studies: list[Study], given: argparse.Namespace) -> int:
    """Run the seeds that the pool lacks, writing its file after each; print what it says then."""
    from lrnb.analysis import pool, pool_lines
    from lrnb.pipeline import notebooks
    from lrnb.report import terminal
    from lrnb.study.recipe import pool_file

    gpu = notebooks.usable_gpus(studies[0])
    path, isa = pool_file(given.pool, studies[0]), "cuda" if gpu else instruction_set()
    lines = pool.refuse_misfit(studies[0], path)
    left = [study for study in studies if not pool_lines.has(lines, study, isa)]
    print(f"{path}: has {len(studies) - len(left)} of these {len(studies)} seeds on {isa}")
    for study in left:
        pool.refuse_other_set(study, isa)
    if given.dry_run:
        return _show_plan([[study] for study in left], given) if left else 0
    failed = []
    for study in left:
        failed.append(_run_together([study], given))
        if not failed[-1]:
            pool.add_run(study, path)
    terminal.print_pool(path)
    return 1 if any(failed) else 0


def _run_together(studies: list[Study], given: argparse.Namespace) -> bool:
    """Whether any step of the studies of a graph failed; prints the results of those that are whole."""
    from lrnb.pipeline import graph, runner
    from lrnb.report import terminal
    from lrnb.study.stages import RunPaths

    options = {key: getattr(given, key) for key in ("jobs", "gpus", "profile", "keep_code", "warm")}
    failed = runner.run_studies(studies, **options)
    for study in studies:
        scores, report = (graph.node_name(RunPaths(study).lang, n, studies) for n in ("scores", "report"))
        if scores in failed:
            terminal.print_left_alone(study)
        elif report not in failed:
            terminal.print_results(study)
    return bool(failed)


def anchor(study: Study) -> Study:
    """Paths that the user gave count from where the command was typed; notebooks run in the checkout."""
    from lrnb.study.parameters import MODEL_FOLDERS, ROOT, TASK_COUNTS, TASK_LISTS

    given = study.data_root or (os.environ.get("LRNB_DATA", "") if study.preset != "nano" else "")
    paths = {"runs": study.runs, "data_root": given}
    models = {key: getattr(study, key) for key in MODEL_FOLDERS}
    paths |= {key: value for key, value in models.items() if value and Path(value).is_dir()}
    if Path(study.language_check).is_file():
        paths["language_check"] = study.language_check
    if Path.cwd() == ROOT:
        return study.model_copy(update=paths)
    extra = {n: str(Path(x).absolute()) if Path(x).is_dir() else x for n, x in study.extra_models.items()}
    absolute = {key: str(Path(value).absolute()) if value else "" for key, value in paths.items()}
    lists = {key: [_anchored(name) for name in getattr(study, key)] for key in TASK_LISTS}
    counts = {key: {_anchored(k): n for k, n in getattr(study, key).items()} for key in TASK_COUNTS}
    rows = {name: str(Path(folder).absolute()) for name, folder in study.sft_x.items()}
    return study.model_copy(update=absolute | lists | counts | {"extra_models": extra, "sft_x": rows})


def _anchored(task: str) -> str:
    """A task's name; the path of a task file absolute."""
    from lrnb.tasks.task_file import file_of

    return str(Path(task).absolute()) if file_of(task) else task


def _questions(given: argparse.Namespace) -> int:
    from lrnb.study.parameters import load_study, read_overrides, require_checkout

    require_checkout("questions")
    overrides = read_overrides(given.set)
    seeds = parse_seeds(given.seeds)
    studies = [anchor(load_study(given.params, given.preset, overrides, seed)) for seed in seeds]
    return run_questions(studies, given.pool, given.published)


def _check(given: argparse.Namespace) -> int:
    from lrnb.study.parameters import default_preset, load_study, read_overrides, require_checkout
    from lrnb.tasks import loading

    require_checkout("check")
    overrides = read_overrides(given.set)
    study = anchor(load_study(given.params, given.preset or default_preset([given.params]), overrides))
    loading.require_names(study)
    return check_study(study)


def _show_plan(by_graph: list[list[Study]], given: argparse.Namespace) -> int:
    """The first graph, what its jobs ask a cluster for, and what all need."""
    from lrnb.pipeline import estimate, graph, monitor, preflight, profiles

    if by_graph[0][0].preset != "nano":
        print("reading text and rows, counting tokens ...", file=sys.stderr, flush=True)
    todo, graphs = [], [graph.graph(studies) for studies in by_graph]
    for studies, nodes in zip(by_graph, graphs, strict=True):
        todo.append(graph.outdated_nodes(studies, nodes, given.keep_code))
    left = [(ns[name].study, ns[name].step) for ns, names in zip(graphs, todo, strict=True) for name in names]
    every = [study for studies in by_graph for study in studies]
    monitor.print_plan(graphs[0], todo[0], estimate.describe(every, left, given.jobs))
    if not (profile := profiles.read_profile(given.profile)).is_local:
        monitor.print_requests([graphs[0][name] for name in todo[0]], profile)
    if len(by_graph) > 1:
        seeds = ", ".join(str(studies[0].seed) for studies in by_graph)
        print(f"seeds {seeds}, one after the other; the table is the first one's, the needs are those of all")
    first = by_graph[0][0].seed
    preflight.refuse_missing(*(study for study in by_graph[0] if study.seed == first), hub=False)
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
    if given.study and (status := warm.hand_over()) is not None:
        return status
    from lrnb.pipeline import notebooks
    from lrnb.pipeline import steps as plan
    from lrnb.study.parameters import ROOT, read_overrides, require_checkout

    require_checkout("exec")
    try:
        if given.study:
            params = given.study.absolute()
            os.chdir(ROOT)  # relative paths of a study count from the checkout
            notebooks.run_step(plan.read_study(params), given.notebook, keep_code=given.keep_code)
            return 0
        notebook = Path(given.notebook)
        out = given.out or ROOT / "runs" / "exec" / notebook.name
        print(notebooks.exec_notebook(notebook, read_overrides(given.p), out))
        return 0
    except notebooks.NotebookFailed as error:
        print(f"lrnb: {error}", file=sys.stderr)
        return 1


def _report_options(command: argparse.ArgumentParser) -> None:
    add: Any = command.add_argument
    add("folder", type=Path,
        help="a run folder, for example runs/nano/qaa; or runs: the page of all languages")  # fmt: skip
    add("--export", type=Path, metavar="DIR",
        help="write tables as CSV, the main one as LaTeX, and figures as SVG and PNG here")  # fmt: skip
    add("--force", action="store_true", help="replace DIR even if it holds something else")


def _report(given: argparse.Namespace) -> int:
    from lrnb.report.export import MAIN, export_report
    from lrnb.report.page import write_report

    if not given.folder.is_dir():
        raise UserError(f"{given.folder}: no such run folder; lrnb run makes it")
    refuse_other(given.export, MAIN, "export of a report", given.force)
    if not (given.folder / "params.yaml").is_file() and not given.export:
        return _report_of_all(given.folder)
    print(write_report(given.folder))
    if given.export:
        missing = export_report(given.folder, given.export)
        print(given.export)
        if missing:
            print(missing)
    return 0


def _report_of_all(runs: Path) -> int:
    from lrnb.report.languages_page import write_pages

    for page in write_pages(runs):
        print(page)
    return 0


def _lab_options(command: argparse.ArgumentParser) -> None:
    command.epilog = "Further options go to jupyter lab, for example --no-browser --port 9000."


def _lab(given: argparse.Namespace) -> int:
    from lrnb.study.parameters import ROOT, require_checkout

    require_checkout("lab")
    start = ROOT / "notebooks" / "00_start_here.ipynb"
    os.chdir(ROOT)
    command = [sys.executable, "-m", "jupyterlab", str(start.relative_to(ROOT)), *given.rest]
    os.execv(sys.executable, command)


def _merge_options(command: argparse.ArgumentParser) -> None:
    from lrnb.cli.merge import help_of, merge_options

    merge_options(command)
    if isinstance(command, CommandParser):
        command.help_of = help_of


def _merge(given: argparse.Namespace) -> int:
    """A terminated merge ends like an interrupted one: what was being written is removed."""
    from lrnb.cli.merge import run_merge

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run_merge(given)
    finally:
        signal.signal(signal.SIGTERM, before)


def _conflicts_options(command: argparse.ArgumentParser) -> None:
    from lrnb.cli.conflicts import conflicts_options

    conflicts_options(command)


def _conflicts(given: argparse.Namespace) -> int:
    from lrnb.cli.conflicts import run_conflicts

    return run_conflicts(given)


Command = tuple[str, Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str]
COMMANDS: list[Command] = [
    ("run", _run, _run_options, "the whole study of one language, or of several"),
    ("pool", run_pool, pool_options, "what the runs of several people say together"),
    ("freeze", run_freeze, freeze_options, "what runs have chosen on dev, for others to take as it is"),
    ("new", run_new, new_options, "the files of a new language: params/ and a data folder with examples"),
    ("check", _check, check_options, "what text and tasks a study finds, and what is missing"),
    ("merge", _merge, _merge_options, "merge checkpoints"),
    ("importance", run_importance, importance_options, "which entries of a model matter for some text"),
    ("vocabulary", run_vocabulary, vocabulary_options, "extend a model's vocabulary by a language"),
    ("evaluate", run_evaluate, evaluate_options, "score models, and compare them with the first"),
    ("compare", run_compare, compare_options, "is one model better than another, from scores that are there"),
    (
        "questions",
        _questions,
        questions_options,
        "two open questions of the paper, asked of finished runs",
    ),
    ("conflicts", _conflicts, _conflicts_options, "an atlas of what trimming and election drop"),
    ("report", _report, _report_options, "write report.html of a run, or the page of all runs in a folder"),
    ("lab", _lab, _lab_options, "JupyterLab at the map of the study"),
    ("exec", _exec, _exec_options, "run one notebook headless, with checked parameters"),
]
