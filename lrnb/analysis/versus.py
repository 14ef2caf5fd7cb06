"""Which of some models is better on the documents that both answered: any scores, no run needed.

A side is one model, trained once or several times. Two sides are paired training by training in the order
given (one training against several stands in every pair), and in each pair document by document, whatever the
order of the files. Statistics are those of `lrnb.statistics`; docs/statistics.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis import comparisons, findings, trust
from lrnb.analysis.answered import Answered
from lrnb.analysis.at_chance import why_at_chance
from lrnb.analysis.comparisons import ITEMS_ONLY, WITH_TRAINING
from lrnb.analysis.no_result import NO_RESULT
from lrnb.analysis.results import means_of
from lrnb.errors import UserError

Match = Literal["prompt", "document"]
Sides = Mapping[str, Sequence[Answered]]  # name -> its trainings
Pairs = list[dict[str, tuple[pd.Series, pd.Series]]]  # per training: task -> answers of both, same documents
Means = Callable[[Iterable[str]], dict[str, list[str]]]
BETTER = {findings.HOLDS: "better", findings.FAILS: "worse"}
VERSUS = [
    *("of", "model", "baseline", "task", "metric", "n", "seeds", "score", "score_baseline", "difference"),
    *("ci_low", "ci_high", "p", "p_holm", "noise", "detectable", "detectable_holm", "verdict"),
    *("only_model", "only_baseline", "why"),
]  # of: which of several contests; scores in percent, differences in points; only_*: what the other has not
# why: no side is above chance, so the verdict is "no result"; else ""


def versus(
    sides: Sides, *, match: Match = "prompt", means: Means = means_of, margin: float = 0.0
) -> pd.DataFrame:
    """Every side minus the first, per task and as the mean of tasks: one row each, with columns VERSUS.

    match: documents are the same where document and prompt are, or the document alone; means: which means are
    made; margin: points within which two models are called the same. detectable: the true difference that
    would be found with 80% power at p < 0.05, detectable_holm at the strictest step of Holm's correction.
    UserError where numbers of trainings or metrics do not go together, or nothing was answered by both.
    """
    return versus_in_each({"": sides}, match=match, means=means, margin=margin)


def versus_in_each(
    contests: Mapping[str, Sides], *, match: Match = "prompt", means: Means = means_of, margin: float = 0.0
) -> pd.DataFrame:
    """`versus` for every contest of the same sides, as for each model that two runs have; Holm over all."""
    rows, paired = [], {}
    for of, sides in contests.items():
        baseline, *others = sides
        if not others:
            raise UserError("a comparison needs two models or more; the first is what others are compared to")
        for name in others:
            pairs = paired[of, name] = paired_answers(sides, name, baseline, match)
            why = why_at_chance({side: sides[side] for side in (name, baseline)}, pairs[0], means)
            own = _versus_rows(pairs, sides, name, baseline, means)
            rows += [{"of": of, "why": why[row["task"]]} | row for row in own]
    table = comparisons.with_holm(rows, comparisons.family if means is means_of else _any_task)
    return _judged(table, paired, means, margin)[VERSUS]


def _any_task(task: str) -> str:
    """Holm's family where the mean is over all tasks."""
    return task if task == comparisons.MEAN else "tasks"


def paired_answers(sides: Sides, name: str, baseline: str, match: Match = "prompt") -> Pairs:
    """The answers of two sides to the same documents of the same tasks, training by training."""
    a, b = sides[name], sides[baseline]
    if 1 not in (len(a), len(b)) and len(a) != len(b):
        raise UserError(
            f"{name} has {len(a)} trainings and {baseline} {len(b)}: they are paired in the order given. "
            "Give as many of both, or one of either"
        )
    times = max(len(a), len(b))
    both = list(zip([*a] * (times // len(a)), [*b] * (times // len(b)), strict=True))
    tasks = [task for task in a[0].tasks if all(task in one.tasks for pair in both for one in pair)]
    _refuse_metrics(both, tasks)
    pairs = [{task: _matched(x.tasks[task], y.tasks[task], match) for task in tasks} for x, y in both]
    there = [task for task in tasks if all(len(pair[task][0]) for pair in pairs)]
    if not there:
        raise _nothing_matched(both, tasks, match)
    return [{task: pair[task] for task in there} for pair in pairs]


def _refuse_metrics(both: Sequence[tuple[Answered, Answered]], tasks: Iterable[str]) -> None:
    for task in tasks:
        kinds = {one.metrics.get(task, ""): one.source for pair in both for one in pair}
        if len(kinds) > 1:
            said = ", ".join(f"{metric or 'no named metric'} in {source}" for metric, source in kinds.items())
            raise UserError(f"{task}: not scored alike: {said}. Give files with one metric, or --metric")


def _matched(a: pd.DataFrame, b: pd.DataFrame, match: Match) -> tuple[pd.Series, pd.Series]:
    x, y = keyed(a, match), keyed(b, match)
    common = x.index.intersection(y.index, sort=True)
    return x.loc[common], y.loc[common]


def keyed(answers: pd.DataFrame, match: Match) -> pd.Series:
    """`correct` by document (and prompt), and the how manieth of the same it is."""
    names = ["document", "prompt"] if match == "prompt" else ["document"]
    again = answers.groupby(names).cumcount()
    return answers.assign(again=again).set_index([*names, "again"])["correct"].astype(float)


def _nothing_matched(both: Sequence[tuple[Answered, Answered]], tasks: list[str], match: Match) -> UserError:
    b, a = both[0]
    who = f"{a.source} and {b.source}"
    if not tasks:
        return UserError(
            f"{who} have no task in common: {', '.join(a.tasks)} against {', '.join(b.tasks)}. Score both on "
            "the same tasks"
        )
    alike = [t for t in tasks if match == "prompt" and len(_matched(a.tasks[t], b.tasks[t], "document")[0])]
    if alike:
        return UserError(
            f"{who}: the same documents of {alike[0]} were asked with other prompts. Score both with "
            "the same prompts, or compare all the same: --match document"
        )
    return UserError(
        f"{who}: no document of {', '.join(tasks)} was answered by both. Score both on the same data, with "
        "the same seed"
    )


def _versus_rows(pairs: Pairs, sides: Sides, name: str, baseline: str, means: Means) -> list[dict[str, Any]]:
    tasks = list(pairs[0])
    head = {"model": name, "baseline": baseline, "seeds": len(pairs), "noise": _noise(sides, name, baseline)}
    metrics = sides[name][0].metrics
    left = [_left_over(sides[side], pairs, place) for place, side in enumerate((name, baseline))]
    rows = []
    for task, parts in ({task: [task] for task in tasks} | means(tasks)).items():
        only = [sum(gone[part] for part in parts) for gone in left]
        row: dict[str, Any] = {"only_model": only[0], "only_baseline": only[1]}
        row |= {"task": task, "metric": metrics.get(task, "") if parts == [task] else "mean"}
        rows.append(head | row | _versus_row(_of_tasks(pairs, parts), shared_documents(pairs)))
    return rows


def _of_tasks(pairs: Pairs, tasks: Sequence[str]) -> list[list[tuple[pd.Series, pd.Series]]]:
    """The pairs of some tasks as `statistics.paired_difference` takes them."""
    return [[pair[task] for task in tasks] for pair in pairs]


def _left_over(trainings: Sequence[Answered], pairs: Pairs, place: int) -> dict[str, int]:
    """task -> documents of a side that have no partner, in the training that has most of them."""
    return {
        task: max(
            len(one.tasks[task]) - len(pair[task][place])
            for one, pair in zip([*trainings] * (len(pairs) // len(trainings)), pairs, strict=True)
        )
        for task in pairs[0]
    }


def _noise(sides: Sides, name: str, baseline: str) -> str:
    """What the interval of a difference holds beside the items."""
    several = [side for side in (name, baseline) if len(sides[side]) > 1]
    if len(several) == 1:
        return f"items and training of {several[0]}"
    return WITH_TRAINING if several else ITEMS_ONLY


def shared_documents(pairs: Pairs) -> bool:
    """Whether the trainings answered the same documents (some at least), or each its own."""
    first, *others = ({task: a.index for task, (a, _) in pair.items()} for pair in pairs)
    return any(len(first[task].intersection(other[task])) for other in others for task in first)


def _versus_row(both: list[list[tuple[pd.Series, pd.Series]]], shared: bool) -> dict[str, Any]:
    """Scores in percent, the difference in points with its interval and p, over trainings and tasks."""
    found = statistics.paired_difference(both, shared=shared)
    scores = [100 * float(np.mean([[pair[k].mean() for pair in one] for one in both])) for k in (0, 1)]
    ends = {"difference": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
    n = max(sum(len(a) for a, _ in one) for one in both)
    row = {"score": scores[0], "score_baseline": scores[1], "p": found.p, "n": n}
    return row | {key: 100 * value for key, value in ends.items()}


def _judged(
    table: pd.DataFrame, paired: Mapping[tuple[str, str], Pairs], means: Means, margin: float
) -> pd.DataFrame:
    """The rows with what could have been found, and the verdict of each."""
    families = table["task"].map(comparisons.family if means is means_of else _any_task)
    sizes = table.groupby(families)["task"].transform("size")
    found = []
    for row, size in zip(table.to_dict("records"), sizes, strict=True):
        pairs = paired[row["of"], row["model"]]
        parts = means(pairs[0]).get(row["task"], [row["task"]])
        both, shared = _of_tasks(pairs, parts), shared_documents(pairs)
        points = [_detectable(both, shared, alpha) for alpha in (0.05, 0.05 / size)]
        said = findings.verdict_of(row, ITEMS_ONLY if row["seeds"] == 1 else WITH_TRAINING, margin)
        said = NO_RESULT if row["why"] else BETTER.get(said, said)
        row = {"detectable": points[0], "detectable_holm": points[1], "verdict": said}
        found.append(row)
    return table.assign(**pd.DataFrame(found, index=table.index))


def _detectable(both: list[list[tuple[pd.Series, pd.Series]]], shared: bool, alpha: float) -> float:
    """Points that are found with 80% power, over trainings or on one's items; NaN where none would do."""
    if len(both) > 1:
        deltas = [[a - b for a, b in one] for one in both]
        found = 100 * statistics.detectable_over_seeds(deltas, shared=shared, alpha=alpha)
        return found if found <= 100 else float("nan")
    return trust.detectable_points(both[0], alpha)
