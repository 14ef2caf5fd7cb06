"""One self-contained page per run: table, figures, what holds and what does not, parameters, timings.

The page opens without a network: plotly.js, the picture and all styles are inside. Everything that
comes from models, corpora or manifests is escaped (by jinja2, `plain_caption` and plotly). `page_content`
gathers what the template shows, section by section; a new figure is a line in `_figures_of` and one in the
template.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from lrnb.analysis import (
    comparisons,
    crossing,
    data_tables,
    english,
    findings,
    pool,
    pool_answers,
    question_findings,
    questions,
    results,
    retention,
    seeds,
    trust,
)
from lrnb.analysis.kinds import label, ordered
from lrnb.analysis.no_result import NO_RESULT, resting_on_scores, what_to_try, why_no_result
from lrnb.analysis.pool_lines import BASELINE, right_of
from lrnb.errors import UserError
from lrnb.figures.failures import scores_against_kept, shares_by_model
from lrnb.figures.merging import fates, shares_by, shares_by_budget
from lrnb.figures.pooled import leads_and_discarded
from lrnb.figures.questions import discarded_by_evening, gains_by_budget, selectors_by_share
from lrnb.figures.retention import losses_by_part, score_by_retention
from lrnb.figures.scores import (
    differences_to_baseline,
    front,
    predicted_classes,
    scores_by_budget,
    training_history,
)
from lrnb.figures.style import colour, task_name
from lrnb.report.rows_in_x_section import rows_in_x_part
from lrnb.report.tables import known_records
from lrnb.scoring import predictions
from lrnb.study import recipe
from lrnb.study.environment import versions
from lrnb.study.files import write_text
from lrnb.study.parameters import SYNTHETIC, Study, budget_name
from lrnb.study.run_folder import study_of
from lrnb.study.stages import RunPaths, require, stale

HERE = Path(__file__).parent
WIDE = 30  # characters of a line in the picture's box of merges
PAPER = "https://arxiv.org/abs/2407.03994"
RETENTION = ("points", "slopes", "losses")  # tables of 08_retention
FAILURES = ("unparsable", "scripts", "overlap", "kept", "fragility", "written")  # tables of 05_failures


def write_report(folder: Path) -> Path:
    """Write `report.html` into a language's run folder and return its path.

    Reads params.yaml, the manifests, scores and shares there, wherever the folder was moved to.
    UserError names what is missing.
    """
    study = study_of(Path(folder))
    out = RunPaths(study).lang / "report.html"
    write_text(out, render(study))
    return out


PICTURED = ("average, task arithmetic,", "TIES, TIES-SV: no training")  # the lines of study.svg on merging


def picture(methods: Sequence[str] = ()) -> str:
    """The study in one picture, as SVG text; with the merges of a run in place of the paper's."""
    drawn = (HERE / "study.svg").read_text(encoding="utf-8")
    for old, new in zip(PICTURED, _in_two_lines(methods), strict=True) if methods else ():
        drawn = drawn.replace(old, escape(new))
    return drawn


def _in_two_lines(methods: Sequence[str]) -> list[str]:
    """As many names of methods as two lines of the picture take, and how many more there are."""
    names = [unescape(label(method)) for method in methods]
    for shown in range(len(names), 0, -1):
        rest = f" and {len(names) - shown} more" if shown < len(names) else ""
        told = f"{', '.join(names[:shown])}{rest}:"
        lines = textwrap.wrap(f"{told} no training", WIDE)
        if len(lines) <= len(PICTURED):
            break
    return lines if len(lines) == len(PICTURED) else [told, "no training"]


def render(study: Study) -> str:
    """The page as one string."""
    return fill("page.html.jinja", page_content(study), RunPaths(study).lang)


def fill(template: str, content: dict[str, Any], home: Path) -> str:
    """A template of this folder with its content; `home`: the folder from which the page names files."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure_html
    environment.tests["there"] = lambda name: (home / name).is_file()
    words = {"label": label, "colour": colour, "task_name": task_name, "budget_name": budget_name}
    inside = {"plotlyjs": get_plotlyjs(), "paper": PAPER}
    return environment.get_template(template).render(**content, **words, **inside)


def figure_html(fig: go.Figure) -> str:
    """A plotly figure as HTML; its title becomes a caption that wraps on a narrow screen."""
    drawn = fig.to_dict()
    caption = plain_caption(drawn["layout"].pop("title", {}).get("text", ""))
    drawn["layout"]["margin"] = drawn["layout"].get("margin", {}) | {"t": 18}
    look = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    body = pio.to_html(drawn, config=look, include_plotlyjs=False, full_html=False, validate=False)
    return f"<figure><figcaption>{caption}</figcaption>{body}</figure>"


def plain_caption(title: str) -> str:
    """A title as HTML, of whose tags those stay that plotly draws in a text; the others are shown as text."""
    return re.sub(r"&lt;(/?(?:b|i|em|sub|sup)|br ?/?)&gt;", r"<\1>", escape(unescape(title), quote=False))


def page_content(study: Study) -> dict[str, Any]:
    """Everything the template shows, from the files of one run; `frames`: its tables as they are exported."""
    paths = RunPaths(study)
    folder = require(paths.scores)
    scores, table = pd.read_csv(folder / "scores.csv"), pd.read_csv(folder / "differences.csv")
    items = pd.read_parquet(folder / "items.parquet")
    shares = pd.read_csv(require(paths.conflicts) / "shares.csv")
    pooled = pool_answers.pool_for(study)
    table = pool_answers.with_training(table, pooled, study.seed)
    said = findings.findings_of_scores(scores, items, table, study.margin)
    said += findings.findings_of_shares(shares, scores)
    why = _why_no_result(study, pooled, scores)
    answer = _answer(study, pooled, table, results.of_the_model(shares, "fixed"), why)
    both = english.in_both(scores)
    choices = trust.dev_and_test(paths, items)
    crossed = _crossings(pooled, items, study, why)
    in_x = rows_in_x_part(study, items)
    frames = {
        "scores": trust.marks(scores, items),
        "english_kept": both,
        "differences": table,
        "detectable": trust.detectable_differences(items, table),
        "answers": predictions.collapsed(items),
        "discarded": shares[shares["tensor"] == "(model)"],
        "chosen_on_dev": choices,
        "crossings": crossed,
        "over_the_pool": pd.DataFrame(answer["rows"]),
        "findings": pd.DataFrame(said),
        "text_for_ct": data_tables.text_for_ct(paths),
        "trainings": data_tables.trainings_of(paths),
        "bits_per_byte": data_tables.bits_by_model(paths),
    } | in_x.get("frames", {})
    return {
        "frames": frames,
        "data": {name: known_records(frames[name]) for name in ("text_for_ct", "trainings", "bits_per_byte")},
        "study": study,
        "stale": stale(paths.scores, paths.conflicts, paths.lang / "failures", paths.retention),
        "synthetic": study.lang in SYNTHETIC,
        "parameters": study.model_dump(exclude={"runs"}),
        "baselines": [label(name) for name in comparisons.baselines(items)],
        "budgets": [budget_name(b) for b in study.ct_budgets],
        "methods": ordered(scores["method"]),
        "picture": picture(study.methods),
        "claims": {claim: [f for f in said if f["claim"] == claim] for claim in (f["claim"] for f in said)},
        "tables": score_tables(scores, items),
        "english": _cells(both, "ct_tokens", "method"),
        "answer": answer,
        "seeds": _over_seeds(study, pooled, scores),
        "tuned": trust.tried_by_arm(paths),
        "differences": _difference_rows(table, results.headline(scores), study.margin, why_no_result(scores)),
        "crossings": crossing.findings_of_crossings(crossed),
        "detectable": _detectable(items, table, results.headline(scores)),
        "answers": _answer_table(items),
        "choices": known_records(choices),
        "failures": _failures_of(
            paths, list(dict.fromkeys(items.loc[~predictions.generated(items), "task"]))
        ),
        "questions": _questions(study),
        "retention": _retention(paths),
        "in_x": in_x
        | ({"tables": score_tables(in_x["frames"]["rows_in_x_scores"], in_x["items"])} if in_x else {}),
        "figures": _figures_of(paths, scores, items, table, shares),
    } | _timings(results.finished_stages(paths, study.ct_budgets))


def _timings(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Stages, their devices, seconds and versions; where versions differ, all of them are listed."""
    found: dict[str, set[str]] = {}
    for name, value in (pair for stage in stages for pair in (stage["versions"] or {}).items()):
        found.setdefault(name, set()).add(str(value))
    return {
        "stages": stages,
        "versions": {name: ", ".join(sorted(values)) for name, values in found.items()} or versions(),
        "device": ", ".join(sorted({s["device"] for s in stages if s["device"]})),
        "finished": max((s["finished"] for s in stages), default="")[:16].replace("T", " "),
        "seconds": sum(s["seconds"] or 0 for s in stages),
    }


def score_tables(scores: pd.DataFrame, items: pd.DataFrame) -> list[dict[str, Any]]:
    """The results tables: language X first, then English where it was scored.

    columns: tasks; levels: task -> chance and n; majority: task -> percent, where there is one; groups: CT
    budget -> method -> task -> the row of `trust.marks` with `best`, the highest of its group if it is above
    chance and majority and no collapse.
    """
    marked = trust.marks(scores, items)
    block = marked.groupby(["ct_tokens", "task"])["value"]
    top = (marked["value"] == block.transform("max")) & (block.transform("size") > 1)
    marked = marked.assign(best=top & marked["clear"] & ~marked["collapsed"])
    names = list(dict.fromkeys(scores["task"]))
    in_x = [t for t in (results.MEAN, *results.tasks_in_x(scores)) if t in names]
    english = sorted((t for t in names if t not in in_x), key=lambda t: t != results.MEAN_EN)
    titled = {"In the language": in_x, "In English: what is learnt there, and what is forgotten": english}
    levels = marked.drop_duplicates("task").set_index("task")
    groups = {int(tokens): _cells(part, "method") for tokens, part in marked.groupby("ct_tokens")}
    common = {"groups": groups, "levels": levels.to_dict("index")}
    return [
        {
            "title": title,
            "columns": tasks,
            "majority": levels.loc[tasks, "majority"].dropna().to_dict(),
            **common,
        }
        for title, tasks in titled.items()
        if tasks
    ]


def _cells(rows: pd.DataFrame, by: str, then: str = "task") -> dict[Any, dict[str, Any]]:
    """Method or model -> task -> row; or by other columns."""
    parts = rows.groupby(by, sort=False)
    return {name: own.set_index(then).to_dict("index") for name, own in parts}


def _answer_table(items: pd.DataFrame) -> dict[str, Any]:
    """Model -> task -> the most frequent answer, its share, and whether it is a collapse; how many are."""
    table = predictions.collapsed(items)
    count = {"collapsed": int(table["collapsed"].sum()), "of": len(table)}
    return {"tasks": list(dict.fromkeys(table["task"])), "models": _cells(table, "model"), **count}


def _why_no_result(study: Study, pooled: pool_answers.Pool | None, scores: pd.DataFrame) -> str:
    """Why the scores that the page begins with, a pool's or the run's, compare nothing; "" where they do."""
    name = study.lang_name or study.lang
    if pooled is None or pooled.why:
        return why_no_result(scores, name)
    levels = scores.drop_duplicates("task").set_index("task")["chance"]
    told = pool_answers.pooled_scores(pooled)
    return why_no_result(told.assign(chance=told["task"].map(levels)), name)


def _answer(
    study: Study, pooled: pool_answers.Pool | None, table: pd.DataFrame, shares: pd.DataFrame, why: str
) -> dict[str, Any]:
    """What the stored pool says, this run in it: rows, sentences, figure; or why not, and this run alone.

    why: of `why_no_result`, where the scores compare nothing.
    """
    about = pool_answers.about(study, pooled)
    if pooled is None or pooled.why:
        alone = {"about": about, "rows": [], "said": [], "outside": [], "detectable": []}
        return alone | _first(_of_this_run(table), study, shares, why)
    rows = pool_answers.answer(pooled, table, study.seed)
    rows = rows[rows["baseline"] == BASELINE]
    said = resting_on_scores(findings.findings_of_pool(rows, study.margin), why)
    kinds = [finding["verdict"] for finding in said]
    one = "ties" if "ties" in set(rows["method"]) else rows["method"].iloc[0]
    first = [f for f, method in zip(said, rows["method"], strict=True) if method == one]
    fades = pool_answers.pooled_fades(pooled.lines)
    faded = findings.findings_of_fades(fades[fades["method"] == one], study.margin) if len(fades) else []
    first += resting_on_scores(faded, why)
    return {
        "about": about,
        "rows": rows.assign(verdict=kinds).to_dict("records"),
        "said": first,
        "outside": rows[rows["outside"]].to_dict("records"),
        "detectable": [rows["detectable"].min(), rows["detectable"].max()],
    } | _first(rows, study, pool_answers.mean_shares(pooled.lines), why)


def _of_this_run(table: pd.DataFrame) -> pd.DataFrame:
    """The main question's differences of one run, as the pool's answer has them."""
    baseline = BASELINE if BASELINE in set(table["baseline"]) else "sft"
    own = table[(table["task"] == results.headline(table)) & (table["baseline"] == baseline)]
    return own.assign(seeds=1, own=np.nan, low=np.nan, high=np.nan, outside=False)


def _first(rows: pd.DataFrame, study: Study, shares: pd.DataFrame, why: str) -> dict[str, Any]:
    """What stands first on the page: a sentence, what to try where it is no answer, and a figure.

    shares: sft_discarded_share by ct_tokens.
    """
    known = shares.set_index("ct_tokens")["sft_discarded_share"]
    sentence = findings.answer_in_a_sentence(rows, study.margin, why) if len(rows) or why else ""
    figure = leads_and_discarded(rows, known.to_dict()) if len(rows) else None
    return {"sentence": sentence, "to_try": what_to_try(study) if why else "", "figure": figure}


def _questions(study: Study) -> dict[str, Any]:
    """What the stored pool of the open questions says, where it fits the run; else no figures."""
    stored = pool.read_pool(recipe.stored_questions(study))
    lines = questions.asked_runs(stored)
    if len(lines) < 2 or pool.misfits(study, stored, pool.recipe_of(study)):
        return {"figures": []}
    figures = [selectors_by_share(questions.selector_points(lines))]
    if len(questions.budgets_of(lines)) > 1:
        figures += [discarded_by_evening(questions.discarded_points(lines))]
        figures += [gains_by_budget(questions.plateau_points(lines))]
    said = question_findings.findings_of_questions(lines, study.margin)
    return {"figures": figures, "said": said, "seeds": len(lines)}


def _retention(paths: RunPaths) -> dict[str, Any]:
    """Score against the share of SFT's entries kept, where the run measured it; else no figures."""
    run = retention.retention_there(paths)
    if run is None:
        return {"figures": []}
    points, slopes, losses = (pd.read_csv(paths.retention / f"{name}.csv") for name in RETENTION)
    drawn = [score_by_retention(points, slopes, task) for task in run.tasks]
    return {
        "figures": [*drawn, losses_by_part(losses)],
        "said": retention.findings_of_retention(slopes, losses),
        "slopes": known_records(slopes),
        "budget": budget_name(int(run.merges["ct_tokens"].iloc[0])),
        "files": [f"retention/{name}.csv" for name in ("merges", *RETENTION)],
    }


def _over_seeds(study: Study, pooled: pool_answers.Pool | None, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Tables of scores over seeds: of the stored pool where it fits, of the runs in this folder."""
    stored = [pool_answers.pooled_summary(pooled, scores, study)] if pooled and not pooled.why else []
    live = seeds.seeds_summary(study)
    return stored + ([live] if live else [])


def _difference_rows(table: pd.DataFrame, task: str, margin: float, why: str) -> list[dict[str, Any]]:
    """Paired differences of the headline task, with the verdict of each; none where scores are no result."""
    rows = table[table["task"] == task].to_dict("records")
    return [
        {**row, "verdict": NO_RESULT if why else findings.verdict_of(row, row["noise"], margin)}
        for row in rows
    ]


def _crossings(pooled: pool_answers.Pool | None, items: pd.DataFrame, study: Study, why: str) -> pd.DataFrame:
    """Where merging and training on top cross, in the fitting pool or in this run; none without a result."""
    if why:
        return pd.DataFrame()
    if pooled is None or pooled.why:
        return crossing.crossings([comparisons.right_answers(items)], seed=study.seed)
    return crossing.crossings([right_of(line) for line in pooled.lines])


def _detectable(items: pd.DataFrame, table: pd.DataFrame, task: str) -> dict[str, Any] | None:
    """The row of `trust.detectable_differences` of the main question; None where no difference would do."""
    found = trust.detectable_differences(items, table)
    rows = found[(found["task"] == task) & (found["baseline"] == comparisons.baselines(items)[0])]
    return None if rows["points"].isna().all() else rows.iloc[0].to_dict()


def _failures_of(paths: RunPaths, tasks: list[str]) -> dict[str, Any]:
    """Why answers fail, from the tables of `03_analysis/05_failures`: sentences, and figures by question."""
    folder = require(paths.lang / "failures")
    if missing := [name for name in FAILURES if not (folder / f"{name}.csv").is_file()]:
        raise UserError(
            f"{folder / missing[0]}.csv is not there: an earlier version wrote this folder. Run "
            "notebooks/03_analysis/05_failures.ipynb again"
        )
    broken, wrong, near, points, slopes, right = (pd.read_csv(folder / f"{name}.csv") for name in FAILURES)
    asked = (
        (right, "value", "right", "written answers that are right (%)"),
        (broken, "replaced", "broken bytes", "written answers with broken bytes (%)"),
        (wrong, "wrong", "wrong script", "written answers in another script (%)"),
        (near, "nearest", "overlap", "errors that take the nearest wrong option (%)"),
    )
    drawn = [shares_by_model(*one) for one in asked] + [scores_against_kept(points, slopes)]
    said = findings.findings_of_failures(broken, wrong, near, slopes, tasks)
    files = [f"failures/{name}.csv" for name in (*FAILURES, "failures")]
    return {"said": said, "figures": [fig for fig in drawn if fig.data], "files": files}


def _of_the_language(paths: RunPaths) -> list[go.Figure]:
    """A figure for each of `tasks_language`; none where the run has none, or is of an earlier version."""
    file = paths.scores / "language.csv"
    scores = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["task"])
    return [scores_by_budget(scores, task) for task in dict.fromkeys(scores["task"])]


def _figures_of(
    paths: RunPaths, scores: pd.DataFrame, items: pd.DataFrame, table: pd.DataFrame, shares: pd.DataFrame
) -> dict[str, Any]:
    """All other figures of the page by name."""
    head, in_x, both = results.headline(scores), results.tasks_in_x(scores), english.in_both(scores)
    marks: dict[str, Any] = {"levels": results.levels(scores, items), "fallen": results.fallen(scores, items)}
    single = [t for t in in_x if t != head] + [t for t in dict.fromkeys(scores["task"]) if t.endswith("_en")]
    fixed, chosen = (shares[shares["setting"] == name] for name in ("fixed", "chosen"))
    history, budgets = paths.ct() / "history.csv", paths.study.ct_budgets
    trained = [training_history(pd.read_csv(history), budgets)] if history.is_file() else []
    return {
        "headline": scores_by_budget(scores, head, **marks),
        "tasks": [scores_by_budget(scores, task, **marks, legend=False) for task in single],
        "front": front(both) if len(both) else None,
        "differences": [differences_to_baseline(table, head, name) for name in comparisons.baselines(items)],
        "predicted": [predicted_classes(predictions.predicted(items, t), t) for t in in_x],
        "training": trained,
        "language": _of_the_language(paths),
        "shares": shares_by_budget(fixed),
        "fates": fates(fixed),
        "shares_chosen": shares_by_budget(chosen),
        "fates_chosen": fates(chosen),
        "by_module": shares_by(fixed, "module"),
        "by_layer": shares_by(fixed, "layer"),
    }
