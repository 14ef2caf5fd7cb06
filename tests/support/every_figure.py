"""A figure of every function that notebooks, widgets or the report draw with, from made-up data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from support import made_languages
from support.atlases import inputs
from support.made_questions import made_questions_line
from support.made_retention import made_retention
from support.made_run import BUDGETS, made_choices, made_study, write_made_run

from lrnb import figures
from lrnb.analysis import questions, region, retention, versus
from lrnb.analysis.answered import Answered
from lrnb.conflicts import along_budgets
from lrnb.conflicts import atlas as atlases
from lrnb.conflicts.what_ifs import what_if
from lrnb.figures.pooled import leads_and_discarded
from lrnb.report.export import named_figures
from lrnb.report.languages_page import content_of
from lrnb.report.page import page_content
from lrnb.tuning.live_merge import Prompt


def every_figure(folder: Path) -> dict[str, go.Figure]:
    """{name: figure}; `folder` takes the made-up runs."""
    makers = [of_the_report(folder / "run"), of_languages(folder / "languages"), of_atlases(), of_hands()]
    makers += [
        of_choices(),
        of_questions(),
        of_regions(),
        of_pools(),
        of_comparisons(),
        of_prompts(),
        of_bits(),
        of_retention(),
        of_sizes(),
        of_sets(),
    ]
    return {name: fig for found in makers for name, fig in found}


def of_the_report(runs: Path) -> Iterator[tuple[str, go.Figure]]:
    write_made_run(runs, n=40)
    yield from named_figures(page_content(made_study(runs)))


def of_languages(runs: Path) -> Iterator[tuple[str, go.Figure]]:
    made_languages.write_made_languages(runs, seeds=(0,), n=20)
    for name, found in content_of(runs, "nano")["figures"].items():
        for place, fig in enumerate(found if isinstance(found, list) else [found]):
            yield f"languages-{name}-{place}", fig


def of_atlases() -> Iterator[tuple[str, go.Figure]]:
    one = atlases.build(**inputs("normal"), density=0.5, slack=0.2, facts={"ct_tokens": BUDGETS[1]})
    both = {BUDGETS[0]: atlases.build(**inputs("heavy"), density=0.5), BUDGETS[1]: one}
    found = what_if(one, density=0.4, slack=0.3)
    tables = along_budgets.elections(both, density=0.5, slack=0.2)
    yield "slack_histogram", figures.slack_histogram(found)
    yield "sign_histogram", figures.sign_histogram(found)
    yield "conflict_heatmap", figures.conflict_heatmap(one)
    along = along_budgets.along(both, tables)
    yield "shares_along_budgets", figures.shares_along_budgets(along, BUDGETS[1], tables[BUDGETS[1]])
    grid = along_budgets.grid(both, (0.2, 0.5), (0.0, 0.5))
    yield "by_density", figures.by_density(grid)
    yield "price_of_slack", figures.price_of_slack(grid, 0.5)


def of_hands() -> Iterator[tuple[str, go.Figure]]:
    for name in ("trimmed_by_hand", "elected_by_hand", "merged_by_hand", "slackened_by_hand"):
        yield name, getattr(figures, name)()
        yield f"{name}-unrevealed", getattr(figures, name)(reveal=False)


def of_choices() -> Iterator[tuple[str, go.Figure]]:
    choices = made_choices("average", {"alpha": [0.3, 0.5, 0.7]}).assign(dev_error=4.8)
    yield "candidates_on_dev", figures.candidates_on_dev(choices, "alpha", "Average: dev score against alpha")


def of_questions() -> Iterator[tuple[str, go.Figure]]:
    lines = [made_questions_line(seed, lambda one, budget: 0.5, n=40) for seed in range(3)]
    yield "selectors_by_share", figures.selectors_by_share(questions.selector_points(lines))
    yield "discarded_by_evening", figures.discarded_by_evening(questions.discarded_points(lines))
    yield "gains_by_budget", figures.gains_by_budget(questions.plateau_points(lines))


def of_regions() -> Iterator[tuple[str, go.Figure]]:
    places = [(b, examples, share) for b in BUDGETS for examples in (240, 960) for share in (0.0, 0.2)]
    cells = pd.DataFrame(places, columns=["ct_tokens", "sft_examples", "x_share"])
    leads = cells.assign(method="ties", seeds=3, difference=range(-4, 4), ci_low=-6.0, ci_high=5.0)
    plane = cells.assign(mean=range(-4, 4), low=-6.0, high=5.0)
    yield "lead_map", figures.lead_map(leads, plane)
    yield "beside_map", figures.beside_map(leads, "difference", next(iter(region.BESIDE.values())))


def of_pools() -> Iterator[tuple[str, go.Figure]]:
    both = [{"method": method, "ct_tokens": b} for method in ("average", "ties") for b in BUDGETS]
    ends = {"difference": 2.0, "ci_low": 1.0, "ci_high": 3.0, "low": -6.0, "high": 9.0, "seeds": 32}
    rows = pd.DataFrame(both).assign(**ends, own=1.0, outside=False)
    yield "pooled_leads_by_budget", figures.pooled_leads_by_budget(rows)
    yield "leads_and_discarded", leads_and_discarded(rows, {BUDGETS[0]: 0.02, BUDGETS[1]: 0.14})


def of_comparisons() -> Iterator[tuple[str, go.Figure]]:
    right = {"a": [1.0, 0.0] * 20, "b": [1.0, 1.0] * 20}
    tables = {
        name: pd.DataFrame({"document": [*map(str, range(40))], "prompt": "p", "correct": values})
        for name, values in right.items()
    }
    answered = {name: [Answered(name, {"t": table}, {"t": "acc"})] for name, table in tables.items()}
    yield "versus_by_task", figures.versus_by_task(versus.versus(answered))


def of_prompts() -> Iterator[tuple[str, go.Figure]]:
    rows = [{"model": model, "shares": (0.2, 0.8), "loglikelihoods": (-2.0, -1.0), "text": "", "picks": 1}
            for model in ("base", "ct", "sft", "ties")]  # fmt: skip
    prompt = Prompt("p", ("sea", "farm"), 0, "topic 1")
    yield "option_shares", figures.option_shares(pd.DataFrame(rows), prompt)


def of_bits() -> Iterator[tuple[str, go.Figure]]:
    models = [("base", "base", 0), ("ct@16k", "ct", 16384), ("ties@16k", "ties", 16384)]
    bits = pd.DataFrame(
        [(*model, 0.2, 0.3) for model in models], columns=["model", "method", "ct_tokens", "qaa", "en"]
    )
    yield "forgetting", figures.forgetting(bits, "qaa", 16384)
    levels = {"base": {"X": 0.2, "English": 0.4}}
    table = pd.DataFrame({"λ": [0.0, 1.0], "X": [0.2, 0.3], "English": [0.4, 0.5]})
    yield "bits_along", figures.bits_along(table, "λ", levels)


def of_retention() -> Iterator[tuple[str, go.Figure]]:
    run = made_retention({"flat": 0.0, "steep": 0.6, "steep_en": 0.3}, n=60)
    points, slopes = retention.retention_points(run), retention.retention_slopes([run])
    yield "score_by_retention", figures.score_by_retention(points, slopes, "steep")
    yield "losses_by_part", figures.losses_by_part(retention.ablation_losses([run]))


def of_sizes() -> Iterator[tuple[str, go.Figure]]:
    rows = [
        {"parameters": size, "ct_tokens": budget, "method": method, "difference": 1.0, "ci_low": -1.0}
        for size in (188_800, 646_144, 3_061_312) for budget in BUDGETS for method in ("average", "ties")
    ]  # fmt: skip
    yield "leads_by_model_size", figures.leads_by_model_size(pd.DataFrame(rows).assign(ci_high=3.0, seeds=4))


def of_sets() -> Iterator[tuple[str, go.Figure]]:
    rows = [
        {"languages": langs, "size": langs.count("+") + 1, "method": "ties", "way": way, "asked": asked}
        for langs in ("ta+te", "ta+bn", "te+bn", "ta+te+bn") for way in ("one step", "two steps")
        for asked in ("x", "en")
    ]  # fmt: skip
    ends = {"kept": -1.0, "ci_low": -3.0, "ci_high": 1.0, "cosine": 0.2, "conflict_share": 0.4}
    kept = pd.DataFrame(rows).assign(**ends)
    kept["family"] = kept["languages"].map({"ta+te": "Dravidian"}).fillna("")
    yield "kept_by_size", figures.kept_by_size(kept)
    yield "kept_by_overlap", figures.kept_by_overlap(kept, "cosine")
