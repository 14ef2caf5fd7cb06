"""What sets of languages keep of their languages' own merges, over runs; and whether it was foretold.

The tables of `language_sets`: items in, differences with intervals out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import statistics
from lrnb.analysis.language_sets import ONE_STEP, family_of, set_predictors
from lrnb.study.parameters import ENGLISH

MOST = 5000  # relabellings of languages that are looked at; all where there are fewer
PREDICTORS = ("cosine", "conflict_share")
Answers = Mapping[tuple[str, str, str], Mapping[str, Mapping[str, pd.Series]]]  # set, method, way; lang; task


def answers_of(items: pd.DataFrame) -> Answers:
    """What every merge has right."""
    found: dict[tuple[str, str, str], dict[str, dict[str, pd.Series]]] = {}
    keys = ["languages", "method", "way", "lang", "task"]
    for (langs, method, way, lang, task), part in items.groupby(keys, sort=False):
        right = part.set_index("item")["correct"].sort_index().astype(float)
        found.setdefault((str(langs), str(method), str(way)), {}).setdefault(str(lang), {})[str(task)] = right
    return found


def read_sets(folder: Path) -> tuple[Answers, pd.DataFrame]:
    """(answers, what was foretold) of a finished stage."""
    return answers_of(pd.read_parquet(folder / "items.parquet")), pd.read_csv(folder / "foretold.csv")


def in_all(runs: Sequence[Answers]) -> list[Answers]:
    """The merges that all runs have: of sets above two each seed draws its own."""
    common = set.intersection(*(set(run) for run in runs))
    return [{key: right for key, right in run.items() if key in common} for run in runs]


def kept_by_sets(runs: Sequence[Answers], foretold: pd.DataFrame, *, shared: bool = False) -> pd.DataFrame:
    """A row a set of two or more languages, method and way, in X and in English.

    runs: of one run, or of several seeds; shared: whether these answer the same items. Columns: languages,
    size, method, way, asked ("x", the mean over the set's languages, or "en"), kept (points: the set minus
    the languages' own merges by that method), ci_low, ci_high, p, p_holm (over the rows of one asked),
    seeds, cosine, conflict_share (means over every two languages), family (of all, or "").
    """
    rows = []
    for key in [key for key in runs[0] if "+" in key[0]]:
        langs = key[0].split("+")
        head: dict[str, Any] = dict(zip(("languages", "method", "way"), key, strict=True))
        head["size"] = len(langs)
        head |= set_predictors(langs, foretold) | {"family": family_of(langs)}
        for asked in ("x", ENGLISH) if ENGLISH in runs[0][key] else ("x",):
            pairs = [_pairs(run, key, langs, asked) for run in runs]
            found = statistics.paired_difference(pairs, shared=shared)
            ends = {"kept": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
            told = {name: 100 * value for name, value in ends.items()} | {"p": found.p, "seeds": len(runs)}
            rows.append(head | {"asked": asked} | told)
    table = pd.DataFrame(rows)
    holm = table.groupby("asked")["p"].transform(lambda p: statistics.holm(p.to_numpy()))
    return table.assign(p_holm=holm)


def _pairs(
    run: Answers, key: tuple[str, str, str], langs: Sequence[str], asked: str
) -> list[tuple[Any, Any]]:
    """(the set's answers, its languages' own) for each task, so weighted that languages count alike."""
    if asked == ENGLISH:
        own = [run[lang, key[1], ONE_STEP][ENGLISH] for lang in langs]
        return [(x, sum(one[task] for one in own) / len(own)) for task, x in run[key][ENGLISH].items()]
    total = sum(len(run[key][lang]) for lang in langs)
    pairs = []
    for lang in langs:
        factor = total / (len(langs) * len(run[key][lang]))
        alone = run[lang, key[1], ONE_STEP][lang]
        pairs += [(factor * x, factor * alone[task]) for task, x in run[key][lang].items()]
    return pairs


def relation_of_pairs(kept: pd.DataFrame) -> pd.DataFrame:
    """Whether cosine and conflict share of two languages foretell what their merge keeps.

    kept: of `kept_by_sets`. Columns: method, way, asked, predictor, r (Pearson), p, p_holm (over all rows),
    pairs. Pairs that share a language are not independent: p is from relabelling the languages (Mantel 1967),
    all ways or MOST of them. Empty with fewer than three languages.
    """
    rows = []
    pairs = kept[kept["size"] == 2]
    for (method, way, asked), own in pairs.groupby(["method", "way", "asked"], sort=False):
        for name in PREDICTORS:
            if len(own) > 2:
                r, p = _mantel(own, name)
                head = {"method": method, "way": way, "asked": asked, "predictor": name}
                rows.append(head | {"r": r, "p": p, "pairs": len(own)})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p"].to_numpy())) if len(table) else table


def _mantel(pairs: pd.DataFrame, predictor: str) -> tuple[float, float]:
    langs = list(dict.fromkeys("+".join(pairs["languages"]).split("+")))
    there, kept = (_matrix(pairs, langs, column) for column in (predictor, "kept"))
    upper = np.triu_indices(len(langs), 1)
    observed = _correlation(there[upper], kept[upper])
    drawn = np.array(
        [_correlation(there[np.ix_(x, x)][upper], kept[upper]) for x in _relabellings(len(langs))]
    )
    return observed, float(np.mean(abs(drawn) >= abs(observed) - 1e-12))


def _relabellings(n: int) -> list[np.ndarray]:
    if factorial(n) <= MOST:
        return [np.array(order) for order in permutations(range(n))]
    rng = np.random.default_rng(0)
    return [np.arange(n), *(rng.permutation(n) for _ in range(MOST - 1))]


def _matrix(pairs: pd.DataFrame, langs: Sequence[str], column: str) -> np.ndarray:
    found = np.zeros((len(langs), len(langs)))
    for names, value in zip(pairs["languages"], pairs[column], strict=True):
        i, j = (langs.index(lang) for lang in names.split("+"))
        found[i, j] = found[j, i] = value
    return found


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0


def findings_of_sets(kept: pd.DataFrame, relation: pd.DataFrame) -> list[str]:
    """What the tables say: how many languages, one step or two, and whether overlap foretold it."""
    found = []
    for (method, way, asked), own in kept.groupby(["method", "way", "asked"], sort=False):
        by_size = own.groupby("size")["kept"]
        told = ", ".join(f"{size} languages {value:+.1f}" for size, value in by_size.mean().items())
        sure = int((own["p_holm"] < 0.05).sum())
        where = "English" if asked == ENGLISH else "the languages"
        found.append(
            f"{method}, {way}, in {where}: {told} points against their own merges, means over sets; {sure} "
            f"of {len(own)} sets differ after Holm's correction."
        )
    for row in relation[relation["asked"] == "x"].to_dict("records") if len(relation) else []:
        found.append(
            f"{row['method']}, {row['way']}: {row['predictor'].replace('_', ' ')} of two languages and what "
            f"their merge keeps go together with r = {row['r']:+.2f} (Holm p {row['p_holm']:.3f}, "
            f"{row['pairs']} pairs)."
        )
    return found
