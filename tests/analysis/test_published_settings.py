"""Tuned against published settings: known differences, and a finished run's merges at both."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_pool import BUDGETS, made_line, skilled_line
from support.made_run import made_study, write_made_run

from lrnb.analysis import pool
from lrnb.analysis.published_settings import against_published
from lrnb.analysis.question_merges import published_merges
from lrnb.merging.methods import METHODS
from lrnb.report.results_page import results_page
from lrnb.study.parameters import Study
from lrnb.tuning.search import PARENTS, settings

SETTINGS = list(dict.fromkeys(one for one, _ in published_merges(METHODS, BUDGETS)))


def test_every_published_setting_is_one_that_its_method_takes() -> None:
    for one in SETTINGS:
        METHODS[one.method].settle(PARENTS, settings(Study(), one.method) | dict(one.options))
    assert {one.method for one in SETTINGS} >= {"average", "task_arithmetic", "ties", "breadcrumbs", "widen"}
    assert all(published.source for how in METHODS.values() for published in how.published)
    assert len({one.name for one in SETTINGS}) == len(SETTINGS)


def test_the_difference_is_paired_and_corrected_over_the_settings() -> None:
    own, weak, strong = "ties", "ties density=0.2 lam=1.0", "task_arithmetic lam=1.0"
    skill = {"ct_then_sft": 0.5, own: 0.6, weak: 0.5, "task_arithmetic": 0.5, strong: 0.55}
    table = against_published([skilled_line(seed, skill) for seed in range(5)]).set_index("setting")
    assert list(table["method"]) == ["task_arithmetic", "ties"]
    for setting, points in (("density 0.2, lam 1.0", 10), ("lam 1.0", -5)):
        row = table.loc[setting]
        assert row["difference"] == pytest.approx(points, abs=2)
        assert row["difference"] == pytest.approx(row["tuned"] - row["published"])
        assert row["ci_low"] < points < row["ci_high"] and row["ci_low"] * row["ci_high"] > 0
        assert row["seeds"] == 5 and row["p"] <= row["p_holm"] <= 2 * row["p"]
    assert "where there is no validation set" in table.loc["density 0.2, lam 1.0", "source"]


def lines_of(count: int, **skill: float) -> list[dict]:
    return [skilled_line(seed, {"ct_then_sft": 0.5} | skill) for seed in range(count)]


def test_a_seed_without_both_does_not_count() -> None:
    lines = lines_of(3, **{"ties": 0.6, SETTINGS[-1].name: 0.5})
    assert not len(against_published(lines)) and not len(against_published([]))
    both = lines_of(3, **{"average": 0.6, SETTINGS[0].name: 0.5})
    del both[0]["items"][f"{SETTINGS[0].name}@{BUDGETS[0]}"]
    assert against_published(both)["seeds"].tolist() == [2]
    assert not len(against_published(both[:2]))


def test_the_page_of_results_compares_them(tmp_path: Path) -> None:
    """Of a pool of finished runs to which published settings were added."""
    write_made_run(tmp_path / "runs")
    study = made_study(tmp_path / "runs")
    line = pool.run_line(study)
    more = {f"{SETTINGS[0].name}@{b}": line["items"][f"ct@{b}"] for b in study.ct_budgets}
    path = tmp_path / "results" / "methods" / "nano-qaa.jsonl"
    pool.write_pool(path, [made_line(line | {"items": line["items"] | more}, seed) for seed in range(4)])
    page = results_page(tmp_path / "results")
    assert "| average | alpha 0.5 | Wortsman et al. 2022, the uniform soup | 4 |" in page
    assert "lrnb questions --published" in page
    assert "average alpha=0.5" not in page  # the table of scores is of tuned methods
