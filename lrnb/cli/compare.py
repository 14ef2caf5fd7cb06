"""The `compare` command: is one model better than another, from scores that are there already."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lrnb.cli.evaluate import split_name
from lrnb.cli.output import json_text, output_options, print_json, refuse_other
from lrnb.cli.versus_table import print_versus
from lrnb.errors import UserError
from lrnb.study.environment import versions

if TYPE_CHECKING:
    from lrnb.analysis.answered import Answered

Trainings = dict[str, list[dict[str, "Answered"]]]  # side -> of each training: model -> answers
ABOUT = """\
Paired tests on the documents that both sides have answered, task by task and on the mean of the tasks,
corrected by Holm for their number. SOURCE is one of
  a run folder of this package (runs/<preset>/<lang>), or what `lrnb evaluate --out` wrote
  what lm-evaluation-harness wrote with --log_samples: its output folder, a model's folder in it, or one file
and may hold wildcards; where it has several models, :MODEL names one, and without it all models that every
source has are compared. The same NAME given again is the same model trained again (another seed): trainings
are paired in the order given, and the intervals hold their noise. A model that was trained once says nothing
of it: "items only". Documents are matched by task, document and prompt, never by position.
"""
EXAMPLES = """\
examples:
  lrnb compare out/org__base out/org__tuned                           # two models of lm-evaluation-harness
  lrnb compare sft='out/sft-seed*' merged='out/merged-seed*' --metric exact_match,flexible-extract
  lrnb compare a=runs/nano/qaa:ct_then_sft@65k b=runs/nano/qaa:ties@65k --out comparison
"""


def compare_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.description = argparse.RawDescriptionHelpFormatter, ABOUT
    command.epilog = EXAMPLES
    add: Any = command.add_argument
    add("sources", nargs="+", metavar="[NAME=]SOURCE[:MODEL]",
        help="the first is what the others are compared with")  # fmt: skip
    add("--baseline", metavar="NAME", help="compare with this one")
    add("--metric", action="append", default=[], metavar="[TASK=]METRIC[,FILTER]",
        help="of the harness's tasks, named as it does; TASK may hold * (default: acc_norm, acc or "
        "exact_match, whichever is first there, and of several filters the last)")  # fmt: skip
    add("--match", choices=("prompt", "document"), default="prompt",
        help="what makes two items one: document and prompt (default), or the document alone")  # fmt: skip
    add("--margin", type=float, default=0.0, metavar="N", help="points within which two models are the same")
    output_options(command, "tables and figure")


def run_compare(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    from lrnb.analysis import versus
    from lrnb.report.comparison_files import COMPARISON, write_comparison

    if given.margin < 0:
        raise UserError(f"--margin {given.margin:g}: give points of at least 0")
    refuse_other(given.out, COMPARISON, "comparison", given.force)
    wanted = dict(_metric(text) for text in given.metric)
    trainings, places = _trainings(given.sources, wanted)
    contests = _with_baseline(_contests(trainings), given.baseline)
    options = {"match": given.match, "margin": given.margin}
    table = versus.versus_in_each(contests, means=_means(contests), **options)
    facts = {"sources": places, "metric": wanted, **options, "left_out": _left_tasks(contests)}
    missing = ""
    if given.out:
        missing = write_comparison(given.out, table, json_text(facts | {"versions": versions()}))
    if given.json:
        print_json(facts | {"differences": table.to_dict("records")})
        return 0
    print_versus(table)
    for line in (*facts["left_out"], given.out, missing):
        if line:
            print(line)
    return 0


def _metric(text: str) -> tuple[str, str]:
    """(pattern of tasks, metric) of [TASK=]METRIC."""
    task, equals, metric = text.partition("=")
    if not (metric if equals else task):
        raise UserError(
            f"--metric {text!r}: expected METRIC or TASK=METRIC, such as acc or gsm8k=exact_match"
        )
    return (task, metric) if equals else ("*", task)


def _trainings(texts: list[str], wanted: dict[str, str]) -> tuple[Trainings, dict[str, list[str]]]:
    """The sides with all their trainings, and where each was read."""
    from lrnb.analysis.answer_sources import answers_at, sources

    found: Trainings = {}
    places: dict[str, list[str]] = {}
    for text in texts:
        name, source = split_name(text)
        own = sources(source)
        name = (own[0][1] or name) if source == text else name
        if source == text and name in found:
            raise UserError(
                f"two sources are called {name!r}. Name them: A={places[name][0]} B={source}; one NAME "
                "for both if they are two trainings of one model"
            )
        for path, model in own:
            found.setdefault(name, []).append(answers_at(path, model, wanted))
            places.setdefault(name, []).append(f"{path}:{model}" if model else str(path))
    return found, places


def _contests(trainings: Trainings) -> dict[str, dict[str, list[Answered]]]:
    """What is compared: the sides; or the models of the only source; or each model that all sources have."""
    everything = [found for side in trainings.values() for found in side]
    if len(everything) == 1 and len(everything[0]) > 1:
        return {"": {model: [answers] for model, answers in everything[0].items()}}
    if all(len(found) == 1 for found in everything):
        return {"": {name: [*map(_only, side)] for name, side in trainings.items()}}
    common = [model for model in everything[0] if all(model in found for found in everything)]
    if not common:
        several = next(found for found in everything if len(found) > 1)
        raise UserError(
            f"a source has several models ({', '.join(several)}), and none of them is in all sources. Name "
            f"one: SOURCE:{next(iter(several))}"
        )
    return {
        model: {name: [found[model] for found in side] for name, side in trainings.items()}
        for model in common
    }


def _only(found: dict[str, Answered]) -> Answered:
    return next(iter(found.values()))


def _with_baseline(
    contests: dict[str, dict[str, list[Answered]]], name: str | None
) -> dict[str, dict[str, list[Answered]]]:
    """The contests with the baseline first."""
    known = next(iter(contests.values()))
    if name is None:
        return contests
    if name not in known:
        raise UserError(f"--baseline {name!r}: there is no such side; there are {', '.join(known)}")
    return {of: {name: sides[name]} | sides for of, sides in contests.items()}


def _means(contests: dict[str, dict[str, list[Answered]]]) -> Any:
    """Means apart for X and English where the tasks are lrnb's, whose names say so; else over all."""
    from lrnb.analysis import answered, results

    first = next(iter(next(iter(contests.values())).values()))[0]
    return results.means_of if first.source.endswith("items.parquet") else answered.all_means


def _left_tasks(contests: dict[str, dict[str, list[Answered]]]) -> list[str]:
    """A line for every side with tasks that not all sides have."""
    lines = {}
    for sides in contests.values():
        everything = [one for side in sides.values() for one in side]
        common = set.intersection(*(set(one.tasks) for one in everything))
        for name, side in sides.items():
            if left := sorted({task for one in side for task in one.tasks} - common):
                lines[name] = f"not compared with all, not everywhere: {', '.join(left)} of {name}"
    return list(lines.values())
