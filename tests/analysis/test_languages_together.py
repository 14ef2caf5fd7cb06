"""Several languages together: what is said of all, of families, and along the base's knowledge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import made_languages

from lrnb import statistics
from lrnb.analysis import languages
from lrnb.analysis.comparisons import ONE_SEED, OVER_ALL
from lrnb.study.parameters import Study


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    return made_languages.write_made_languages(tmp_path_factory.mktemp("languages") / "runs")


@pytest.fixture(scope="module")
def found(studies: list[Study]) -> languages.Languages:
    return languages.read_languages(studies)


def ties(table: pd.DataFrame, budget: int = 16_384) -> pd.Series:
    (row,) = table[(table["method"] == "ties") & (table["ct_tokens"] == budget)].to_dict("records")
    return row


def test_the_lead_over_languages_is_their_mean_with_wins_and_losses(found: languages.Languages) -> None:
    row = ties(languages.leads_over_languages(found))
    per_language = ties_leads = [0.31, 0.11, -0.19]  # mean over the seeds, which are 0.02 apart
    assert row["difference"] == pytest.approx(100 * np.mean(per_language), abs=1.5)
    assert (row["wins"], row["ties"], row["losses"]) == (4, 0, 2)
    assert (row["languages"], row["seeds"], row["noise"]) == (3, 2, OVER_ALL)
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    assert row["low"] <= row["ci_low"] and row["high"] >= row["ci_high"]
    spread = 100 * np.std(ties_leads, ddof=1) / 3**0.5
    assert row["ci_high"] - row["ci_low"] > 2 * 4.3 * spread * 0.9  # t(2) times the languages' spread
    assert row["detectable"] > row["ci_high"] - row["difference"]


def test_only_seeds_that_all_languages_have_count_for_all(studies: list[Study]) -> None:
    fewer = [study for study in studies if (study.lang, study.seed) != ("qac", 1)]
    found = languages.read_languages(fewer)
    assert languages.common_seeds(found) == [0]
    table = languages.leads_over_languages(found)
    assert set(table["noise"]) == {ONE_SEED}
    assert ties(table)["difference"] == pytest.approx(100 * np.mean([0.3, 0.1, -0.2]), abs=1.5)
    own = languages.leads_by_language(found)
    assert own.groupby("lang")["seeds"].first().to_dict() == {"qaa": 2, "qab": 2, "qac": 1}
    apart = languages.read_languages([s for s in studies if (s.lang == "qaa") == (s.seed == 0)])
    assert languages.leads_over_languages(apart).empty and languages.fades_over_languages(apart).empty


def test_scores_of_each_language_and_of_all(found: languages.Languages) -> None:
    table = languages.scores_by_language(found)
    own = table[(table["method"] == "ct_then_sft") & (table["ct_tokens"] == 16_384)]
    assert list(own["lang"]) == ["qaa", "qab", "qac", "all"]
    assert own["value"].to_numpy() == pytest.approx(50)
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])).all()
    collapsed = table[table["method"] == "base"]
    assert not collapsed["clear"].any()


def test_families_take_the_languages_that_have_them(found: languages.Languages) -> None:
    own = found["qaa"][0]
    other = own._replace(scores=own.scores.assign(family=own.scores["family"].replace("made", "rare")))
    table = languages.leads_by_family(found | {"qaa": dict.fromkeys((0, 1), other)})
    assert table.groupby("family")["languages"].first().to_dict() == {"rare": "qaa", "made": "qab, qac"}
    alone = table[table["family"] == "rare"]
    assert alone["ci_low"].isna().all() and alone["p_holm"].isna().all()
    both = table[table["family"] == "made"]
    assert ties(both)["difference"] == pytest.approx(100 * np.mean([0.11, -0.19]), abs=1.5)
    assert (both["p_holm"] >= both["p"]).all()


def test_the_line_along_the_bases_knowledge_is_least_squares(found: languages.Languages) -> None:
    leads = languages.leads_by_language(found)
    known = languages.known_by_base(found)
    assert known["bits_per_byte"].to_numpy() == pytest.approx([2.0, 2.1, 2.2])
    points, slopes = languages.leads_against(leads, known)
    row = ties(slopes)
    assert row["slope"] == pytest.approx(100 * (-0.19 - 0.31) / 0.2, abs=10)
    assert row["low"] < row["slope"] < row["high"] and row["languages"] == 3
    assert len(points) == len(leads)
    two = languages.leads_against(leads[leads["lang"] != "qaa"], known)[1]
    assert len(two) == 0


def test_fades_and_shares_stand_for_every_language(found: languages.Languages) -> None:
    fades = languages.fades_over_languages(found)
    assert (fades["first"] == 16_384).all() and (fades["p_holm"] >= fades["p"]).all()
    row = fades.set_index("method").loc["ties"]
    assert row["difference"] == pytest.approx(row["lead_first"] - row["lead_last"])
    shares = languages.shares_by_language(found)
    assert len(shares) == 3 * 2 and (shares["seeds"] == 2).all()


def test_runs_with_other_parameters_are_named_and_left_out(studies: list[Study]) -> None:
    odd = studies[-1].model_copy(update={"ct_lr": 0.1, "tasks": ["topic"]})
    kept, others = languages.of_one_study([*studies[:-1], odd])
    assert kept == studies[:-1]
    assert list(others.values()) == [["ct_lr"]]  # tasks are a language's own


def test_a_language_by_itself_is_paired_over_its_seeds(found: languages.Languages) -> None:
    row = ties(languages.leads_by_language(found).query("lang == 'qab'"))
    seeds = [
        languages._tasks_of(found["qab"][s].right, ("ties", 16_384), ("ct_then_sft", 16_384)) for s in (0, 1)
    ]
    expected = statistics.over_seeds(seeds, shared=False)
    assert (row["difference"], row["ci_low"]) == pytest.approx((100 * expected.value, 100 * expected.ci_low))
