"""Languages read from their pools say what their run folders say."""

from __future__ import annotations

import pandas as pd
import pytest
from support import made_languages

from lrnb.analysis import languages, pool
from lrnb.analysis.languages_pooled import languages_of_pools, run_of_line
from lrnb.study.parameters import Study
from lrnb.study.recipe import pool_file


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    return made_languages.write_made_languages(tmp_path_factory.mktemp("languages") / "runs")


@pytest.fixture(scope="module")
def both(studies: list[Study], tmp_path_factory: pytest.TempPathFactory) -> list[languages.Languages]:
    """The same languages from run folders and from pools."""
    folder = tmp_path_factory.mktemp("pools")
    for study in studies:
        path = pool_file(folder, study)
        pool.write_pool(path, [*pool.read_pool(path), pool.run_line(study)])
    return [languages.read_languages(studies), languages_of_pools(sorted(folder.glob("*.jsonl")))]


@pytest.mark.parametrize("table", ["leads_by_language", "leads_over_languages", "fades_over_languages"])
def test_leads_of_pools_are_those_of_run_folders(both: list[languages.Languages], table: str) -> None:
    from_folders, from_pools = (getattr(languages, table)(found) for found in both)
    pd.testing.assert_frame_equal(from_pools, from_folders)


def test_scores_families_bits_and_shares_of_pools_are_those_of_run_folders(
    both: list[languages.Languages],
) -> None:
    for table in ("scores_by_language", "leads_by_family", "known_by_base", "shares_by_language"):
        from_folders, from_pools = (getattr(languages, table)(found) for found in both)
        pd.testing.assert_frame_equal(from_pools[[*from_folders]], from_folders, atol=1e-4)


def test_a_line_of_an_earlier_version_lacks_families_and_majority_levels(studies: list[Study]) -> None:
    line = pool.run_line(studies[0])
    old = {key: value for key, value in line.items() if key not in ("family", "majority", "rows")}
    run = run_of_line(old)
    assert run.scores["family"].dropna().unique().tolist() == ["mean"]
    assert run.scores["majority"].isna().all() and run.scores["chance"].notna().all()
