"""All methods in one table: means, leads and records against numbers that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.made_pool import skilled_line

from lrnb.analysis.ranking import RIVALS, ranking

SKILL = {"ct_then_sft": 0.5, "task_arithmetic": 0.5, "average": 0.6, "ties": 0.4}


def test_methods_stand_by_their_mean_with_paired_leads() -> None:
    table = ranking([skilled_line(seed, SKILL) for seed in range(6)]).set_index("method")
    assert list(table.index) == ["average", "task_arithmetic", "ties"]
    for method in table.index:
        wanted = 100 * SKILL[method]
        assert table.loc[method, "mean"] == pytest.approx(wanted, abs=3)
        assert table.loc[method, "ci_low"] < wanted < table.loc[method, "ci_high"]
    ahead = table.loc["average"]
    assert ahead["lead_ct_then_sft"] == pytest.approx(10, abs=2)
    assert ahead["low_ct_then_sft"] > 5 and ahead["p_ct_then_sft"] < 0.01
    assert (ahead["record_ct_then_sft"], table.loc["ties", "record_task_arithmetic"]) == (
        (12, 0, 0),
        (0, 0, 12),
    )
    same = table.loc["task_arithmetic"]
    assert same["record_ct_then_sft"] == (0, 12, 0) and np.isnan(same["lead_task_arithmetic"])


def test_english_tasks_do_not_count_and_a_missing_budget_leaves_a_seed_out() -> None:
    lines = [skilled_line(seed, SKILL) for seed in range(4)]
    del lines[3]["items"]["ties@2000"]
    table = ranking(lines).set_index("method")
    assert table["seeds"].to_dict() == {"average": 4, "task_arithmetic": 4, "ties": 3}
    only = [skilled_line(seed, SKILL, tasks=("one", "two")) for seed in range(4)]
    again = ranking(only).set_index("method")
    assert again.loc["average", "mean"] == pytest.approx(
        ranking(lines).set_index("method").loc["average", "mean"]
    )
    assert not len(ranking(lines[:1])) and not len(ranking([]))


def test_p_is_corrected_over_the_methods() -> None:
    leads = (0.08, 0.01, 0.07, 0.03)  # of the average; TIES is as good as CT-then-SFT
    lines = [skilled_line(seed, SKILL | {"average": 0.5 + x, "ties": 0.5}) for seed, x in enumerate(leads)]
    two = [{**x, "items": {k: v for k, v in x["items"].items() if "ties" not in k}} for x in lines]
    both, alone = (ranking(x).set_index("method")[f"p_{RIVALS[0]}"] for x in (lines, two))
    assert 0.001 < alone["average"] < both["average"]


def test_the_results_page_ranks_a_pool_of_many_methods(tmp_path: Path) -> None:
    from lrnb.report.results_page import ranked

    shown = "\n".join(ranked(ranking([skilled_line(seed, SKILL) for seed in range(6)])))
    assert shown.splitlines()[0].startswith("| model | mean | 95% |")
    assert "| average | 59" in shown or "| average | 60" in shown
    assert "12 / 0 / 0" in shown
