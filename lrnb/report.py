"""One self-contained page per run: table, figures, what holds and what does not, parameters, timings.

The page opens without a network: plotly.js, the picture and all styles are inside. Everything that
comes from models, corpora or manifests is escaped (by jinja2 here, by plotly in figures).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lrnb import answers, findings, plots, plots_failures, seeds, summary, trust
from lrnb.choose import SEARCHED, read_choices, tried
from lrnb.environment import versions
from lrnb.params import SYNTHETIC, Study, UserError, budget_name, read_yaml, validate
from lrnb.store import RunPaths, require, write_text
from lrnb.style import task_name

HERE = Path(__file__).parent
PAPER = "https://arxiv.org/abs/2407.03994"


def picture() -> str:
    """The study in one picture, as SVG text."""
    return (HERE / "study.svg").read_text(encoding="utf-8")


def write_report(folder: Path) -> Path:
    """Write `report.html` into a language's run folder and return its path.

    Reads params.yaml, the manifests, scores and shares there, wherever the folder was moved to.
    UserError names what is missing.
    """
    study = _study(Path(folder))
    out = RunPaths(study).lang / "report.html"
    write_text(out, render(study))
    return out


def _study(folder: Path) -> Study:
    path = folder / "params.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder}: no params.yaml, so this is no run. Give runs/<preset>/<lang>, or "
            "run the study first: lrnb run params/<lang>.yaml"
        )
    study = validate(read_yaml(path), str(path))
    for home in (folder.absolute(), folder.resolve()):  # the given name, then behind links and ".."
        here = study.model_copy(update={"runs": str(home.parent.parent)})
        if RunPaths(here).lang == home:
            return here
    raise UserError(
        f"{path} belongs to a folder {RunPaths(study).root.name}/{study.lang}, and is in "
        f"{home.parent.name}/{home.name}. Give the folder that name again, with `shared` beside it"
    )


def render(study: Study) -> str:
    """The page as one string."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    page = environment.get_template("report.html.jinja")
    return page.render(**content(study), picture=picture(), plotlyjs=get_plotlyjs(), paper=PAPER)


def figure(fig: go.Figure) -> str:
    """A plotly figure as HTML; its title becomes a caption that wraps on a narrow screen."""
    caption = fig.layout.title.text or ""
    fig = go.Figure(fig).update_layout(title=None, margin={"t": 18})
    body = fig.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
    return f"<figure><figcaption>{caption}</figcaption>{body}</figure>"


def content(study: Study) -> dict[str, Any]:
    """Everything the template shows, from the files of one run."""
    paths = RunPaths(study)
    folder = require(paths.scores)
    scores, table = pd.read_csv(folder / "scores.csv"), pd.read_csv(folder / "differences.csv")
    items = pd.read_parquet(folder / "items.parquet")
    shares = pd.read_csv(require(paths.conflicts) / "shares.csv")
    stages = summary.stages(paths, study.ct_budgets)
    said = findings.findings(scores, items, table) + findings.findings_of_shares(shares)
    return {
        "study": study,
        "synthetic": study.lang in SYNTHETIC,
        "baselines": [plots.label(name) for name in summary.baselines(items)],
        "budget_name": budget_name,
        "claims": by_claim(said),
        "tables": tables(scores, items),
        "label": plots.label,
        "task_name": task_name,
        "budgets": [budget_name(b) for b in study.ct_budgets],
        "differences": difference_rows(table, summary.headline(scores)),
        "collapse": collapse_rows(items),
        "choices": choices(paths, items),
        "stages": stages,
        "seeds": seeds.over_seeds(study),
        "tuned": [(method, tried(paths, method)) for method in SEARCHED],
        "detectable": detectable(items, table, summary.headline(scores)),
        "versions": _versions(stages),
        "methods": plots.METHODS,
        "present": set(scores["method"]),
        "parameters": study.model_dump(exclude={"runs"}),
        "failures": failures_of(paths, list(dict.fromkeys(items.loc[~answers.generated(items), "task"]))),
        "figures": figures(study, scores, items, table, shares),
        "device": ", ".join(sorted({s["device"] for s in stages if s["device"]})),
        "finished": max((s["finished"] for s in stages), default="")[:16].replace("T", " "),
        "seconds": sum(s["seconds"] or 0 for s in stages),
    }


def _versions(stages: list[dict[str, Any]]) -> dict[str, str]:
    """Versions as the stages recorded them; where they differ, all of them are listed."""
    found: dict[str, set[str]] = {}
    for name, value in (pair for s in stages for pair in (s["versions"] or {}).items()):
        found.setdefault(name, set()).add(str(value))
    return {k: ", ".join(sorted(v)) for k, v in found.items()} or versions()


def by_claim(said: list[findings.Finding]) -> list[dict[str, Any]]:
    """Findings grouped by claim, in order, with the set of verdicts each got."""
    claims: dict[str, list[findings.Finding]] = {}
    for finding in said:
        claims.setdefault(finding["claim"], []).append(finding)
    return [
        {
            "claim": claim,
            "findings": group,
            "tally": pd.Series([f["verdict"] for f in group]).value_counts(sort=False).to_dict(),
        }
        for claim, group in claims.items()
    ]


def tables(scores: pd.DataFrame, items: pd.DataFrame) -> list[dict[str, Any]]:
    """The results tables: language X first, then English where it was scored."""
    names = list(dict.fromkeys(scores["task"]))
    in_x = [t for t in (summary.MEAN, *summary.tasks_in_x(scores)) if t in names]
    english = sorted((t for t in names if t not in in_x), key=lambda t: t != summary.MEAN_EN)
    titled = (("In the language", in_x), ("In English: what is learnt there, and what is forgotten", english))
    return [{"title": title, **results(scores, items, columns)} for title, columns in titled if columns]


def results(scores: pd.DataFrame, items: pd.DataFrame, columns: list[str]) -> dict[str, Any]:
    """One results table: columns of tasks, rows of models in groups of CT budget.

    A cell knows its value, interval, whether it is above chance and above the majority class, and
    whether it is the best of its group; only scores above both can be the best.
    """
    groups, marked = [], trust.marks(scores, items)
    for budget, part in marked.groupby("ct_tokens", sort=True):
        rows = [_row(rows, columns) for _, rows in part.groupby("model", sort=False)]
        _mark_best(rows, columns)
        groups.append({"budget": int(budget), "rows": rows})
    levels = marked.drop_duplicates("task").set_index("task").loc[columns]
    return {
        "columns": columns,
        "groups": groups,
        "majority": levels["majority"].dropna().to_dict(),
        "chance": levels["chance"].to_dict(),
        "n": levels["n"].astype(int).to_dict(),
    }


def _row(rows: pd.DataFrame, columns: list[str]) -> dict[str, Any]:
    named = {"ci_low": "low", "ci_high": "high", "collapsed": "fallen"}
    kept = rows.rename(columns=named)[["value", "low", "high", "above", "clear", "fallen", "mark"]]
    cells = dict(zip(rows["task"], kept.assign(best=False).to_dict("records"), strict=True))
    return {"method": rows["method"].iloc[0], "cells": [cells.get(c) for c in columns]}


def _mark_best(rows: list[dict[str, Any]], columns: list[str]) -> None:
    for place in range(len(columns)):
        cells = [r["cells"][place] for r in rows if r["cells"][place]]
        top = max((c["value"] for c in cells), default=None)
        for cell in cells:
            cell["best"] = len(cells) > 1 and cell["value"] == top and cell["clear"] and not cell["fallen"]


def difference_rows(table: pd.DataFrame, task: str) -> list[dict[str, Any]]:
    """Paired differences of the headline task, with the verdict of each."""
    rows = table[table["task"] == task].to_dict("records")
    keys = ("difference", "ci_low", "ci_high", "p_holm")
    return [{**row, "verdict": findings.verdict(*(row[k] for k in keys))} for row in rows]


def collapse_rows(items: pd.DataFrame) -> dict[str, Any]:
    """Model by task: the most frequent answer, its share, and whether it is a collapse."""
    table = answers.collapsed(items)
    tasks = list(dict.fromkeys(table["task"]))
    rows = {m: {r.task: r for r in part.itertuples()} for m, part in table.groupby("model", sort=False)}
    return {"tasks": tasks, "rows": rows, "count": int(table["collapsed"].sum()), "of": len(table)}


def choices(paths: RunPaths, items: pd.DataFrame) -> list[dict[str, Any]]:
    """What was chosen on dev, of how many, how many were tied; the dev score beside the test score."""
    compared = trust.dev_and_test(paths, items).set_index(["method", "ct_tokens"])
    found = []
    for method, options in SEARCHED.items():
        table = read_choices(paths, method)
        for row in table[table["chosen"]].to_dict("records"):
            searched = ", ".join(trust.SYMBOLS[k] for k in options)
            found.append({**row, **compared.loc[(method, row["ct_tokens"])].to_dict(), "searched": searched})
    return [{k: None if pd.isna(v) else v for k, v in row.items()} for row in found]


def detectable(items: pd.DataFrame, table: pd.DataFrame, task: str) -> dict[str, Any] | None:
    """The row of `trust.detectable` of the main question; None where no difference would do."""
    found = trust.detectable(items, table)
    rows = found[(found["task"] == task) & (found["baseline"] == summary.baselines(items)[0])]
    return None if rows["points"].isna().all() else rows.iloc[0].to_dict()


def failures_of(paths: RunPaths, tasks: list[str]) -> dict[str, Any]:
    """Why answers fail, from the tables of `03_analysis/05_failures`: sentences, and figures by question."""
    folder = require(paths.lang / "failures")
    names = ("unparsable", "scripts", "overlap", "kept", "fragility", "written")
    if missing := [name for name in names if not (folder / f"{name}.csv").is_file()]:
        raise UserError(
            f"{folder / missing[0]}.csv is not there: an earlier version wrote this folder. Run "
            "notebooks/03_analysis/05_failures.ipynb again"
        )
    broken, wrong, near, points, slopes, right = (pd.read_csv(folder / f"{name}.csv") for name in names)
    asked = (
        (right, "value", "right", "written answers that are right (%)"),
        (broken, "replaced", "broken bytes", "written answers with broken bytes (%)"),
        (wrong, "wrong", "wrong script", "written answers in another script (%)"),
        (near, "nearest", "overlap", "errors that take the nearest wrong option (%)"),
    )
    drawn = [
        plots_failures.shares(table, column, task, title, what)
        for table, column, title, what in asked
        for task in dict.fromkeys(table["task"])
    ]
    return {
        "said": findings.of_failures(broken, wrong, near, slopes, tasks),
        "shares": drawn,
        "kept": [plots_failures.against_kept(points, slopes, task) for task in slopes["task"]],
    }


def figures(
    study: Study, scores: pd.DataFrame, items: pd.DataFrame, table: pd.DataFrame, shares: pd.DataFrame
) -> dict[str, Any]:
    """All figures of the page by name."""
    head = summary.headline(scores)
    drawn: dict[str, Any] = {
        "levels": summary.levels(scores, items),
        "fallen": summary.fallen(scores, items),
    }
    single = [t for t in summary.tasks_in_x(scores) if t != head]
    english = [t for t in dict.fromkeys(scores["task"]) if t.endswith("_en")]
    fixed, chosen = (shares[shares["setting"] == name] for name in ("fixed", "chosen"))
    history = RunPaths(study).ct() / "history.csv"
    return {
        "headline": plots.scores_by_budget(scores, head, **drawn),
        "tasks": [plots.scores_by_budget(scores, t, **drawn, legend=False) for t in single + english],
        "differences": [plots.differences(table, head, name) for name in summary.baselines(items)],
        "predicted": [
            plots.predicted_classes(answers.predicted(items, t), t) for t in summary.tasks_in_x(scores)
        ],
        "history": plots.training_history(history, study.ct_budgets) if history.is_file() else None,
        "shares": plots.shares_by_budget(fixed),
        "fates": plots.fates(fixed),
        "shares_chosen": plots.shares_by_budget(chosen),
        "fates_chosen": plots.fates(chosen),
        "by_module": plots.shares_by(fixed, "module"),
        "by_layer": plots.shares_by(fixed, "layer"),
    }
