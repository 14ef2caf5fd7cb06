"""The page of all languages and seeds in a folder of runs."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from support import made_languages, made_run

from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.report import languages_page
from lrnb.study.stages import RunPaths


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("page") / "runs"
    made_languages.write_made_languages(runs)
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy, moved elsewhere."""
    return shutil.copytree(made, tmp_path / "moved")


def text_of(runs: Path) -> str:
    (page,) = languages_page.write_pages(runs)
    assert page == runs / "nano.html"
    return " ".join(page.read_text(encoding="utf-8").split())


def test_a_folder_of_runs_gets_its_page_by_lrnb_report(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(runs)]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "nano.html")
    text = (runs / "nano.html").read_text(encoding="utf-8")
    assert 'src="http' not in text and made_run.EVIL not in text
    for part in (
        "What the languages say together",
        "By family of tasks",
        "over 3 languages and 2 seeds",
        "Where the two ways cross",
    ):
        assert part in text
    assert "Missing." not in text and "One seed." not in text


def test_what_is_missing_is_said(runs: Path) -> None:
    shutil.rmtree(runs / "nano-seed1" / "qab" / "scores")
    shutil.rmtree(runs / "nano-seed1" / "qac")
    text = text_of(runs)
    assert "<b>Missing.</b> qab, seed 1 (not finished); qac, seed 1 (not begun)." in text
    assert "<b>One seed.</b>" in text and "over 3 languages and 1 seed " in text


def test_a_language_at_chance_is_said_to_compare_nothing(runs: Path) -> None:
    _at_chance(runs, "qab")
    text = text_of(runs)
    assert text.count("is above chance:</b> its leads compare nothing. To try: solved examples") == 1
    assert "no result" not in text[text.index('id="answer"') : text.index('id="scores"')]
    for lang in ("qaa", "qac"):
        _at_chance(runs, lang)
    text = text_of(runs)
    assert "No language has a result, so this says nothing of what merging does: At 16k CT tokens" in text
    assert "chip holds" not in text and '<td class="left">no result</td>' in text


def _at_chance(runs: Path, lang: str) -> None:
    """Put the level of chance above all scores of a language."""
    for path in runs.glob(f"nano*/{lang}/scores/scores.csv"):
        pd.read_csv(path).assign(chance=100.0).to_csv(path, index=False)


def test_a_run_with_other_parameters_is_left_out(runs: Path) -> None:
    params = runs / "nano" / "qac" / "params.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | {"ct_lr": 0.1}))
    text = text_of(runs)
    assert "<b>Left out.</b> nano/qac was made with other values of ct_lr." in text
    assert "(not finished)" not in text


def test_one_language_says_nothing_of_languages(runs: Path) -> None:
    for lang in ("qab", "qac"):
        for root in ("nano", "nano-seed1"):
            shutil.rmtree(runs / root / lang)
    assert "One language is finished: nothing is said of languages together." in text_of(runs)


def test_a_page_links_to_the_pages_that_are_there(runs: Path) -> None:
    (runs / "nano-seed1" / "qab" / "report.html").write_text("its own")
    text = text_of(runs)
    assert '<a href="nano-seed1/qab/report.html">seed 1</a>' in text
    assert 'href="nano/qab/report.html"' not in text


def test_what_one_model_for_two_languages_loses_stands_on_the_page(runs: Path) -> None:
    assert "Several languages in one model" not in text_of(runs)
    row = {"ct_tokens": 16_384, "method": "ties", "baseline": "alone", "task": "mean", "difference": -1.25}
    row |= {
        "ci_low": -3.0,
        "ci_high": 0.5,
        "p": 0.2,
        "n": 80,
        "seeds": 1,
        "score": 40.0,
        "score_alone": 41.25,
    }
    row |= {"lang": "qab", "p_holm": 0.4, "languages": "qaa+qab"}
    made_run.manifest(folder := runs / "nano-seed1" / "qaa+qab" / "scores")
    pd.DataFrame([row, row | {"task": "topic"}]).to_csv(folder / "leads.csv", index=False)
    text = text_of(runs)
    shown = "<td>qaa+qab</td><td>qab</td><td>1</td><td>16k</td>"
    assert text.count(shown) == 1
    assert "<td>−1.2</td><td>−3.0 to +0.5</td><td>0.400</td>" in text


def test_what_sets_of_languages_keep_stands_on_the_page(runs: Path) -> None:
    langs, rng = ("qaa", "qab", "qac"), np.random.default_rng(0)
    made_run.manifest(folder := runs / "nano-seed1" / "sets" / "kept")
    rows = [
        {"languages": "+".join(one), "method": "ties", "way": "one step", "lang": lang, "task": "topic",
         "item": item, "correct": bool(rng.random() < 0.5)}
        for one in [*((lang,) for lang in langs), *combinations(langs, 2)] for lang in (*one, "en")
        for item in range(20)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "items.parquet", index=False)
    foretold = pd.DataFrame([*combinations(langs, 2)], columns=["one", "other"])
    foretold.assign(cosine=[0.1, 0.2, 0.3], conflict_share=0.5).to_csv(folder / "foretold.csv", index=False)
    text = text_of(runs)
    assert "How many, and which, languages share one merge" in text and "1 seed. What is foretold" in text
    assert "cosine of two languages and what their merge keeps go together" in text


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(UserError, match="no finished run in it. Give a folder of runs"):
        languages_page.write_pages(tmp_path / "moved" / "nano")
    with pytest.raises(UserError, match=f"Finished runs are in {runs}: give one of these"):
        languages_page.write_pages(tmp_path)  # as lrnb new has it: runs/<lang>/<preset>/<lang>
    for study in languages_page.runs_of(runs, "nano"):
        shutil.rmtree(RunPaths(study).conflicts)
    with pytest.raises(UserError, match="no finished run in it"):
        languages_page.write_pages(runs)
    assert not (runs / "nano.html").exists()
