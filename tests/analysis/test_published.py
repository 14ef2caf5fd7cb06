"""The paper's numbers beside a pool's: the values, and what each could detect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.made_pool import made_line
from support.made_run import made_study, write_made_run

from lrnb import statistics
from lrnb.analysis import pool, pool_answers, pool_lines, published, trust
from lrnb.study.stages import RunPaths


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[pool_lines.Line]:
    """Five seeds, of which each discards a little more than the one before at the last budget."""
    runs = tmp_path_factory.mktemp("runs")
    write_made_run(runs, n=60)
    line = pool.run_line(made_study(runs))
    found = []
    for seed in range(5):
        shares = {budget: dict(own) for budget, own in line["shares"].items()}
        for place, budget in enumerate(sorted(shares, key=int)):
            shares[budget]["sft_discarded_share"] = 0.02 + 0.1 * place + 0.01 * seed * place
        found.append(made_line(line, seed) | {"shares": shares})
    return found


def test_values_are_the_pools(lines: list[pool_lines.Line]) -> None:
    table = published.beside_the_paper(lines).set_index("what")
    assert table["paper"].tolist() == [4.69, 4.0, 0.52]
    leads = pool_answers.seed_leads(lines).query("task == 'mean'")
    over = leads[leads["baseline"] == "ct_then_sft"].groupby(["method", "ct_tokens"])["value"].mean()
    assert table["here"].iloc[0] == pytest.approx(over.max())
    slack = leads[(leads["baseline"] == "ties") & (leads["ct_tokens"] == leads["ct_tokens"].max())]
    assert table["here"].iloc[2] == pytest.approx(slack["value"].mean())
    steps = len(lines[0]["shares"]) - 1
    grown = 100 * steps * (0.1 + 0.01 * np.arange(5))
    assert table["here"].iloc[1] == pytest.approx(grown.mean())
    half = stats.t.ppf(0.975, 4) * grown.std(ddof=1) / 5**0.5
    assert table["ci_high"].iloc[1] - table["here"].iloc[1] == pytest.approx(half)


def test_claims_of_what_a_pool_has_not_are_left_out(lines: list[pool_lines.Line]) -> None:
    few = []
    for line in lines:
        items = {arm: tasks for arm, tasks in line["items"].items() if not arm.startswith("ties_sv")}
        few.append(line | {"items": items, "shares": dict([*line["shares"].items()][:1])})
    table = published.beside_the_paper(few)
    assert table["what"].tolist() == ["largest mean lead over CT-then-SFT"]
    same = [line | {"items": dict.fromkeys(line["items"], line["items"]["base"])} for line in few]
    assert (
        published.beside_the_paper(same)["items_needed"].isna().all()
    )  # no item differs: none would find it


def test_one_run_has_its_own_differences_beside_the_papers(tmp_path: Path) -> None:
    write_made_run(tmp_path, n=60)
    scores = RunPaths(made_study(tmp_path)).scores
    differences = pd.read_csv(scores / "differences.csv")
    detectable = trust.detectable_differences(pd.read_parquet(scores / "items.parquet"), differences)
    table = published.run_beside_the_paper(differences, detectable).set_index("what")
    assert table["paper"].tolist() == [published.LARGEST_LEAD, published.SLACK_GAIN]
    mean = differences.query("task == 'mean'")
    assert table["here"].iloc[0] == mean.query("baseline == 'ct_then_sft'")["difference"].max()
    wanted = detectable.query("task == 'mean' and baseline == 'ties'")["points"].item()
    assert table["detectable"].iloc[1] == wanted > published.SLACK_GAIN
    alone = differences[differences["baseline"] == "ties"]
    assert len(published.run_beside_the_paper(alone, detectable)) == 1


def test_what_a_t_test_over_runs_detects_is_found_four_times_out_of_five() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 8)
    values = (values - values.mean()) / values.std(ddof=1)
    least = statistics.detectable_over_runs(values)
    draws = rng.normal(least, 1, (20_000, 8))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_sft_after_ct_costs_and_gains_what_the_lines_say(lines: list[pool_lines.Line]) -> None:
    table = pool_answers.sft_after_ct(lines)
    last = max(int(budget) for budget in lines[0]["shares"])
    bits = lines[0]["bits"]
    cost = bits[f"ct_then_sft@{last}"]["qaa"] - bits[f"ct@{last}"]["qaa"]
    assert table["cost"].tolist() == pytest.approx([cost] * 5)
    values = pool_answers.seed_values(lines).query("task == 'mean' and ct_tokens == @last")
    wide = values.pivot(index="seed", columns="method", values="value")
    assert table["gain"].tolist() == pytest.approx((wide["ct_then_sft"] - wide["ct"]).tolist())


@pytest.mark.parametrize("points", [0.52, 4.69])
def test_so_many_items_find_the_papers_number(points: float) -> None:
    n = published.items_needed(points, discordant=0.1)
    found, fewer = (100 * statistics.minimum_detectable_difference(k, discordant=0.1) for k in (n, n // 2))
    assert found == pytest.approx(points, rel=0.01)
    assert fewer > 1.2 * points


def test_a_number_that_no_test_could_find_is_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        published.items_needed(12.0, discordant=0.1)


def test_the_table_is_read_from_the_stored_pool_too() -> None:
    path = Path(__file__).parents[2] / "docs" / "results" / "nano" / "nano-qaa.jsonl"
    stored = pool_lines.headline_lines(pool.read_pool(path))[:3]
    table = published.beside_the_paper(stored)
    assert (table["seeds"] == 3).all()
    assert (table["ci_low"] < table["here"]).all()
    assert (table["detectable"] > 0).all()
