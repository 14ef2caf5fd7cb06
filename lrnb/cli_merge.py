"""The `merge` command: its options, what each method takes, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

Arguments = Mapping[str, Any]
PerParent = float | dict[str, float]
TIES = {"density", "weight", "lam", "normalize", "trim_scope", "at_threshold", "zero_sign"}
METHODS = {  # the options of each
    "average": {"alpha", "weight", "normalize"},
    "task_arithmetic": {"lam", "normalize"},
    "ties": TIES,
    "ties_sv": TIES | {"slack", "slack_threshold", "protect"},
}
OPTIONS = sorted(METHODS["ties_sv"] | METHODS["average"])
PER_PARENT = {"density": "density", "weight": "weights", "lam": "lam"}  # option: argument of the merge
RUNNING = ("dtype", "device", "threads", "tokenizer", "force")  # options of every merge
OVER_CONFIG = {"trim_scope", "at_threshold", "zero_sign"}  # a configuration leaves these to the command
USAGE = """lrnb merge METHOD --base DIR --model ct=DIR --model sft=DIR [--model NAME=DIR ...] --out DIR
       lrnb merge CONFIG.yaml --out DIR"""
EXAMPLES = """\
methods:
  average           shares of the parents: alpha * ct + (1 - alpha) * sft, or by --weight
  task-arithmetic   base + sum of lam * (parent - base)
  ties              keep the largest entries (--density), elect a sign per entry, average those that agree
  ties-sv           ties, and sft wins back the conflicts that it lost most narrowly (--slack)
  CONFIG.yaml       a mergekit configuration of linear, task_arithmetic, ties or ours, ties_sv; as there
                    --trim-scope tensor --at-threshold exact --zero-sign positive, unless given beside it

examples:
  lrnb merge ties-sv --base B --model ct=C --model sft=S --density 0.5 --slack 0.1 --out merged
  lrnb merge recipe.yaml --out merged --dry-run
"""


def refuse(message: str) -> NoReturn:
    from lrnb.params import UserError  # here, because importing it takes longer than --help may

    raise UserError(message)


def model_options(command: Any, *, required: bool = True) -> None:
    """--base and --model, which `merge` and `conflicts` share."""
    add, text = command.add_argument, "a parent, for example ct=DIR and sft=DIR; repeatable"
    add("--base", required=required, metavar="DIR", help="the model that all parents were trained from")
    add("--model", action="append", required=required, metavar="NAME=DIR", help=text)


def models_of(given: argparse.Namespace) -> dict[str, str]:
    """{name: folder or Hub id} of --model. UserError for a missing half or a name given twice."""
    models: dict[str, str] = {}
    for text in given.model:
        name, _, folder = text.partition("=")
        if not (name and folder and name.isprintable()):
            refuse(f"--model {text!r}: expected NAME=DIR, for example --model ct=runs/nano/qaa/ct/65k")
        if name in models or name == "base":
            refuse(f"--model {text}: the name {name} is taken; give every parent a name of its own")
        models[name] = folder
    return models


def merge_options(command: argparse.ArgumentParser) -> None:
    """All options. None of them has a default here: `None` means not given."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    command.usage = USAGE
    command.add_argument("method", metavar="METHOD", help="one of the methods below, or CONFIG.yaml")
    models = command.add_argument_group("models (a folder, a LoRA adapter's folder, or a Hub id)")
    model_options(models, required=False)
    _method_options(command.add_argument_group("options of the methods"))
    _trim_options(command.add_argument_group("trimming and election (ties, ties-sv)"))
    _running_options(command.add_argument_group("output and running"))


def _method_options(group: Any) -> None:
    add, many = group.add_argument, {"action": "append", "metavar": "[NAME=]N"}
    add("--density", **many, help="ties, ties-sv: share of the entries kept, (0, 1]; for all, or of NAME")
    add("--lam", **many, help="factor on task vectors (default 1); [NAME=] with task-arithmetic only")
    add("--weight", **many | {"metavar": "NAME=W"}, help="a parent's weight, at least 0 (default 1)")
    add("--alpha", type=float, metavar="A", help="average of two: ct's share (or the first's), [0, 1]")
    add("--slack", type=float, metavar="S", help="ties-sv: share of the lost entries won back, [0, 1]")
    add("--slack-threshold", type=float, metavar="X", help="ties-sv: the same as a margin of magnitude")
    add("--protect", metavar="NAME", help="ties-sv: the parent that slack is for (default sft)")
    text = "divide by the weights (average, ties: default) or the factors (task-arithmetic)"
    add("--normalize", action=argparse.BooleanOptionalAction, default=None, help=text)


def _trim_options(group: Any) -> None:
    add = group.add_argument
    add("--trim-scope", choices=("model", "tensor"), help="one threshold a model (default) or a tensor")
    text = "equal magnitudes at the threshold: keep all (default), or the first so that exactly k stay"
    add("--at-threshold", choices=("keep-all", "exact"), help=text)
    text = "sign where the weighted sum is exactly 0 (default majority)"
    add("--zero-sign", choices=("majority", "positive"), help=text)


def _running_options(group: Any) -> None:
    add = group.add_argument
    add("--out", required=True, metavar="DIR", help="folder for the merged model")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="default auto: the base's")
    add("--tokenizer", metavar="NAME", help="whose tokenizer files are copied: base (default) or a parent")
    add("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default auto)")
    add("--threads", type=int, metavar="N", help="CPU threads; 0 (default) takes all cores")
    add("--dry-run", action="store_true", help="show plan, disk and memory needed; write nothing")
    add("--force", action="store_true", default=None, help="replace DIR even if it is no merge made here")
    add("--json", action="store_true", help="print the whole report as JSON")


def merge(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    arguments = arguments_of(given)
    with _plain_warnings() as shown:
        from lrnb import driver

        start = time.perf_counter()
        result = (driver.plan_merge if given.dry_run else driver.merge_checkpoints)(**arguments)
        seconds = time.perf_counter() - start
        for text in result["warnings"]:
            if text not in shown:
                warnings.warn(text, stacklevel=1)
    if given.json:
        print(json.dumps(result, indent=1, default=str))
    elif given.dry_run:
        print_plan(arguments, result)
    else:
        print_report(result, seconds, given.out)
    return 0


def arguments_of(given: argparse.Namespace) -> dict[str, Any]:
    """The command as the arguments of `merge_checkpoints`. UserError before any model is opened."""
    path, known = Path(given.method), given.method.replace("-", "_") in METHODS
    if path.suffix in (".yaml", ".yml") or (path.is_file() and not known):
        arguments = _from_config(given)
    else:
        arguments = _from_options(given)
    arguments |= {"out": given.out, **_given(given, RUNNING)}
    owners = ["base", *arguments["models"]]
    if arguments.get("tokenizer", "base") not in owners:
        refuse(f"--tokenizer {given.tokenizer}: no such model; give one of {', '.join(owners)}")
    if (given.threads or 0) < 0:
        refuse(f"--threads {given.threads}: give a number of threads, or 0 for all cores")
    return arguments


def _from_config(given: argparse.Namespace) -> dict[str, Any]:
    from lrnb.recipe import read_recipe

    if beside := list(_given(given, {"base", "model", *OPTIONS} - OVER_CONFIG)):
        refuse(f"{_flag(beside[0])} beside {given.method}: write it into that file, or give a method")
    recipe = read_recipe(given.method)
    _refuse_foreign(given, recipe.method)
    for note in recipe.notes:
        print(f"lrnb: {given.method}: {note}", file=sys.stderr)
    return recipe.arguments() | _given(given, OVER_CONFIG)


def _from_options(given: argparse.Namespace) -> dict[str, Any]:
    method = _method(given.method)
    _refuse_foreign(given, method)
    if missing := [flag for flag in ("base", "model") if not getattr(given, flag)]:
        refuse(f"merge {given.method} needs --{missing[0]}; see lrnb merge --help")
    models = models_of(given)
    options = _given(given, OPTIONS)
    for option, argument in PER_PARENT.items():
        if option in options:
            named = option != "lam" or method == "task_arithmetic"
            options[argument] = numbers_of(option, options.pop(option), models, named)
    _check(given, method, models, options)
    return {"method": method, "base": given.base, "models": models, **options}


def _method(text: str) -> str:
    import difflib

    method = text.replace("-", "_")
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {_spoken(near[0])}?" if near else "see lrnb merge --help"
        refuse(f"merge {text}: no such method, and no configuration file; {hint}")
    return method


def _refuse_foreign(given: argparse.Namespace, method: str) -> None:
    if foreign := sorted(set(_given(given, OPTIONS)) - METHODS[method]):
        known = ", ".join(map(_flag, sorted(METHODS[method])))
        refuse(f"merge {_spoken(method)} has no {_flag(foreign[0])}; its options are {known}")


def _check(given: argparse.Namespace, method: str, models: Collection[str], options: Arguments) -> None:
    if method.startswith("ties"):
        density = options.get("density")
        own = density if isinstance(density, dict) else {}
        if density is None or (own and set(models) - set(own)):
            whose = f" of {', '.join(name for name in models if name not in own)}" if own else ""
            needs = f"needs --density{whose}, the share of entries kept, for example --density 0.5"
            refuse(f"merge {given.method} {needs}")
    if method == "ties_sv":
        if len(_given(given, {"slack", "slack_threshold"})) != 1:
            refuse(f"merge {given.method} needs one of --slack and --slack-threshold")
        if (protect := options.get("protect", "sft")) not in models:
            refuse(f"--protect: no --model is called {protect}; give --protect one of {', '.join(models)}")
    if "alpha" in options and ("weights" in options or len(models) != 2):
        refuse("--alpha is for two parents and goes without --weight; give weights instead")


def numbers_of(option: str, texts: list[str], models: Collection[str], named: bool = True) -> PerParent:
    """One number for all parents, or {name: number} where one was given by name."""
    found: dict[str, float] = {}  # "" is for all
    for text in texts:
        name, sep, number = text.rpartition("=")
        flag = f"{_flag(option)} {text}"
        if sep and not named:
            refuse(f"{flag}: a number by parent goes with task-arithmetic only; give one number")
        if (sep and name not in models) or (not sep and option == "weight"):
            refuse(f"{flag}: expected NAME=NUMBER with NAME one of {', '.join(models)}")
        if name in found:
            refuse(f"{flag}: given twice for {name or 'all'}; keep one")
        try:
            found[name] = float(number)
        except ValueError:
            refuse(f"{flag}: {number!r} is not a number")
    if set(found) == {""}:
        return found[""]
    return {name: found.get(name, found.get("", 0.0)) for name in models if name in found or "" in found}


def _given(given: argparse.Namespace, keys: Collection[str]) -> dict[str, Any]:
    found = {key: getattr(given, key) for key in sorted(keys)}
    return {key: value for key, value in found.items() if value is not None}


def _spoken(name: str) -> str:
    return name.replace("_", "-")


def _flag(key: str) -> str:
    return f"--{_spoken(key)}"


@contextmanager
def _plain_warnings() -> Iterator[list[str]]:
    """Warnings as one line of the command, without the place in the code; yields those shown."""
    shown: list[str] = []

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"lrnb: warning: {message}", file=sys.stderr)
        shown.append(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield shown


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def print_plan(arguments: Arguments, plan: Arguments) -> None:
    """What a merge would read, write and need, a line each (`plan` of `lrnb.driver.plan_merge`)."""
    models = {"base": arguments["base"], **plan["models"]}
    rows = [("method", _spoken(arguments["method"])), *models.items(), *plan["options"].items()]
    rows += [
        ("tensors", f"{plan['tensors']:,} with {plan['entries']:,} entries"),
        ("passes", f"{plan['passes']} over the inputs"),
        ("disk", f"{_size(plan['output_bytes'])} of {_size(plan['disk_free'])} free"),
        ("memory", _size(plan["memory_bytes"])),
        ("out", f"{arguments['out']} (dry run: nothing was written)"),
    ]
    for label, value in rows:
        print(f"{label + ':':<18}{value}")


def print_report(report: Arguments, seconds: float, out: str) -> None:
    """The measured shares of a merge, and where it is."""
    from rich.console import Console
    from rich.table import Table

    parents = ", ".join(report["models"])
    print(f"{_spoken(report['method'])} of {parents}: {report['entries']:,} entries, {seconds:.1f} s")
    if report["parents"]:
        grid = Table(box=None, padding=(0, 1))
        for column in ("parent", "kept", "of all", "discarded", "of kept"):
            grid.add_column(column, justify="left" if column == "parent" else "right", overflow="fold")
        for name, x in report["parents"].items():
            kept, lost = f"{x['kept']:,}", f"{x['discarded']:,}"
            grid.add_row(name, kept, f"{x['kept_share']:.2%}", lost, f"{x['discarded_share']:.2%}")
        Console(markup=False, emoji=False).print(grid)
        print(f"conflicts: {report['conflicts']:,}, {report['conflict_share']:.2%} of all entries")
    if "reserved" in report:
        print(f"won back:  {report['reserved']:,}, {report['reserved_share']:.2%} of what ties would discard")
    print(out)
