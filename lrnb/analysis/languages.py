"""Several languages, each with one seed or more: leads of merges in each, and over all of them.

A language's answer is over its own seeds; what is said of all takes the seeds that every language has, so
that languages and seeds are crossed (`statistics.over_languages`). Everything is in X; scores are percent,
differences points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lrnb import statistics
from lrnb.analysis import comparisons, results
from lrnb.analysis.comparisons import ITEMS_ONLY, ONE_SEED, OVER_ALL, WITH_TRAINING, ModelKey, Right
from lrnb.analysis.kinds import ordered
from lrnb.analysis.results import headline, of_the_model, tasks_in_x
from lrnb.analysis.seeds import ITEMS, mean_intervals
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import SYNTHETIC, Study
from lrnb.study.recipe import counted_parameters
from lrnb.study.stages import RunPaths

ALL = "all"  # in place of a language: the mean over them
#: parameters that a language brings along: two languages of one study may differ in them
OF_A_LANGUAGE = (
    "lang", "script", "tasks", "tasks_en", "dev_tasks", "test_limits", "prompts", "corpus_source",
    "hub_dataset", "hub_config", "hub_files", "hub_split", "hub_text_field", "released_ct",
)  # fmt: skip
SHARES = ("ct_l2", "sft_l2", "cosine", "conflict_share", "sft_discarded_share")  # of lrnb.conflicts.counts


class Run(NamedTuple):
    """A finished run: one language with one seed.

    bits: of a byte of held-out text in X to the base, before CT; shares: ct_tokens and SHARES of the whole
    model at the fixed density.
    """

    study: Study
    scores: pd.DataFrame
    right: Right
    baselines: tuple[str, ...]
    bits: float = float("nan")
    shares: pd.DataFrame = pd.DataFrame()


Languages = dict[str, dict[int, Run]]  # language -> seed -> its run


def read_run(study: Study) -> Run:
    """What a finished run's folder holds."""
    folder = RunPaths(study).scores
    items = pd.read_parquet(folder / "items.parquet", columns=ITEMS)
    names = comparisons.baselines(items)
    shares = of_the_model(pd.read_csv(RunPaths(study).conflicts / "shares.csv"), "fixed")
    right = comparisons.right_answers(items)
    return Run(study, pd.read_csv(folder / "scores.csv"), right, names, _base_bits(study), shares)


def common_parameters(study: Study) -> dict[str, Any]:
    """The parameters that must be equal in all languages that are told of together."""
    return {key: value for key, value in counted_parameters(study).items() if key not in OF_A_LANGUAGE}


def of_one_study(studies: Sequence[Study]) -> tuple[list[Study], dict[str, list[str]]]:
    """The runs that most share their parameters with, and of all others in which parameters they differ."""
    keys = [repr(sorted(common_parameters(study).items())) for study in studies]
    most = Counter(keys).most_common(1)[0][0] if keys else ""
    kept = [study for study, key in zip(studies, keys, strict=True) if key == most]
    others = [study for study, key in zip(studies, keys, strict=True) if key != most]
    return kept, {RunPaths(study).lang.as_posix(): _differing(study, kept[0]) for study in others}


def _differing(study: Study, other: Study) -> list[str]:
    here, there = common_parameters(study), common_parameters(other)
    return sorted(key for key in here if here[key] != there.get(key))


def read_languages(studies: Iterable[Study]) -> Languages:
    """The runs of every language by seed."""
    found: Languages = {}
    for study in studies:
        found.setdefault(study.lang, {})[study.seed] = read_run(study)
    return {lang: dict(sorted(own.items())) for lang, own in found.items()}


def common_seeds(languages: Languages) -> list[int]:
    """The seeds that every language has."""
    return sorted(set.intersection(*(set(own) for own in languages.values()))) if languages else []


def items_are_shared(languages: Languages) -> bool:
    """Whether the seeds of a language answer the same items; in the micro-world each has its own."""
    return not set(languages) & set(SYNTHETIC)


def models_of_all(languages: Languages) -> list[ModelKey]:
    """The models that every run has, in the order of every table."""
    runs = [run.right for own in languages.values() for run in own.values()]
    there = [model for model in runs[0] if all(model in right for right in runs)]
    place = {name: number for number, name in enumerate(ordered(method for method, _ in there))}
    return sorted(there, key=lambda model: (model[1], place[model[0]]))


Samples = list[list[list[pd.Series]]]  # per language, seed and task in X the items


def samples_of(languages: Languages, model: ModelKey, other: ModelKey | None = None) -> Samples:
    """What a model has right over all languages and their common seeds, minus another where one is given."""
    return [
        [_tasks_of(own[seed].right, model, other) for seed in common_seeds(languages)]
        for own in languages.values()
    ]


def _tasks_of(right: Right, model: ModelKey, other: ModelKey | None) -> list[pd.Series]:
    tasks = {task: values for task, values in right[model].items() if not task.endswith("_en")}
    if other is None:
        return [*tasks.values()]
    return [values - right[other][task] for task, values in tasks.items() if task in right[other]]


# scores


def scores_by_language(languages: Languages) -> pd.DataFrame:
    """The headline score of every model in each language and, as language `ALL`, the mean over them.

    Columns: lang, method, ct_tokens, value, ci_low, ci_high, chance, majority (NaN without one), seeds, above
    (chance), clear (the majority too). Intervals: one seed, of its items; several, over seeds and items; of
    `ALL`, over languages too.
    """
    rows = [row for lang, own in languages.items() for row in _scores_in(lang, own)]
    table = pd.DataFrame(rows)
    if len(languages) > 1 and common_seeds(languages):
        table = pd.concat([table, _scores_of_all(languages, table)], ignore_index=True)
    above = statistics.above_chance(table["ci_low"], table["chance"])
    level = table["majority"].fillna(0).clip(lower=table["chance"])
    return table.assign(above=above, clear=statistics.above_chance(table["ci_low"], level))


def _scores_in(lang: str, own: dict[int, Run]) -> list[dict[str, Any]]:
    runs = [*own.values()]
    task = headline(runs[0].scores)
    scores = pd.concat([run.scores[run.scores["task"] == task] for run in runs])
    keys = ["method", "ct_tokens"]
    table = scores.groupby(keys, sort=False)[["value", "ci_low", "ci_high", "chance", "majority"]].mean()
    if len(runs) > 1:
        ends = mean_intervals([run.right for run in runs], shared=lang not in SYNTHETIC)
        table.update(ends[ends["task"] == task].set_index(keys)[["ci_low", "ci_high"]])
    rows = table.reset_index().to_dict("records")
    return [{"lang": lang, "seeds": len(runs)} | {str(k): v for k, v in row.items()} for row in rows]


def _scores_of_all(languages: Languages, table: pd.DataFrame) -> pd.DataFrame:
    levels = table.groupby("lang")[["chance", "majority"]].first().mean(skipna=False)
    rows = []
    for method, tokens in models_of_all(languages):
        samples = samples_of(languages, (method, tokens))
        found = statistics.over_languages(samples, shared=items_are_shared(languages), bounds=(0.0, 1.0))
        row = {"lang": ALL, "method": method, "ct_tokens": tokens, "seeds": len(common_seeds(languages))}
        rows.append(row | _percent(found, "value") | levels.to_dict())
    return pd.DataFrame(rows)


def _percent(found: statistics.Difference, name: str) -> dict[str, float]:
    ends = {name: found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
    return {key: 100 * value for key, value in ends.items()}


# leads


def leads_by_language(languages: Languages) -> pd.DataFrame:
    """Every merge minus its baselines in each language: `comparisons.paired_table`, of the headline task.

    With lang, and `noise`: what the interval holds. Holm's correction is over the methods and budgets of a
    language.
    """
    tables = []
    for lang, own in languages.items():
        runs = [*own.values()]
        pairs = {name: [*METHODS] for name in runs[0].baselines}
        rows = comparisons.paired_rows([r.right for r in runs], pairs, shared=lang not in SYNTHETIC)
        table = comparisons.with_holm(rows)
        noise = WITH_TRAINING if len(runs) > 1 else ITEMS_ONLY
        tables.append(table[table["task"] == headline(table)].assign(lang=lang, noise=noise))
    return pd.concat(tables, ignore_index=True)


def leads_over_languages(languages: Languages) -> pd.DataFrame:
    """Every merge minus its baselines, mean over the languages and their common seeds.

    Columns: method, baseline, ct_tokens, task, difference, ci_low, ci_high, p, p_holm (over methods and
    budgets), n, languages, seeds, noise, detectable (points, 80% power), low and high (where 95% of single
    languages lie; NaN with two), wins, ties, losses (of languages and seeds, by sign), own (NaN: see
    `figures.pooled`). Empty with fewer than two languages.
    """
    seeds = common_seeds(languages)
    if len(languages) < 2 or not seeds:
        return pd.DataFrame()
    models, names = models_of_all(languages), next(iter(next(iter(languages.values())).values())).baselines
    pairs = [
        (model, comparisons.at_budget(models, name, model[1]))
        for name in names for model in models if model[0] in METHODS
    ]  # fmt: skip
    rows = [_lead_of_all(languages, model, other) for model, other in pairs if other in models]
    noise = OVER_ALL if len(seeds) > 1 else ONE_SEED
    table = comparisons.with_holm(rows)
    return table.assign(languages=len(languages), seeds=len(seeds), noise=noise, own=np.nan)


def _lead_of_all(languages: Languages, model: ModelKey, other: ModelKey) -> dict[str, Any]:
    samples, shared = samples_of(languages, model, other), items_are_shared(languages)
    found = statistics.over_languages(samples, shared=shared)
    means = 100 * np.array([[np.mean([x.mean() for x in tasks]) for tasks in seeds] for seeds in samples])
    least = 100 * statistics.detectable_over_languages(samples, shared=shared)
    low, high = _of_single_languages(means.mean(axis=1), found)
    signs = np.sign(means.round(10))
    counts = {name: int((signs == sign).sum()) for name, sign in (("wins", 1), ("ties", 0), ("losses", -1))}
    head = {"method": model[0], "baseline": other[0], "ct_tokens": model[1], "task": results.MEAN}
    ends = {"p": found.p, "n": found.n, "detectable": least, "low": low, "high": high}
    return head | _percent(found, "difference") | ends | counts


def _of_single_languages(leads: np.ndarray, found: statistics.Difference) -> tuple[float, float]:
    """Where 95% of single languages lie, in points: nowhere inside of where their mean may lie."""
    if len(leads) < 3:
        return np.nan, np.nan
    low, high = statistics.prediction(leads)
    return min(low, 100 * found.ci_low), max(high, 100 * found.ci_high)


def fades_over_languages(languages: Languages) -> pd.DataFrame:
    """How much each merge's lead over CT-then-SFT shrinks from the first to the last CT budget, in points.

    Columns as of `pool_answers.pooled_fades`, with languages and noise. Empty without CT-then-SFT.
    """
    seeds, models = common_seeds(languages), models_of_all(languages)
    budgets = sorted({tokens for method, tokens in models if method == "ct_then_sft"})
    if len(languages) < 2 or not seeds or len(budgets) < 2:
        return pd.DataFrame()
    ends = (budgets[0], budgets[-1])
    rows = []
    for method in (m for m in METHODS if all((m, b) in models for b in ends)):
        first, last = (samples_of(languages, (method, b), ("ct_then_sft", b)) for b in ends)
        shrinks = [[[a - b for a, b in zip(*tasks, strict=True)] for tasks in zip(*pair, strict=True)]
                   for pair in zip(first, last, strict=True)]  # fmt: skip
        found = statistics.over_languages(shrinks, shared=items_are_shared(languages), bounds=(-2.0, 2.0))
        leads = {"lead_first": _mean_points(first), "lead_last": _mean_points(last)}
        head = {"method": method, "first": ends[0], "last": ends[1], "p": found.p}
        rows.append(head | leads | _percent(found, "difference"))
    noise = OVER_ALL if len(seeds) > 1 else ONE_SEED
    table = pd.DataFrame(rows).assign(languages=len(languages), seeds=len(seeds), noise=noise)
    return table.assign(p_holm=statistics.holm(table["p"])) if rows else table


def _mean_points(samples: Samples) -> float:
    return float(100 * np.mean([[np.mean([x.mean() for x in s]) for s in seeds] for seeds in samples]))


def leads_by_family(languages: Languages) -> pd.DataFrame:
    """Leads over the first baseline by family of tasks, mean over the languages that have it.

    Columns: family, method, ct_tokens, difference, ci_low, ci_high, p, p_holm (over all rows), languages
    (their codes). An interval needs two languages: NaN with one.
    """
    baseline = next(iter(next(iter(languages.values())).values())).baselines[0]
    rows = []
    for family, own in _families(languages).items():
        kept = {lang: {s: _narrowed(run, own[lang]) for s, run in languages[lang].items()} for lang in own}
        models = models_of_all(kept)
        for model in (m for m in models if m[0] in METHODS and common_seeds(kept)):
            samples = samples_of(kept, model, comparisons.at_budget(models, baseline, model[1]))
            head = {"family": family, "method": model[0], "ct_tokens": model[1], "languages": ", ".join(own)}
            rows.append(head | _over(samples, items_are_shared(kept)))
    table = pd.DataFrame(rows)
    known = table["p"].notna() if len(table) else []
    table["p_holm"] = np.nan
    table.loc[known, "p_holm"] = statistics.holm(table.loc[known, "p"]) if len(table) else []
    return table


def _over(samples: Samples, shared: bool) -> dict[str, float]:
    if len(samples) > 1:
        found = statistics.over_languages(samples, shared=shared)
        return _percent(found, "difference") | {"p": found.p}
    return {"difference": _mean_points(samples), "ci_low": np.nan, "ci_high": np.nan, "p": np.nan}


def _families(languages: Languages) -> dict[str, dict[str, list[str]]]:
    """family -> language -> its tasks in X."""
    found: dict[str, dict[str, list[str]]] = {}
    for lang, own in languages.items():
        scores = next(iter(own.values())).scores
        named = scores.drop_duplicates("task").set_index("task")["family"]
        for task in tasks_in_x(scores):
            found.setdefault(str(named[task]), {}).setdefault(lang, []).append(task)
    return found


def _narrowed(run: Run, tasks: Sequence[str]) -> Run:
    """The run with these tasks alone."""
    right = {model: {t: own[t] for t in tasks if t in own} for model, own in run.right.items()}
    return run._replace(right=right)


# what goes with the leads


def known_by_base(languages: Languages) -> pd.DataFrame:
    """lang, bits_per_byte: of the base on held-out text in X, before CT; mean over the seeds."""
    rows = []
    for lang, own in languages.items():
        found = [run.bits for run in own.values()]
        rows.append({"lang": lang, "bits_per_byte": float(np.mean(found))})
    return pd.DataFrame(rows)


def _base_bits(study: Study) -> float:
    table = pd.read_csv(RunPaths(study).scored("parents") / "bits_per_byte.csv")
    own = table[(table["method"] == "base") & (table["lang"] == study.lang)]
    return float(own["bits_per_byte"].iloc[0]) if len(own) else float("nan")


def leads_against(leads: pd.DataFrame, known: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(points, slopes): leads of the languages beside the base's bits per byte, and the line through them.

    leads: of `leads_by_language`, of one baseline. slopes: method, ct_tokens, slope (points for one bit per
    byte more), low, high (95%, Student's t over the languages), p, p_holm, languages; a line needs three.
    """
    points = leads.merge(known, on="lang").dropna(subset="bits_per_byte")
    rows = []
    for (method, tokens), own in points.groupby(["method", "ct_tokens"], sort=False):
        if own["bits_per_byte"].nunique() > 2 and own["difference"].nunique() > 1:
            rows.append({"method": method, "ct_tokens": tokens} | _line(own))
    slopes = pd.DataFrame(rows)
    return points, slopes.assign(p_holm=statistics.holm(slopes["p"])) if rows else slopes


def _line(own: pd.DataFrame) -> dict[str, float]:
    fit = stats.linregress(own["bits_per_byte"], own["difference"])
    half = float(fit.stderr * stats.t.ppf(0.975, len(own) - 2))
    ends = {"slope": fit.slope, "low": fit.slope - half, "high": fit.slope + half, "p": fit.pvalue}
    middle = {"at": own["bits_per_byte"].mean(), "lead": own["difference"].mean()}
    return {key: float(value) for key, value in (ends | middle).items()} | {"languages": len(own)}


def shares_by_language(languages: Languages) -> pd.DataFrame:
    """lang, ct_tokens, seeds and SHARES of the whole model at the fixed density; mean over the seeds."""
    tables = []
    for lang, own in languages.items():
        for run in own.values():
            tables.append(run.shares[["ct_tokens", *SHARES]].assign(lang=lang))
    every = pd.concat(tables, ignore_index=True)
    grouped = every.groupby(["lang", "ct_tokens"], sort=False)
    return grouped.mean().assign(seeds=grouped.size()).reset_index()
