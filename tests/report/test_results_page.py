"""docs/results.md: written from docs/results/ by one command, and what it says of a pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_languages import write_made_languages
from support.made_pool import write_made_pool
from support.made_run import made_study, write_made_run

from lrnb.analysis import pool, pool_answers, pool_lines
from lrnb.errors import UserError
from lrnb.report.results_page import results_page
from lrnb.study.parameters import ROOT
from lrnb.study.recipe import pool_file


def test_the_page_is_what_make_results_writes() -> None:
    """Fails where docs/results/ or the page was changed by hand: run `make results`."""
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert written == results_page(ROOT / "docs" / "results")


def test_a_pool_is_told_in_words_and_tables(tmp_path: Path) -> None:
    runs, folder = tmp_path / "runs", tmp_path / "results"
    write_made_run(runs, n=60)
    study = made_study(runs)
    path = pool_file(folder / study.preset, study)
    lines = write_made_pool(study, path)
    (folder / "zz.md").write_text("## Another study\n\nAs it stands.\n", encoding="utf-8")
    page = results_page(folder)
    leads = pool_answers.pooled_leads(pool_lines.headline_lines(lines))
    first = leads[leads["baseline"] == "ct_then_sft"].iloc[0]
    assert f"| {first['difference']:+.1f} | {first['ci_low']:+.1f} to {first['ci_high']:+.1f} |" in page
    assert f", {len({line['seed'] for line in lines})} seeds\n" in page
    assert page.endswith("## Another study\n\nAs it stands.\n")
    rows = [line for line in page.splitlines() if line.startswith("| TIES |")]
    assert len(rows) == 2 * len(study.ct_budgets) + 1  # scores, leads, and the rank among all methods


def test_a_pool_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "nano-qaa.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match="nano-qaa.jsonl:1: no run of a pool"):
        results_page(tmp_path)


def test_pools_of_real_languages_in_a_folder_are_told_of_together(tmp_path: Path) -> None:
    made = write_made_languages(tmp_path / "runs", seeds=(0,))
    folder = tmp_path / "results" / "smol"
    for study, lang in zip(made, ("bn", "mn", "ug"), strict=True):
        given = {"lang": lang, "preset": "smol"}
        line = pool.run_line(study)
        line |= {"parameters": line["parameters"] | given, "bits": {"base": {lang: 1.5}}}
        pool.write_pool(folder / f"smol-{lang}.jsonl", [line])
    page = results_page(tmp_path / "results")
    together, alone = "## Preset smol: Bengali, Mongolian, Uyghur", "## Preset smol, bn, 1 seed\n"
    assert page.index(together) < page.index(alone)
    assert "Seeds: Bengali: 0; Mongolian: 0; Uyghur: 0." in page
    (row,) = [line for line in page.splitlines() if line.startswith("| Bengali | TIES | 16k |")]
    assert row.endswith("| 1 | items only | above, items only |")
    assert "Over 3 languages (languages and items, one seed):" in page
    assert "A single seed is no pool yet: the intervals are over its items only." in page
    assert "`lrnb run params/bn.yaml --preset smol --set " in page
    assert " --set 'ct_budgets=[16384, 65536]'" in page  # which preset smol has otherwise
