"""Which model is better: paired differences on the same items, in one run or over several seeds.

Holm's correction runs over the comparisons of one kind (baseline; mean or single task; X or English), so
that the main question, the mean over the tasks in X, is not paid for with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lrnb import statistics
from lrnb.analysis.results import MEAN, MEAN_EN, means_of
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import Study

ITEMS_ONLY, WITH_TRAINING = "items only", "items and training"  # what an interval of one run holds
ONE_SEED, OVER_ALL = "languages and items, one seed", "languages, seeds and items"  # ... over languages
ModelKey = tuple[str, int]  # (method, ct_tokens)
Right = dict[ModelKey, dict[str, pd.Series]]  # model -> task -> right (1) or wrong (0), by item


def right_answers(items: pd.DataFrame) -> Right:
    """What every model has right; items: as `evaluate.score_models` returns."""
    found: Right = {}
    for (method, tokens, task), part in items.groupby(["method", "ct_tokens", "task"], sort=False):
        right = part.set_index("item")["correct"].sort_index().astype(float)
        found.setdefault((str(method), int(tokens)), {})[str(task)] = right
    return found


def baselines(items: pd.DataFrame) -> tuple[str, ...]:
    """What merges are compared with: CT-then-SFT, or where no model of that kind is there SFT-en and base."""
    return ("ct_then_sft",) if "ct_then_sft" in set(items["method"]) else ("sft", "base")


def compare_methods(items: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Every merge against the `baselines`, and against the one whose choice it starts from (TIES-SV against
    TIES), at the same budget: `paired_table`. A model made elsewhere has no budget and stands at each.
    """
    elsewhere = items["method"].isin(study.extra_models)
    at_each = [items[elsewhere].assign(ct_tokens=budget) for budget in study.ct_budgets]
    everything = pd.concat([items[~elsewhere], *at_each]) if elsewhere.any() else items
    pairs = pairs_of(baselines(items), study.extra_models)
    table = paired_table([everything], pairs, seed=study.seed)
    return table.assign(lang=study.lang, preset=study.preset, noise=ITEMS_ONLY)


def pairs_of(names: Iterable[str], elsewhere: Iterable[str] = ()) -> dict[str, list[str]]:
    """{baseline: methods compared with it}: all with each of `names`, and each with what it starts from.

    elsewhere: names of models that no method made here, compared like the methods.
    """
    pairs: dict[str, list[str]] = {name: [*METHODS, *elsewhere] for name in names}
    for method in METHODS.values():
        if method.after:
            pairs.setdefault(method.after.name, []).append(method.name)
    return pairs


def paired_table(
    runs: Sequence[pd.DataFrame],
    pairs: Mapping[str, Iterable[str]],
    *,
    shared: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Methods minus their baseline at the same CT budget, per task and as the mean of tasks, in points.

    runs: the items of one run, or of the same study with several seeds; pairs: {baseline: methods};
    shared: the same items stand in all runs, see `statistics.over_seeds`. A
    baseline that saw no CT tokens stands at every budget; models that not all runs have are left out.
    Columns: ct_tokens, method, baseline, task, difference, ci_low, ci_high, p, n, seeds, p_holm. ValueError
    where the two have different items.
    """
    rows = paired_rows([right_answers(items) for items in runs], pairs, shared=shared, seed=seed)
    return with_holm(rows)


def paired_rows(
    seeds: Sequence[Right],
    pairs: Mapping[str, Iterable[str]],
    *,
    shared: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of `paired_table`, from what every model of each run has right; no correction yet."""
    rows = []
    for baseline, methods in pairs.items():
        for method, tokens in sorted(seeds[0], key=lambda model: model[1]):
            other = at_budget(seeds[0], baseline, tokens)
            both = [(one.get((method, tokens)), one.get(other)) for one in seeds]
            if method in methods and all(None not in pair for pair in both):
                head = {"ct_tokens": tokens, "method": method, "baseline": baseline}
                rows += [head | row for row in _rows(both, shared, seed)]
    return rows


def with_holm(
    rows: Sequence[Mapping[str, Any]] | pd.DataFrame, kind: Callable[[str], str] | None = None
) -> pd.DataFrame:
    """Rows of differences with p_holm, corrected within each baseline and kind of task (`family`)."""
    table = pd.DataFrame(rows)
    if not len(table):
        return table
    p = table.groupby(["baseline", table["task"].map(kind or family)], sort=False)["p"]
    return table.assign(p_holm=p.transform(lambda own: statistics.holm(own.to_numpy())))


def at_budget(models: Iterable[ModelKey], method: str, tokens: int) -> ModelKey:
    """The model of a method that is compared at a budget: one that saw no CT tokens stands at all."""
    return (method, tokens) if (method, tokens) in models else (method, 0)


def _rows(both: Sequence[tuple[Any, Any]], shared: bool, seed: int) -> list[dict[str, Any]]:
    tasks = [task for task in both[0][0] if all(task in own for pair in both for own in pair)]
    for a, b in both:
        if bad := [task for task in tasks if not a[task].index.equals(b[task].index)]:
            raise ValueError(f"{bad[0]}: the two models have not answered the same items")
    rows = []
    for name, parts in ({task: [task] for task in tasks} | means_of(tasks)).items():
        found = statistics.paired_difference(
            [[(a[task], b[task]) for task in parts] for a, b in both], shared=shared, seed=seed
        )
        ends = {"difference": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
        head = {"task": name} | {key: 100 * value for key, value in ends.items()}
        rows.append(head | {"p": found.p, "n": found.n, "seeds": len(both)})
    return rows


def family(task: str) -> str:
    """The family of Holm's correction that a task is in: a mean, the tasks in X, those in English."""
    return task if task in (MEAN, MEAN_EN) else "tasks_en" if task.endswith("_en") else "tasks"


def fade(items: pd.DataFrame, method: str, budgets: Sequence[int]) -> statistics.Difference:
    """How much the lead of `method` over CT-then-SFT shrinks from the first to the last budget.

    In shares: positive where the lead was larger at the first budget. Same items throughout.
    """
    right = right_answers(items)
    first, last = ((right[method, b], right["ct_then_sft", b]) for b in (budgets[0], budgets[-1]))
    pairs = [[(a[task] - b[task]) for a, b in (first, last)] for task in _in_x(first[0])]
    return statistics.paired_difference([[(a, b) for a, b in pairs]])


def against(right: Right, model: ModelKey, other: ModelKey) -> statistics.Difference:
    """model - other on the same items, mean over the tasks in X, in shares."""
    a, b = right[model], right[other]
    return statistics.paired_difference([[(a[task], b[task]) for task in _in_x(a)]])


def _in_x(tasks: Iterable[str]) -> list[str]:
    return [task for task in tasks if not task.endswith("_en")]
