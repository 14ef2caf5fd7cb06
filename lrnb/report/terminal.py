"""Tables in the terminal: the plan of a study, its results, and results over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from lrnb.analysis import pool, pool_answers, pool_lines, results, seeds
from lrnb.analysis.findings import no_comparison
from lrnb.analysis.kinds import label
from lrnb.analysis.no_result import what_to_try, why_no_result
from lrnb.analysis.trust import MARKS, NOT_ABOVE, marked_values
from lrnb.report.tables import print_table
from lrnb.statistics import above_chance
from lrnb.study.files import write_text
from lrnb.study.parameters import Study, budget_name
from lrnb.study.stages import RunPaths


def print_results(study: Study) -> None:
    """What the stored pool says with this run in it, scores one row a model, and where the report is.

    And where the run's scores compare nothing, what to try.
    """
    paths = RunPaths(study)
    table, report = paths.scores / "scores.csv", paths.lang / "report.html"
    if (paths.scores / "differences.csv").is_file():
        _print_answer(study)
    if table.is_file():
        name, scores = study.lang_name or study.lang, pd.read_csv(table)
        title = f"Percent right in {name} ({study.preset}, seed {study.seed})"
        _print_frame(_narrow(by_model(scores)), f"{title}; en: mean in English; {MARKS}")
        if why := why_no_result(scores, name):
            print(f"{why}: {no_comparison()}. {what_to_try(study)}")
    if report.is_file():
        print(f"report: {report}")


def _print_answer(study: Study) -> None:
    """The pooled answer, this run as one value in it; or that there is none, and why."""
    found = pool_answers.pool_for(study)
    print(pool_answers.about(study, found))
    if found is not None and not found.why:
        table = pd.read_csv(RunPaths(study).scores / "differences.csv")
        rows = pool_answers.answer(found, table, study.seed)
        _print_leads(
            rows[rows["baseline"] == pool_lines.BASELINE],
            f"! outside of where 95% of runs lie. {found.seeds} seeds",
        )


def _print_leads(rows: pd.DataFrame, who: str) -> None:
    """Leads over CT-then-SFT in points; of one run beside them where there is one, with ! outside."""
    shown = _compact(rows)[["method", "difference", "95%", "p_holm"]]
    shown.insert(1, "CT", rows["ct_tokens"].map(budget_name))
    if "own" in rows:
        ends = rows[["low", "high"]].itertuples(index=False)
        mark = rows["outside"].map({True: "!", False: ""})
        shown["this\nrun"] = rows["own"].map("{:.1f}".format) + mark
        shown["95% of\nruns"] = [f"{low:.0f} to {high:.0f}" for low, high in ends]
        shown["one run\nfinds"] = rows["detectable"]
    shown = shown.rename(columns={"difference": "lead", "p_holm": "Holm\np"})
    _print_frame(shown, f"{who}: merge minus CT-then-SFT, points")


def print_pool(path: Path) -> None:
    """What a pool says: leads over CT-then-SFT over its seeds, each counted once."""
    every = pool.read_pool(path)
    lines = pool_lines.headline_lines(every)
    if len(lines) < 2:
        print(f"{path}: {len(lines)} seed; two or more can be pooled")
        return
    leads = pool_answers.pooled_leads(lines)
    own = leads[leads["baseline"] == pool_lines.BASELINE]
    _print_leads(own, f"{path}: {len(lines)} seeds on {pool_lines.told_sets(lines)}")
    if len(every) > len(lines):
        print(f"not counted: {len(every) - len(lines)} runs of the same seeds on another instruction set")


def print_left_alone(study: Study) -> None:
    """After a failure before the scores: say that a table there is an earlier run's."""
    table = RunPaths(study).scores / "scores.csv"
    if table.is_file():
        print(f"No new scores: the table of an earlier run was left alone, {table}")


def by_model(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a model (method, CT tokens): mean, interval, tasks in X, mean in English; last, the levels.

    Scores are marked as in the report; those of an earlier version only where they are not above chance.
    """
    keys = ["method", "ct_tokens"]
    both = pd.concat([scores.assign(shown=marked_values(_with_marks(scores))), *_levels(scores)])
    wide = both.pivot_table(index=keys, columns="task", values="shown", aggfunc="first", sort=False)
    tasks = [task for task in dict.fromkeys(scores["task"]) if not task.startswith("mean")]
    own = [task for task in tasks if not task.endswith("_en")]
    head = "mean" if "mean" in wide else own[0]  # a single task in X stands for itself
    means = scores[scores["task"] == head].set_index(keys)
    bounds = zip(means["ci_low"], means["ci_high"], strict=True)
    interval = [f"{low:.0f}–{high:.0f}" for low, high in bounds]
    shown = list(dict.fromkeys([head, *own]))
    table = wide[shown].rename(columns=lambda task: task.removeprefix("world_"))
    table.insert(1, "95%\nitems only", table.index.map(dict(zip(means.index, interval, strict=True))))
    english = [task for task in ("mean_en", *tasks) if task in wide and task.endswith("_en")]
    if english:
        table["en"] = wide[english[0]]
    return table.fillna("").reset_index().rename(columns={"ct_tokens": "CT tokens"})


def _narrow(table: pd.DataFrame) -> pd.DataFrame:
    """`by_model` for 80 columns: budgets by their names."""
    names = [budget_name(tokens) if tokens else "" for tokens in table["CT tokens"]]
    short = {"CT tokens": "CT", "95%\nitems only": "95%\nitems\nonly"}
    return table.assign(**{"CT tokens": names}).rename(columns=short)


def _with_marks(scores: pd.DataFrame) -> pd.DataFrame:
    """What scores.csv of earlier versions lacks: whether a score is above chance."""
    if "mark" in scores:
        return scores.fillna({"mark": ""})
    below = ~above_chance(scores["ci_low"], scores["chance"])
    return scores.assign(mark=below.map({True: NOT_ABOVE, False: ""}), collapsed=False)


def _levels(scores: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of the chance level and, where there is one, the majority level."""
    one = scores.drop_duplicates("task")
    lines = [name for name in ("chance", "majority") if name in one and one[name].notna().any()]
    words = [one[name].map("{:.1f}".format).where(one[name].notna(), "–") for name in lines]
    return [one.assign(method=name, ct_tokens=0, shown=w) for name, w in zip(lines, words, strict=True)]


def _print_frame(frame: pd.DataFrame, title: str) -> None:
    named = frame.assign(method=frame["method"].map(label)) if "method" in frame else frame
    print_table(named.to_dict("records"), title)


def print_seeds(studies: list[Study]) -> None:
    """Write `<runs>/<preset>/<lang>-seeds.csv` and print the means over tasks.

    Beside it `<lang>-seeds.json`: the parameters that the seeds have in common; and
    `<lang>-seeds-differences.csv`: every merge against CT-then-SFT over the seeds.
    """
    folders = [RunPaths(study).lang for study in studies]
    table = seeds.seeds_table(folders)
    first = RunPaths(studies[0])
    out = first.root / f"{studies[0].lang}-seeds.csv"
    write_text(out, table.to_csv(index=False))
    apart = seeds.seed_differences(folders)
    write_text(out.with_name(f"{out.stem}-differences.csv"), apart.to_csv(index=False))
    common = studies[0].model_dump(exclude={"seed", "runs"})
    write_text(out.with_suffix(".json"), json.dumps(common, indent=1, ensure_ascii=False))
    shown = table[table["task"].isin(["mean", "sft_discarded_share"])]
    columns = ["method", "ct_tokens", "task", "mean", "sd", "95%", "chance"]
    _print_frame(_compact(shown if len(shown) else table)[columns], f"{len(studies)} seeds, percent")
    if len(apart):
        head = _compact(apart[apart["task"] == results.headline(apart)])
        columns = ["method", "ct_tokens", "task", "difference", "95%", "p", "p_holm"]
        _print_frame(head[columns], f"{len(studies)} seeds: merge minus CT-then-SFT, points")
    print(f"all tasks: {out}")


def print_languages(leads: pd.DataFrame, page: Path) -> None:
    """What several languages say together, and where their page is; leads: `leads_over_languages`."""
    if len(leads):
        own = leads[leads["baseline"] == leads["baseline"].iloc[0]]
        table = _compact(own)[
            ["method", "difference", "95%", "p_holm", "wins", "ties", "losses", "detectable"]
        ]
        table.insert(1, "CT", own["ct_tokens"].map(budget_name))
        seeds = int(own["seeds"].iloc[0])
        who = f"{int(own['languages'].iloc[0])} languages, {seeds} seed{'s' * (seeds != 1)}"
        title = f"{who}: merge minus {label(own['baseline'].iloc[0])}, points"
        _print_frame(table.rename(columns={"difference": "lead", "p_holm": "Holm\np"}), title)
    print(f"all languages: {page}")


def _compact(table: pd.DataFrame) -> pd.DataFrame:
    """The ends of an interval in one column, p-values with three decimals."""
    ends = table[["ci_low", "ci_high"]].itertuples(index=False)
    table = table.assign(**{"95%": [f"{low:.1f} to {high:.1f}" if low == low else "" for low, high in ends]})
    return table.assign(
        **{name: table[name].map("{:.3f}".format) for name in ("p", "p_holm") if name in table}
    )
