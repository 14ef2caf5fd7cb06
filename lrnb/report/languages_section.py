"""Real languages of one preset in docs/results.md, from one pool a language: scores, leads, what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from lrnb.analysis import findings, languages
from lrnb.analysis.kinds import label
from lrnb.analysis.languages_pooled import languages_of_pools
from lrnb.analysis.no_result import resting_on_scores, why_no_result
from lrnb.report.markdown import markdown_table, told_ends, told_p
from lrnb.statistics import above_chance
from lrnb.study.parameters import budget_name
from lrnb.tasks.rows import language_name

EVERY = "all languages"


def languages_section(files: Sequence[Path], margin: float) -> Iterator[str]:
    """Markdown lines on the languages whose pools `files` are, all of one preset."""
    found = languages_of_pools(files)
    preset = files[0].stem.partition("-")[0]
    names = {lang: language_name(lang) for lang in found} | {languages.ALL: EVERY}
    yield f"## Preset {preset}: {', '.join(names[lang] for lang in found)}\n"
    yield _seeds_of(found, names)
    scores = languages.scores_by_language(found)
    yield from markdown_table(_score_table(scores, names))
    leads = languages.leads_by_language(found)
    main = leads["baseline"].iloc[0]
    yield f"Merge minus {label(main)} at the same CT tokens, mean of the tasks in X, points:\n"
    yield from markdown_table(_lead_table(leads[leads["baseline"] == main], names, margin))
    yield from _over_all(languages.leads_over_languages(found), main, margin, _why(scores))


def _seeds_of(found: languages.Languages, names: dict[str, str]) -> str:
    told = "; ".join(f"{names[lang]}: {', '.join(map(str, own))}" for lang, own in found.items())
    return (
        f"Seeds: {told}. Percent right, mean of the tasks in X, with 95% intervals: over items where a "
        "language has one seed, over seeds and items where it has several, over languages too under "
        f"*{EVERY}*. ° not above chance.{_frozen(found)}\n"
    )


def _frozen(found: languages.Languages) -> str:
    """Where every arm had one candidate, given by `search`: that nothing was chosen on these languages."""
    studies = [run.study for own in found.values() for run in own.values()]
    lists = [values for s in studies for options in s.search.values() for values in options.values()]
    given = all(set(study.search) == set(study.methods) for study in studies)
    alone = given and lists and all(len(values) == 1 for values in lists)
    return " Hyper-parameters are frozen (`lrnb freeze`): none was chosen on these runs." if alone else ""


def _why(scores: pd.DataFrame) -> str:
    """Why no language compares anything; "" where one does."""
    own = scores[scores["lang"] != languages.ALL].assign(task="mean")
    whys = [why_no_result(part) for _, part in own.groupby("lang")]
    return "No score is above chance in any language" if all(whys) else ""


def _score_table(scores: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """A row a model, a column a language; chance last."""
    marks = above_chance(scores["ci_low"], scores["chance"])
    ends = told_ends(scores, "ci_low", "ci_high", "{:.0f}")
    told = scores["value"].map("{:.1f}".format) + marks.map({True: "", False: "°"}) + " (" + ends + ")"
    keys = ["method", "ct_tokens"]
    wide = scores.assign(told=told).pivot_table(
        index=keys, columns="lang", values="told", aggfunc="first", sort=False
    )
    shown = wide.rename(columns=names).fillna("–").reset_index()
    chance = scores.groupby("lang")["chance"].first().map("{:.1f}".format).rename(names)
    last = {"method": "*chance*", "ct_tokens": ""} | chance.to_dict()
    shown["method"], shown["ct_tokens"] = shown["method"].map(label), shown["ct_tokens"].map(budget_name)
    return pd.concat([shown, pd.DataFrame([last])]).rename(
        columns={"method": "model", "ct_tokens": "CT tokens"}
    )


def _lead_table(leads: pd.DataFrame, names: dict[str, str], margin: float) -> pd.DataFrame:
    rows = leads.to_dict("records")
    return pd.DataFrame({
        "what": leads["lang"].map(names), "model": leads["method"].map(label),
        "CT tokens": leads["ct_tokens"].map(budget_name), "lead": leads["difference"].map("{:+.1f}".format),
        "95%": told_ends(leads, "ci_low", "ci_high", "{:+.1f}"), "Holm p": leads["p_holm"].map(told_p),
        "seeds": leads["seeds"], "holds": leads["noise"],
        "verdict": [findings.verdict_of(row, row["noise"], margin) for row in rows],
    }).rename(columns={"what": "language", "holds": "interval of"})  # fmt: skip


def _over_all(leads: pd.DataFrame, main: str, margin: float, why: str) -> Iterator[str]:
    """What is said of all languages together, where there are two or more with a seed in common."""
    if not len(leads):
        return
    own = leads[leads["baseline"] == main].sort_values("ct_tokens", kind="stable")
    yield f"Over {int(own['languages'].iloc[0])} languages ({own['noise'].iloc[0]}):\n"
    said = resting_on_scores(findings.findings_of_pool(own, margin), why)
    yield from (f"- {found['text']}" for found in said)
    yield ""
