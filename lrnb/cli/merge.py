"""The `merge` command: options made from the methods' declarations, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from lrnb.errors import UserError, shortened
from lrnb.merging.by_tensor import BY_TENSOR
from lrnb.merging.methods import METHODS, find
from lrnb.merging.registry import Method, Option, Published
from lrnb.report.tables import print_facts, print_table
from lrnb.study.files import from_home

Arguments = Mapping[str, Any]
RUNNING = ("dtype", "device", "threads", "tokenizer", "vocabulary", "force")  # options of every merge
KITS = [method.mergekit for method in METHODS.values() if method.mergekit]
OVER = {name: value for kit in KITS for name, value in kit.defaults.items()}  # no mergekit file says these
METAVARS = {"parent": "NAME", "folder": "DIR"}
LINES = 40  # of a plan's groups
CHECK_HELP = """try the merge before it gets its name: bits per byte of base, parents and merge on FILE (text
    in X) and on English, and an answer; auto: on text held out by the run that a parent lies in"""
USAGE = """lrnb merge METHOD --base DIR --model ct=DIR --model sft=DIR [--model NAME=DIR ...] --out DIR
       lrnb merge CONFIG.yaml --out DIR"""
VOCABULARY_HELP = (
    "where vocabularies differ: refuse (default), owner (rows by token text, each kept), base (its tokens "
    "alone), body=NAME (embeddings and head of one)"
)
TOKENIZER_HELP = (
    "whose tokenizer, chat templates and generation settings go along (default: base, or the parent that has "
    "a chat template for the same vocabulary)"
)
EPILOG = """\
methods, and their options (lrnb merge METHOD --help says what they are):
{methods}
{config}

examples:
  lrnb merge ties-sv --base B --model ct=C --model sft=S --density 0.5 --slack 0.1 --out merged
  lrnb merge recipe.yaml --out merged --dry-run
"""


class ByName(argparse.Action):
    """NAME=VALUE, gathered as {NAME: VALUE}; what is for all has the name ""."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, value = values
        found = getattr(namespace, self.dest) or {}
        if name in found:
            parser.error(f"{option_string} {name or value}: given twice; keep one")
        setattr(namespace, self.dest, found | {name: value})


def model(text: str) -> tuple[str, str]:
    """NAME=DIR."""
    name, _, folder = text.partition("=")
    if not (name and folder and name.isprintable()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=DIR, such as ct=runs/nano/qaa/ct/65k")
    return name, from_home(folder)


def folder(text: str) -> tuple[str, str]:
    """DIR, or NAME=DIR."""
    name, sign, place = text.partition("=")
    return (name, from_home(place)) if sign and name.isidentifier() else ("", text)


def number(text: str) -> tuple[str, float]:
    """N, or NAME=N."""
    name, _, value = text.rpartition("=")
    return name, float(value)


def named_number(text: str) -> tuple[str, float]:
    """NAME=N."""
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=N; the same number for all says nothing")
    return number(text)


def model_options(command: Any, *, required: bool = True) -> None:
    """--base and --model, which `merge` and `conflicts` share."""
    add, text = command.add_argument, "a parent, for example ct=DIR and sft=DIR; repeatable"
    add("--base", required=required, metavar="DIR", help="the model that all parents were trained from")
    add("--model", action=ByName, type=model, required=required, metavar="NAME=DIR", help=text)


def merge_options(command: argparse.ArgumentParser) -> None:
    """All options. None of them has a default here: `None` means not given."""
    command.formatter_class, command.usage = argparse.RawDescriptionHelpFormatter, USAGE
    command.epilog = EPILOG.format(
        methods="\n".join(map(_line_of, METHODS.values())),
        config=_entry(
            "CONFIG.yaml",
            "a mergekit configuration of " + ", ".join(kit.name for kit in KITS),
            "as there "
            + " ".join(f"--{spoken(name)} {value}" for name, value in OVER.items())
            + ", unless given beside it",
        ),
    )
    command.add_argument("method", metavar="METHOD", help="one of the methods below, or CONFIG.yaml")
    models = command.add_argument_group("models (a folder, a LoRA adapter's folder, or a Hub id)")
    model_options(models, required=False)
    group = command.add_argument_group("options of the methods")
    for name, specs in method_options().items():
        add_option(group, name, specs).help = argparse.SUPPRESS
    _running_options(command.add_argument_group("output and running"))


def _line_of(method: Method) -> str:
    """A method and what it does; its options below."""
    flags = " ".join(f"--{spoken(spec.flag or name)}" for name, spec in method.fields().items())
    return _entry(spoken(method.name), method.summary, flags)


def _entry(name: str, text: str, below: str) -> str:
    """A name with a text beside it and one under that, in lines of 100."""
    lines = [line for part in (text, below) for line in textwrap.wrap(part, 78, break_on_hyphens=False)]
    return f"  {name:<20}" + f"\n{' ' * 22}".join(lines)


def help_of(words: Sequence[str]) -> str:
    """The help of the method that is the first of a command's words, "" where none is."""
    name = words[0].replace("-", "_") if words else ""
    return _help_of_method(METHODS[name]) if name in METHODS else ""


def _help_of_method(method: Method) -> str:
    models = ("--base DIR " if method.base else "") + "--model ct=DIR --model sft=DIR"
    own = argparse.ArgumentParser(
        usage=f"lrnb merge {spoken(method.name)} {models} --out DIR [options]",
        description=f"{method.summary} ({method.source})",
        epilog=" ".join(
            [
                *map(_published, method.published),
                "lrnb merge --help has the options of every merge; docs/merging.md more of the method.",
            ]
        ),
        add_help=False,
    )
    for name, spec in method.fields().items():
        add_option(own, name, {"": spec})
    return own.format_help()


def _published(setting: Published) -> str:
    return f"Published: {setting} ({setting.source})."


def every_option() -> dict[str, Option]:
    """What each option is in the first method that has it; its flag is the same in all."""
    return {name: next(iter(specs.values())) for name, specs in method_options().items()}


def method_options() -> dict[str, dict[str, Option]]:
    """{name: {method: what the option is there}}, in the order of the declarations."""
    found: dict[str, dict[str, Option]] = {}
    for method in METHODS.values():
        for name, spec in method.fields().items():
            found.setdefault(name, {})[method.name] = spec
    return found


def add_option(group: Any, name: str, specs: Mapping[str, Option]) -> argparse.Action:
    """An option that one method, or several, declare; with the names of the methods where there are any."""
    texts: dict[str, list[str]] = {}
    for method, spec in specs.items():
        texts.setdefault(_described(spec), []).append(spoken(method))
    text = "; ".join(f"{', '.join(who)}: {text}" if any(who) else text for text, who in texts.items())
    some = next(iter(specs.values()))
    how = _argument(some, any(spec.per_parent for spec in specs.values()))
    flag, text = f"--{spoken(some.flag or name)}", text.replace("%", "%%")
    return cast(argparse.Action, group.add_argument(flag, dest=name, help=text, **how))


def _argument(spec: Option, per_parent: bool) -> dict[str, Any]:
    """How argparse takes it."""
    if spec.kind == "switch":
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if spec.kind == "folder" and per_parent:
        return {"action": ByName, "type": folder, "metavar": "[NAME=]DIR"}
    if spec.kind != "number":
        return {"choices": spec.choices} if spec.choices else {"metavar": METAVARS[spec.kind]}
    if not per_parent:
        return {"type": float, "metavar": "N"}
    kind, shape = (named_number, "NAME=N") if spec.named else (number, "[NAME=]N")
    return {"action": ByName, "type": kind, "metavar": shape}


def _described(spec: Option) -> str:
    """Its help, range and default in a line."""
    words = [spec.help, spec.range, "for all, or of NAME" if spec.per_parent and not spec.named else ""]
    default = ("no", "yes")[spec.default] if spec.kind == "switch" else spec.default
    known = "" if spec.required or default is None else f" (default {default})"
    return ", ".join(word for word in words if word) + known


def _running_options(group: Any) -> None:
    add = group.add_argument
    add("--out", required=True, metavar="DIR", help="folder for the merged model")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="default auto: the base's")
    add("--tokenizer", metavar="NAME", help=TOKENIZER_HELP)
    add("--vocabulary", metavar="HOW", help=VOCABULARY_HELP)
    add("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default auto)")
    add("--check", metavar="FILE|auto", help=CHECK_HELP)
    add("--threads", type=int, metavar="N", help="CPU threads; 0 (default) takes all cores")
    add("--dry-run", action="store_true", help="show plan, disk and memory needed; write nothing")
    add("--force", action="store_true", default=None, help="replace DIR even if it is no merge made here")
    add("--json", action="store_true", help="print the whole report as JSON")


def run_merge(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    arguments = arguments_of(given)
    with _plain_warnings() as shown:
        from lrnb.merging import bits, whole_models

        bits.leave_out_blas()
        check = _check(given.check, arguments) if given.check else None
        start = time.perf_counter()
        if given.dry_run:
            result = whole_models.plan_merge(**arguments)
        else:
            result = whole_models.merge_checkpoints(**arguments, check=check)
        seconds = time.perf_counter() - start
        for text in result["notes"]:
            print(f"lrnb: {text}", file=sys.stderr)
        for text in result["warnings"]:
            if text not in shown:
                warnings.warn(text, stacklevel=1)
    if given.json:
        print(json.dumps(result, indent=1, default=str))
    elif given.dry_run:
        print_merge_plan(result, given.out)
    else:
        print_report(result, seconds, given.out)
    return 0


def _check(asked: str, arguments: Arguments) -> Callable[[Path], Mapping[str, Any]]:
    """What tries the merged folder; texts are read now, so that a wrong file is refused before the merge."""
    from lrnb.scoring.merge_check import check_merge, texts_for

    base, models = arguments["base"], arguments["models"]
    texts = texts_for(asked, models.values())
    return lambda merged: check_merge(merged, models, base, texts)


def arguments_of(given: argparse.Namespace) -> dict[str, Any]:
    """The command as the arguments of `merge_checkpoints`, which checks them."""
    path, known = Path(given.method), spoken(given.method) in map(spoken, METHODS)
    a_file = path.suffix in (".yaml", ".yml") or (path.is_file() and not known)
    arguments = _from_config(given) if a_file else _from_options(given)
    return arguments | {"out": given.out} | values_of(given, RUNNING)


def _from_config(given: argparse.Namespace) -> dict[str, Any]:
    """A configuration, and beside it what none says: options that mergekit has not."""
    from lrnb.merging.mergekit import read_recipe

    if beside := values_of(given, {"base", "model", *method_options()} - OVER.keys()):
        raise UserError(f"{given.method}: write {min(beside)} into that file, or give a method")
    recipe = read_recipe(given.method)
    for note in recipe.notes:
        print(f"lrnb: {given.method}: {note}", file=sys.stderr)
    return recipe.arguments() | values_of(given, OVER)


def _from_options(given: argparse.Namespace) -> dict[str, Any]:
    method, models = find(given.method.replace("-", "_")), given.model or {}
    options = values_of(given, method_options())
    refuse_forgotten(method.fields(), options, models)
    if models:  # again in the merge, but here in the words of the command
        who = f"merge {spoken(method.name)}"
        method.settle([*models], options, who=who, spell=partial(flag_of, every_option()))
    return {"method": method.name, "base": given.base, "models": models, **options}


def flag_of(known: Mapping[str, Option], name: str) -> str:
    """An option as the command line has it, "--trim-scope"; known: the options that may have other flags."""
    flag = known[name].flag if name in known else ""
    return f"--{spoken(flag or name)}"


def refuse_forgotten(specs: Mapping[str, Option], options: Arguments, models: Iterable[str]) -> None:
    """UserError for a parent that a required option was not given for: methods take it for 1."""
    for name in (name for name, spec in specs.items() if spec.required and options.get(name)):
        if left := [x for x in models if isinstance(options[name], dict) and x not in options[name]]:
            told = f"{flag_of(specs, name)}: give it for {', '.join(left)}"
            raise UserError(
                f"{told} too" + (", or one number for all" if specs[name].kind == "number" else "")
            )


def values_of(given: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """What was given of these options; a number for all, or {name: number} filled up by the one for all."""
    found = {name: getattr(given, name) for name in names}
    return {name: _spread(value, given) for name, value in found.items() if value is not None}


def _spread(value: Any, given: argparse.Namespace) -> Any:
    if not isinstance(value, dict) or "" not in value:
        return value
    named = {name: own for name, own in value.items() if name}
    return dict.fromkeys(given.model, value[""]) | named if named else value[""]


def spoken(name: str) -> str:
    """A name as the command line spells it."""
    return name.replace("_", "-")


@contextmanager
def _plain_warnings() -> Iterator[list[str]]:
    """Warnings as one line of the command, without the place in the code; yields those shown."""
    shown: list[str] = []

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"lrnb: warning: {shortened(str(message))}", file=sys.stderr)
        shown.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries to programmers, not of us to users
        warnings.showwarning = show
        yield shown


def print_merge_plan(plan: Arguments, out: str) -> None:
    """What a merge would read, write and need, a line each (`plan` of `whole_models.plan_merge`)."""
    from rich.filesize import decimal

    rows = [("method", spoken(plan["method"])), *plan["models"].items(), *plan["options"].items()]
    rows += [
        ("tensors", f"{plan['tensors']:,} with {plan['entries']:,} entries"),
        ("passes", f"{plan['passes']} over the inputs"),
        ("disk", f"{decimal(plan['output_bytes'])} of {decimal(plan['disk_free'])} free"),
        ("memory", decimal(plan["memory_bytes"])),
        ("out", f"{out} (dry run: nothing was written)"),
    ]
    print_facts(rows)
    if groups := plan["recipe"].get(BY_TENSOR):
        print_table([_group(group) for group in groups[:LINES]])
        print(
            f"{len(groups)} groups of tensors" + (f", {LINES} shown; --json has all" * (len(groups) > LINES))
        )


def _group(group: Arguments) -> dict[str, Any]:
    """A line for tensors of equal options: the first one's name, how many, and the options."""
    names, options = group["tensors"], {key: value for key, value in group.items() if key != "tensors"}
    spelled = {
        key: ", ".join(f"{k} {v:.4g}" for k, v in value.items()) if isinstance(value, Mapping) else value
        for key, value in options.items()
    }
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return {"tensors": f"{names[0]}{more}", **spelled}


def print_report(report: Arguments, seconds: float, out: str) -> None:
    """The measured shares of a merge, and where it is."""
    from lrnb.merging.card import vocabulary_line

    parents = ", ".join(report["models"])
    print(f"{spoken(report['method'])} of {parents}: {report['entries']:,} entries, {seconds:.1f} s")
    if report["parents"]:
        print_table([
            {
                "parent": name, "kept": x["kept"], "of all": f"{x['kept_share']:.2%}",
                "discarded": x["discarded"], "of kept": f"{x['discarded_share']:.2%}",
            }
            for name, x in report["parents"].items()
        ])  # fmt: skip
        print(f"conflicts: {report['conflicts']:,}, {report['conflict_share']:.2%} of all entries")
    if "vocabulary" in report:
        print(vocabulary_line(report["vocabulary"]))
    if "reserved" in report:
        print(f"won back:  {report['reserved']:,}, {report['reserved_share']:.2%} of what ties would discard")
    if "check" in report:
        _print_check(report["check"])
    print(out)


def _print_check(check: Arguments) -> None:
    """Bits per byte of every model, and the answer."""
    bits = check["bits_per_byte"]
    print_table(
        [{"bits per byte": text, **{m: f"{x:.3f}" for m, x in row.items()}} for text, row in bits.items()]
    )
    print(f"asked to go on from “{check['prompt']}”, it wrote “{check['answer']}”")
