"""Why answers fail: bytes that are no text, the wrong script, character overlap, discarded entries.

Everything is counted from `scores/items.parquet` and `conflicts/shares.csv`; nothing here needs torch.
Shares are percent with exact (Clopper-Pearson) 95% intervals.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import regex
from scipy import stats as scipy_stats

from lrnb import statistics
from lrnb.analysis import results
from lrnb.data.unicode_form import nfc
from lrnb.errors import UserError
from lrnb.scoring import predictions
from lrnb.study.files import MANIFEST
from lrnb.study.stages import RunPaths, current

REPLACEMENT = "\ufffd"  # stands in decoded text for bytes that are no character
GRAM = 3  # characters of an n-gram
MIN_BUDGETS = 3  # fewer CT budgets give no slope: merges of one budget are nearly the same model
NEEDED = ("model", "method", "ct_tokens", "task", "item", "gold", "prediction", "correct", "options")
KEYS = ["model", "method", "ct_tokens", "task"]


def read_items(paths: RunPaths) -> pd.DataFrame:
    """The study's `scores/items.parquet`. UserError where an earlier version made it, without prompts."""
    path = current(paths.scores) / "items.parquet"
    items = pd.read_parquet(path)
    if missing := sorted({*NEEDED, "context", "generation"} - set(items)):
        raise UserError(
            f"{path} has no {', '.join(missing)}: an earlier version scored these models. Score again with "
            "this version: notebooks/02_merge/04_evaluate.ipynb, then 03_analysis/01_scores.ipynb"
        )
    return items


# a, b: what generated answers are made of


def unparsable(items: pd.DataFrame) -> pd.DataFrame:
    """Of generated answers, per model and task: replaced (percent with a byte sequence that is no text).

    Also ci_low, ci_high of it, and unparsed: percent in which no answer was found for whatever reason.
    No rows where options were scored.
    """
    rows = []
    for key, part in _written(items):
        broken = part["generation"].str.contains(REPLACEMENT, regex=False)
        unparsed = 100 * part["prediction"].eq("").mean()
        rows.append(key | _share(int(broken.sum()), len(part), "replaced") | {"unparsed": float(unparsed)})
    return pd.DataFrame(rows, columns=[*KEYS, "n", "replaced", "ci_low", "ci_high", "unparsed"])


def scripts(items: pd.DataFrame, script: str) -> pd.DataFrame:
    """Of generated answers, per model and task: percent in X's script, in Latin, in another, without letters.

    script: Unicode name of X's script. wrong (with ci_low, ci_high): percent whose letters are mostly of
    another script than the task's. Latin letters count as English, so for an X written in Latin, or
    of unknown script, wrong is NaN. No rows where options were scored.
    """
    rows = []
    for key, part in _written(items):
        found = part["generation"].map(functools.partial(script_of, script=script))
        kinds = {name: 100 * float(found.eq(name).mean()) for name in ("x", "latin", "other", "none")}
        wanted = "latin" if str(key["task"]).endswith("_en") else "x"
        wrong = _share(int((~found.isin([wanted, "none"])).sum()), len(part), "wrong")
        if wanted == "x" and script in ("", "Latin"):
            wrong |= dict.fromkeys(("wrong", "ci_low", "ci_high"), np.nan)
        rows.append(key | wrong | kinds)
    columns = [*KEYS, "n", "wrong", "ci_low", "ci_high", "x", "latin", "other", "none"]
    return pd.DataFrame(rows, columns=columns)


def across_languages(root: Path, name: str) -> pd.DataFrame:
    """One table of `failures/` (`unparsable` or `scripts`) of every language below `root`, with column lang.

    Of every kind of model the one with the most CT tokens; tasks in the language itself only.
    """
    files = [p for p in sorted(root.glob(f"*/failures/{name}.csv")) if p.with_name(MANIFEST).is_file()]
    found = [pd.read_csv(path).assign(lang=path.parent.parent.name) for path in files]
    table = results.joined([pd.DataFrame(columns=["lang", *KEYS]), *found])
    own = table[~table["task"].astype(str).str.endswith("_en")]
    most = own.groupby(["lang", "task", "method"])["ct_tokens"].transform("max")
    return own[own["ct_tokens"] == most].reset_index(drop=True)


def script_of(text: str, script: str) -> str:
    """The script of most letters: "x" (the named one), "latin", "other"; "none" without letters.

    Vowel signs count with their letters; digits, punctuation and broken bytes do not count. Equal numbers
    go to x, then latin.
    """
    letters = len(regex.findall(r"[\p{L}\p{M}]", text))
    latin = len(regex.findall(r"\p{Script=Latin}", text))
    x = len(_of_script(script).findall(text)) if script not in ("", "Latin") else 0
    counts = {"x": x, "latin": latin, "other": letters - x - latin}
    return max(counts, key=lambda name: counts[name]) if letters else "none"


@functools.cache
def _of_script(script: str) -> Any:
    try:
        return regex.compile(rf"[\p{{L}}\p{{M}}&&\p{{Script={script}}}]", flags=regex.VERSION1)
    except regex.error:
        raise UserError(f"script {script!r} is no Unicode script; give its name, like Bengali") from None


def _written(items: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    part = items[predictions.generated(items)]
    return [(dict(zip(KEYS, key, strict=True)), own) for key, own in part.groupby(KEYS, sort=False)]


def _share(hits: int, n: int, name: str) -> dict[str, Any]:
    """{"n", name, "ci_low", "ci_high"}: hits of n in percent."""
    interval = scipy_stats.binomtest(hits, n).proportion_ci(statistics.LEVEL)
    return {"n": n, name: 100 * hits / n, "ci_low": 100 * interval.low, "ci_high": 100 * interval.high}


# c: character overlap


def grams(text: str, n: int = GRAM) -> set[str]:
    """The distinct runs of n characters; of a shorter text the whole. NFC, case and spacing levelled."""
    level = " ".join(nfc(text).casefold().split())
    return {level[i : i + n] for i in range(max(1, len(level) - n + 1))} if level else set()


def character_overlap(option: str, context: str) -> float:
    """Share of the option's distinct character trigrams that occur in the context (recall), in [0, 1]."""
    own = grams(option)
    short = min((len(gram) for gram in own), default=GRAM)
    return len(own & grams(context, short)) / len(own) if own else 0.0


def nearest_wrong(items: pd.DataFrame) -> pd.Series:
    """Whether each item was answered with a wrong option that overlaps more with the context than another."""
    known, found = _overlaps(items), []
    for row in items[["task", "item", "gold", "prediction", "correct"]].itertuples():
        draw = None if row.correct else _draw(known.get((row.task, row.item), {}), row.gold, row.prediction)
        found.append(bool(draw and draw[0]))
    return pd.Series(found, items.index, dtype=bool)


def overlap_errors(items: pd.DataFrame) -> pd.DataFrame:
    """Per model and task: do wrong answers take the wrong option that overlaps most with the context?

    Only errors with two or more wrong options of different overlap can tell (n). nearest: percent
    that took one with the highest overlap; expected: percent if the wrong option were drawn at
    random; p: one-sided, exact (Poisson-binomial, since ties and numbers of options differ);
    p_holm over the table. A model that likes one label for other reasons departs from random too.
    """
    rows, known = [], _overlaps(items)
    for key, part in items[~predictions.generated(items)].groupby(KEYS, sort=False):
        wrong = part[~part["correct"].astype(bool)]
        asked = zip(*(wrong[c] for c in ("task", "item", "gold", "prediction")), strict=True)
        draws = [_draw(known[task, item], gold, said) for task, item, gold, said in asked]
        told = [draw for draw in draws if draw is not None]
        if told:
            rows.append(dict(zip(KEYS, key, strict=True)) | _overlap_test(told) | {"errors": len(wrong)})
    columns = [*KEYS, "n", "nearest", "ci_low", "ci_high", "expected", "p", "errors"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=statistics.holm(table["p"].to_numpy(float)))


def _overlaps(items: pd.DataFrame) -> dict[tuple[str, Any], dict[str, float]]:
    """(task, item) -> option's name -> its overlap with the context; empty where the text is not known."""
    found = {}
    one = items[~predictions.generated(items)].drop_duplicates(["task", "item"])
    for row in one.to_dict("records"):
        names, texts = [str(name) for name in row["options"]], option_texts(row)
        pairs = zip(names, texts, strict=True) if texts else ()
        found[row["task"], row["item"]] = {
            name: character_overlap(text, row["context"]) for name, text in pairs
        }
    return found


def option_texts(row: dict[str, Any]) -> list[str]:
    """The options as the model saw them; [] where the item holds only their positions."""
    if len(row.get("texts", ())):
        return [str(text) for text in row["texts"]]
    names = [str(name) for name in row["options"]]
    return [] if sorted(names) == sorted(map(str, range(len(names)))) else names


def _draw(overlaps: dict[str, float], gold: Any, prediction: Any) -> tuple[bool, float] | None:
    """(took the nearest wrong option, chance of that); None where the options do not differ in overlap."""
    wrong = {name: value for name, value in overlaps.items() if name != str(gold)}
    if len(set(wrong.values())) < 2:
        return None
    top = max(wrong.values())
    return wrong[str(prediction)] == top, sum(value == top for value in wrong.values()) / len(wrong)


def _overlap_test(told: Sequence[tuple[bool, float]]) -> dict[str, Any]:
    hits, chances = sum(hit for hit, _ in told), [chance for _, chance in told]
    return _share(hits, len(told), "nearest") | {
        "expected": 100 * float(np.mean(chances)),
        "p": float(poisson_binomial(chances)[hits:].sum()),
    }


def poisson_binomial(chances: Sequence[float]) -> np.ndarray:
    """Probabilities of 0, 1, ..., n successes in n independent trials with their own chances: (n + 1,)."""
    found = np.ones(1)
    for chance in chances:
        found = np.convolve(found, [1 - chance, chance])
    return found


# d: accuracy against what the election kept of SFT


def kept(shares: pd.DataFrame) -> pd.DataFrame:
    """method, ct_tokens, kept: percent of SFT's trimmed entries that survive the chosen merge's election.

    shares: `conflicts/shares.csv`. TIES-SV takes its density from TIES, so TIES kept what TIES-SV keeps
    without those it won back; where their densities were searched apart, nothing is known of TIES.
    """
    rows = results.of_the_model(shares, "chosen")
    alike = rows[rows["ties_density"] == rows["density"]] if "ties_density" in rows else rows
    lost = {"ties": alike["sft_discarded"], "ties_sv": rows["sft_discarded"] - rows["reserved"]}
    tables = [
        rows.loc[gone.index, ["ct_tokens"]].assign(method=method, kept=100 * (1 - gone / rows["sft_kept"]))
        for method, gone in lost.items()
    ]
    return pd.concat(tables, ignore_index=True)


def kept_and_scores(scores: pd.DataFrame, shares: pd.DataFrame) -> pd.DataFrame:
    """scores of the TIES merges, single tasks, with `kept`."""
    single = scores[~scores["task"].isin([results.MEAN, results.MEAN_EN])]
    return single.merge(kept(shares), on=["method", "ct_tokens"])


def fragility(items: pd.DataFrame, shares: pd.DataFrame) -> pd.DataFrame:
    """Per task the slope of the score on `kept`: points of percent for each 10% of SFT's entries kept.

    Least squares over the TIES and TIES-SV merges. Columns: task, merges, budgets, slope, ci_low,
    ci_high (bootstrap over items), p (random signs of the items' own slopes), p_holm. The merges
    answer the same items and two of one budget are nearly one model, so items are what is drawn,
    not merges: the interval holds no noise of training. NaN with fewer than MIN_BUDGETS budgets.
    Budgets differ in CT as well, so a slope is no proof that conflicts are the cause.
    """
    x = kept(shares).set_index(["method", "ct_tokens"])["kept"]
    merged = items[pd.MultiIndex.from_frame(items[["method", "ct_tokens"]]).isin(x.index)]
    rows = [{"task": task} | _slope(own, x) for task, own in merged.groupby("task", sort=False)]
    columns = ["task", "merges", "budgets", "slope", "ci_low", "ci_high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    p = table["p"].dropna()
    return table.assign(p_holm=pd.Series(statistics.holm(p), p.index, dtype=float))


def _slope(own: pd.DataFrame, kept_by: pd.Series) -> dict[str, float]:
    """The slope of a mean over items is the mean of the items' slopes."""
    right = own.pivot_table(index="item", columns=["method", "ct_tokens"], values="correct").astype(float)
    x = kept_by.reindex(right.columns).to_numpy()
    size = {"merges": len(x), "budgets": right.columns.get_level_values("ct_tokens").nunique()}
    away = x - x.mean()
    if size["budgets"] < MIN_BUDGETS or not away.any():
        return size | dict.fromkeys(("slope", "ci_low", "ci_high", "p"), float("nan"))
    slopes = np.round(1000 * right.to_numpy() @ away / (away @ away), 9) + 0.0  # (items,), no -0
    if not slopes.any():  # the exact bound on shares says nothing about slopes
        return size | {"slope": 0.0} | dict.fromkeys(("ci_low", "ci_high", "p"), float("nan"))
    found = statistics.paired_difference([[(slopes, np.zeros_like(slopes))]], bounds=(-np.inf, np.inf))
    return size | {"slope": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "p": found.p}


def lost(items: pd.DataFrame, before: str, after: str) -> pd.Series:
    """Whether an item is one of `after`'s errors that the model `before` had right."""
    right = items[(items["model"] == before) & items["correct"].astype(bool)]
    known = pd.MultiIndex.from_frame(right[["task", "item"]])
    own = (items["model"] == after) & ~items["correct"].astype(bool)
    return own & pd.MultiIndex.from_frame(items[["task", "item"]]).isin(known)


# examples


def failed_items(items: pd.DataFrame) -> pd.DataFrame:
    """Every item that a model has wrong, with its text and all answers: one row an item.

    Columns: task, item, wrong (models that have it wrong), context, options (as shown, a line each), gold,
    then a column a model: its answer, the text of an option or what was written.
    """
    wrong = items.assign(wrong=~items["correct"].astype(bool)).groupby(["task", "item"])["wrong"].sum()
    keys = pd.MultiIndex.from_frame(items[["task", "item"]])
    own = items[(wrong.reindex(keys) > 0).to_numpy()]
    rows = own.to_dict("records")
    said = [row["generation"] or _shown(row, row["prediction"]) for row in rows]
    answers = own.assign(said=said).pivot(index=["task", "item"], columns="model", values="said")
    texts = {(row["task"], row["item"]): _item_texts(row) for row in rows}
    head = pd.DataFrame(list(texts.values()), index=pd.MultiIndex.from_tuples(texts, names=["task", "item"]))
    head.insert(0, "wrong", wrong)
    return head.join(answers[list(dict.fromkeys(own["model"]))]).reset_index()


def _item_texts(row: dict[str, Any]) -> dict[str, str]:
    options = option_texts(row) if len(row["options"]) else []
    return {"context": row["context"], "options": "\n".join(options), "gold": _shown(row, row["gold"])}


def side_by_side(items: pd.DataFrame) -> list[str]:
    """The two models whose answers stand side by side: CT-then-SFT and TIES-SV at the smallest budget.

    Where one is missing, the last two models.
    """
    there = list(dict.fromkeys(items["model"]))
    wanted = [[m for m in there if m.startswith(f"{method}@")] for method in ("ct_then_sft", "ties_sv")]
    return [found[0] for found in wanted] if all(wanted) else there[-2:]


def examples(
    items: pd.DataFrame, chosen: pd.Series, models: Sequence[str], n: int = 3
) -> list[dict[str, Any]]:
    """The first n items on which one of `models` is `chosen` (a mask over items), with all their answers.

    Rows: task, item, context, gold, answers (model -> text), right (model -> bool).
    """
    own = items[items["model"].isin(models)]
    keys = own.loc[chosen.reindex(own.index), ["task", "item"]].drop_duplicates().head(n)
    return [
        _beside(own[(own["task"] == task) & (own["item"] == item)], models)
        for task, item in keys.itertuples(index=False)
    ]


def _beside(rows: pd.DataFrame, models: Sequence[str]) -> dict[str, Any]:
    by = {row["model"]: row for row in rows.to_dict("records")}
    there = [model for model in models if model in by]
    first = by[there[0]]
    return {
        **{key: first[key] for key in ("task", "item", "context")},
        "gold": _shown(first, first["gold"]),
        "answers": {m: by[m]["generation"] or _shown(by[m], by[m]["prediction"]) for m in there},
        "right": {m: bool(by[m]["correct"]) for m in there},
    }


def _shown(row: dict[str, Any], name: Any) -> str:
    """An option's text where the item has it, its name otherwise."""
    texts = option_texts(row) if len(row["options"]) else []
    names = [str(option) for option in row["options"]]
    return texts[names.index(str(name))] if texts and str(name) in names else str(name)
