"""The report and its sentences, from a made-up run folder (see made_run)."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.made_pool import write_made_pool
from support.made_questions import made_questions_line
from support.made_retention import write_made_retention
from support.made_run import BUDGETS, EVIL, METHODS, made_shares, made_study, manifest, write_made_run

from lrnb import statistics
from lrnb.analysis import comparisons, findings, pool, pool_answers, results, seeds, trust
from lrnb.analysis.no_result import NO_RESULT
from lrnb.errors import UserError
from lrnb.report import page as report
from lrnb.report import terminal
from lrnb.scoring import predictions
from lrnb.study import recipe, stages
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths, read_manifest
from lrnb.tuning import on_dev


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("runs"), n=60)


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    return report.write_report(made).read_text(encoding="utf-8")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A run folder that a test may damage."""
    shutil.copytree(made.parents[1], tmp_path / "runs")
    folder = tmp_path / "runs" / "nano" / "qaa"
    text = (folder / "params.yaml").read_text().replace(str(made.parents[1]), str(tmp_path / "runs"))
    (folder / "params.yaml").write_text(text)
    return folder


class Addresses(HTMLParser):
    """Everything that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        keys = ("src", "data", "srcset") if tag != "link" else ("href",)
        self.found += [value for key, value in attrs if key in keys]


def test_page_is_self_contained_and_escaped(page: str) -> None:
    reader = Addresses()
    reader.feed(page)
    assert reader.found == []
    assert EVIL not in page
    assert "Plotly.newPlot" in page
    assert "&lt;/script" in page


def test_page_holds_every_part(page: str) -> None:
    for part in ("holds", "scores"):
        assert f'<section id="{part}">' in page
    assert "Where the two ways cross" in page and "CT tokens: " in page
    folded = ("differences", "answers", "failures", "discarded", "training", "data", "chosen", "details")
    for part in folded:
        assert f'<details class="part" id="{part}">' in page and f'<a href="#{part}">' in page
    assert page.count("<details") == page.count("</details>")


def test_the_page_begins_with_the_question_the_answer_and_its_figure(page: str) -> None:
    first = page[page.index("<h1>") : page.index("<nav")]
    assert "Merge, or train on top?" in first and "In this one run " in first
    assert "Plotly.newPlot" in first and "Tao et al." in first and "SFT discarded" in first
    assert "points to be found four times out of five" in first


def test_page_tells_its_run(page: str) -> None:
    assert "synthetic micro-world" in page
    assert "<td>ct_budgets</td>" in page
    assert "0.1.0" in page


def test_page_says_what_was_trained_on(page: str) -> None:
    part = page[page.index('class="part" id="data"') : page.index('class="part" id="chosen"')]
    assert "duplicate 1,500, too short 2, &lt;/script&gt;" in part
    assert "<td>60,000</td><td>3.00</td>" in part and "<td>0.500</td>" in part
    assert "too long 5, held items of topic 2" in part and "<th>qaa</th><th>en</th>" in part


def test_table_marks_what_is_no_result(made: Path) -> None:
    scores, items = results.gather(RunPaths(made_study(made.parents[1])))
    table = report.score_tables(scores, items)[0]
    assert table["groups"][0]["base"]["topic"]["collapsed"]
    for models in table["groups"].values():
        for cell in (models[name][task] for name in models for task in table["columns"]):
            assert cell["above"] == (cell["ci_low"] > 25)
            assert not (cell["best"] and (not cell["clear"] or cell["collapsed"]))


def test_mean_has_a_majority_level_and_falls_with_any_of_its_tasks(made: Path) -> None:
    scores, items = results.gather(RunPaths(made_study(made.parents[1])))
    own = predictions.majorities(items)
    assert own["topic"] > 25
    levels = results.levels(scores, items)
    assert levels["mean"] == pytest.approx((own["topic"] + 25) / 2)  # reading has no classes: its chance
    assert "reading" not in levels
    fallen = results.fallen(scores, items)
    assert ("base", "topic") in fallen
    assert {model for model, task in fallen if task == "mean"} == {
        model for model, task in fallen if task in ("topic", "reading")
    }
    table = report.score_tables(scores, items)[0]
    assert table["majority"]["mean"] == levels["mean"]
    plain = table["groups"][0]
    assert plain["base"]["mean"]["collapsed"] and not plain["sft"]["mean"]["collapsed"]


def test_mean_of_tasks_without_classes_has_no_majority(tmp_path: Path) -> None:
    write_made_run(tmp_path, n=20, tasks=("reading", "response"))
    scores, items = results.gather(RunPaths(made_study(tmp_path, ("reading", "response"))))
    assert "mean" in set(scores["task"])
    assert set(results.levels(scores, items)) == {"topic_en"}


def test_mean_is_the_mean_of_the_tasks_in_x(made: Path) -> None:
    scores, _ = results.gather(RunPaths(made_study(made.parents[1])))
    own = scores[scores["model"] == "average@16k"].set_index("task")
    assert own.loc["mean", "value"] == pytest.approx(own.loc[["topic", "reading"], "value"].mean())
    assert own.loc["mean", "ci_low"] < own.loc["mean", "value"] < own.loc["mean", "ci_high"]
    assert own.loc["mean", "n"] == 120
    assert results.headline(scores) == "mean"


def test_one_task_has_no_mean_and_stands_for_itself(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path, n=30, tasks=("topic",))
    scores = pd.read_csv(folder / "scores" / "scores.csv")
    assert results.headline(scores) == "topic"
    assert report.write_report(folder).is_file()


def test_holm_runs_within_one_question(made: Path) -> None:
    study = made_study(made.parents[1])
    table = comparisons.compare_methods(results.gather(RunPaths(study))[1], study)
    part = table[(table["baseline"] == "ct_then_sft") & (table["task"] == "mean")]
    assert len(part) == len(METHODS) * len(BUDGETS)
    assert np.allclose(part["p_holm"], statistics.holm(part["p"]))
    assert set(table[table["baseline"] == "ties"]["method"]) == {"ties_sv"}


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((5.0, 1.0, 9.0, 0.01), findings.HOLDS),
        ((-5.0, -9.0, -1.0, 0.01), findings.FAILS),
        ((5.0, 1.0, 9.0, 0.2), findings.OPEN),  # significant before the correction only
        ((5.0, -1.0, 9.0, 0.01), findings.OPEN),
        ((0.0, 0.0, 0.0, 1.0), findings.OPEN),
    ],
)
def test_verdict_needs_both_interval_and_corrected_p(numbers: tuple, verdict: str) -> None:
    assert findings.verdict(*numbers) == verdict


def test_sentences_say_the_numbers_of_the_table(made: Path) -> None:
    study = made_study(made.parents[1])
    scores, items = results.gather(RunPaths(study))
    table = comparisons.compare_methods(items, study)
    said = findings.findings_of_scores(scores, items, table)
    row = table[(table["task"] == "mean") & (table["baseline"] == "ct_then_sft")
                & (table["ct_tokens"] == BUDGETS[0]) & (table["method"] == "average")].iloc[0]  # fmt: skip
    sentence = next(f for f in said if f["claim"] == findings.SCARCE)
    assert f"average is {row['difference']:.1f} points above CT-then-SFT" in sentence["text"]
    assert f"[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]" in sentence["text"].replace("−", "-")
    assert sentence["verdict"] == findings.verdict(
        *(row[k] for k in ("difference", "ci_low", "ci_high", "p_holm")), comparisons.ITEMS_ONLY
    )


def test_below_is_said_as_below() -> None:
    assert findings.points(-2.04) == "2.0 points below"
    assert findings.points(3.1) == "3.1 points above"
    assert findings.points(0.01) == "level with"


def test_growth_of_the_discard_is_read_from_the_counts() -> None:
    shares = made_shares()
    assert findings.findings_of_shares(shares)[0]["verdict"] == findings.HERE
    shrinking = shares.assign(ct_l2=-shares["ct_l2"])
    assert findings.findings_of_shares(shrinking)[0]["verdict"] == findings.NOT_HERE


def test_given_weights_are_not_compared_with_what_is_not_there(tmp_path: Path, monkeypatch) -> None:
    from support import made_run

    models = [row for row in made_run.made_models() if row[0] != "ct_then_sft"]
    monkeypatch.setattr(made_run, "made_models", lambda: models)
    given = made_study(tmp_path).model_copy(
        update={"preset": "released", "lang": "bn", "base_source": "gguf:smollm2"}
    )
    monkeypatch.setattr(made_run, "made_study", lambda *_: given)
    page = report.write_report(write_made_run(tmp_path, n=30)).read_text(encoding="utf-8")
    assert "Does merging help?" in page and "Given weights, nothing trained" in page
    assert "Not tuned alike" not in page
    assert "</i>CT-then-SFT" not in page and "</i>TIES-SV" in page  # legend of the task figures
    assert "difference to SFT-en" in page and "difference to CT-then-SFT" not in page


def test_missing_stage_names_the_notebook(copy: Path) -> None:
    (copy / "conflicts" / "manifest.json").unlink()
    with pytest.raises(UserError, match="03_analysis/02_discarded"):
        report.write_report(copy)


def test_page_says_what_was_made_from_something_that_changed_since(
    copy: Path, page: str, tmp_path: Path
) -> None:
    note = "Not all on this page belongs together."
    assert note not in page
    path = copy / "conflicts" / "manifest.json"
    made = json.loads(path.read_text()) | {"inputs": {"../ct": stages.fingerprint(copy / "ct")}}
    path.write_text(json.dumps(made))
    assert note not in report.write_report(copy).read_text(encoding="utf-8")
    trained = json.loads((copy / "ct" / "manifest.json").read_text()) | {"outputs": {"16k/weights": "other"}}
    (copy / "ct" / "manifest.json").write_text(json.dumps(trained))
    text = html.unescape(report.write_report(copy).read_text(encoding="utf-8"))
    assert f"{note}</b> {copy}/conflicts was made from {copy}/ct, which has changed since" in text
    assert f"lrnb run {copy}/params.yaml --preset nano<" in report.write_report(copy).read_text(
        encoding="utf-8"
    )
    moved = copy.parents[1].rename(tmp_path / "moved")
    text = report.write_report(moved / "nano" / "qaa").read_text(encoding="utf-8")
    assert f"lrnb run {moved}/nano/qaa/params.yaml --preset nano --set runs={moved}<" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("lrnb run")):
        report.write_report(tmp_path)


def test_the_folder_that_was_given_is_read_and_written(made: Path, tmp_path: Path, monkeypatch) -> None:
    """params.yaml names the folder the run was made in, which may hold another run by now."""
    shutil.copytree(made.parents[1], tmp_path / "moved")
    before = (made / "report.html").stat().st_mtime_ns if (made / "report.html").exists() else None
    monkeypatch.chdir(tmp_path / "moved" / "nano")
    assert report.write_report(Path("qaa")).samefile(tmp_path / "moved" / "nano" / "qaa" / "report.html")
    after = (made / "report.html").stat().st_mtime_ns if (made / "report.html").exists() else None
    assert before == after
    (tmp_path / "moved" / "nano").rename(tmp_path / "moved" / "nano-old")
    with pytest.raises(UserError, match="nano-old"):
        report.write_report(tmp_path / "moved" / "nano-old" / "qaa")


def test_a_seeds_folder_keeps_its_suffix(copy: Path) -> None:
    params = copy / "params.yaml"
    params.write_text(params.read_text().replace("\nseed: 0", "\nseed: 3"))
    folder = copy.parent.rename(copy.parents[1] / "nano-seed3") / "qaa"
    assert report.write_report(folder) == folder / "report.html"


def test_stages_of_other_budgets_are_left_out(copy: Path) -> None:
    paths = RunPaths(made_study(copy.parents[1]))
    for budget in (BUDGETS[0], 4096):
        manifest(paths.ct_then_sft(budget))
    listed = [s["stage"] for s in results.finished_stages(paths, BUDGETS)]
    assert "qaa/ct_then_sft/16k" in listed and "shared/base" in listed
    assert "qaa/ct_then_sft/4k" not in listed
    assert "qaa/ct_then_sft/4k" in [s["stage"] for s in results.finished_stages(paths)]


def test_page_says_what_was_tuned_and_what_can_be_told_apart(made: Path, page: str) -> None:
    text = " ".join(page.split())
    arms = "SFT-en 3, CT-then-SFT 3, average 3, task arithmetic 3, TIES 3, TIES-SV 6 (3 of TIES, then 3)"
    assert f"<b>Tuned alike.</b> Candidates tried on dev items, at every budget: {arms}" in text
    study = made_study(made.parents[1])
    items = results.gather(RunPaths(study))[1]
    table = trust.detectable_differences(items, comparisons.compare_methods(items, study))
    found = table.set_index(["baseline", "task"]).loc[("ct_then_sft", "mean")]
    assert found["n"] == 120
    assert found["points"] == pytest.approx(
        100 * statistics.minimum_detectable_difference(120, discordant=found["discordant"] / 100)
    )
    assert f"must be about {found['points']:.1f} points" in page


def test_page_has_english_beside_x_where_english_is_scored(made: Path, copy: Path, page: str) -> None:
    assert "X against English at each CT budget (n = 120 and 60 items" in page
    assert page.count("<h2>English kept</h2>") == 1
    study = report.study_of(copy)
    for name in ("scores.csv", "items.parquet", "differences.csv"):
        path = RunPaths(study).scores / name
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        table = table[~table["task"].str.endswith("_en")]
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    assert "English kept" not in report.render(study)


def test_a_merge_worse_than_its_parents_is_marked_on_the_page(copy: Path) -> None:
    file = RunPaths(report.study_of(copy)).scored("merged") / "bits_per_byte.csv"
    bits = pd.read_csv(file)
    assert "worse than its parents" not in report.render(report.study_of(copy))
    bits.loc[bits["method"] == "ties", "bits_per_byte"] = 9.5
    bits.to_csv(file, index=False)
    text = report.render(report.study_of(copy))
    assert text.count("✕ worse than its parents in ") == len(BUDGETS)


def test_page_says_who_was_not_tuned(copy: Path) -> None:
    study = report.study_of(copy)
    for budget in BUDGETS:
        (RunPaths(study).ct_then_sft(budget) / "choices.csv").unlink()
    text = " ".join(report.render(study).split())
    assert "<b>Not tuned alike.</b>" in text
    assert "SFT-en 3, CT-then-SFT 1, average 3" in text
    assert "The arms that try more are favoured." in text


def test_seeds_say_when_their_parameters_are_others(copy: Path) -> None:
    seeds_csv(copy)
    study = made_study(copy.parents[1])
    assert "were not recorded" in report.render(study)
    stored = copy.parent / "qaa-seeds.json"
    common = study.model_dump(mode="json", exclude={"seed", "runs"})
    stored.write_text(json.dumps(common))
    page = report.render(study.model_copy(update={"seed": 0}))
    assert "Not with the parameters" not in page and "were not recorded" not in page
    stored.write_text(json.dumps(common | {"ct_lr": 0.5, "gone": 1}))
    page = " ".join(report.render(study).split())
    assert "made with other values of ct_lr, gone." in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "its own data, base and training"),
        ({"lang": "bn", "preset": "smol"}, "trains its own base"),
        ({"lang": "bn", "preset": "smol", "base_source": "gguf:gemma3-270m"}, "the same base (gguf:gemma3"),
        ({"lang": "bn", "preset": "released"}, "the same weights"),
    ],
)
def test_what_a_seed_makes_anew_depends_on_the_base(changes: dict, words: str) -> None:
    assert words in seeds.own_of_a_seed(Study(**changes))


def seeds_csv(folder: Path) -> None:
    rows = [{"method": "ties", "ct_tokens": b, "task": "mean", "seeds": 4, "mean": 38.6, "sd": 6.1,
             "min": 30.0, "max": 45.0} for b in BUDGETS]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder.parent / "qaa-seeds.csv", index=False)


def test_seeds_are_shown_where_they_are(copy: Path) -> None:
    seeds_csv(copy)
    page = report.write_report(copy).read_text(encoding="utf-8")
    assert "Over 4 seeds" in page
    assert "38.6 ± 6.1" in page


# Choosing on dev


def frame(values: list[float], **options: list[float]) -> pd.DataFrame:
    return pd.DataFrame({**options, "dev_score": values})


def test_best_dev_score_is_chosen() -> None:
    rows = on_dev.mark_chosen(frame([30, 40, 35], alpha=[0.3, 0.5, 0.7]), ["alpha"])
    assert list(rows["chosen"]) == [False, True, False]
    assert set(rows["tied"]) == {1}


def test_equal_scores_go_to_the_middle_and_are_counted() -> None:
    rows = on_dev.mark_chosen(frame([40, 40, 40], alpha=[0.3, 0.5, 0.7]), ["alpha"])
    assert list(rows["chosen"]) == [False, True, False]
    assert set(rows["tied"]) == {3}
    grid = frame([1, 1, 1, 1, 1, 0], density=[0.2, 0.2, 0.5, 0.5, 0.8, 0.8], lam=[0.7, 1, 0.7, 1, 0.7, 1])
    rows = on_dev.mark_chosen(grid, ["density", "lam"])
    assert list(rows.index[rows["chosen"]]) == [2]


def test_ties_sv_takes_density_and_lam_from_ties(made: Path) -> None:
    study = made_study(made.parents[1])
    ties = on_dev.chosen(RunPaths(study), "ties", BUDGETS[0])
    fixed = on_dev.fixed_options(study, "ties_sv", BUDGETS[0])
    assert (fixed["density"], fixed["lam"]) == (ties["density"], ties["lam"])
    assert fixed["trim_scope"] == "model"
    with pytest.raises(UserError, match="ct_budgets"):
        on_dev.chosen(RunPaths(study), "ties", 999)


def test_grid_is_every_pair(tmp_path: Path) -> None:
    study = made_study(tmp_path).model_copy(update={"tuning_trials": 9})
    assert len(on_dev.candidate_grid(study, "ties")) == len(study.densities) * len(study.lams)
    assert on_dev.candidate_grid(study, "average") == [{"alpha": a} for a in study.alphas]


def test_failures_of_an_earlier_version_say_what_to_run(copy: Path) -> None:
    (copy / "failures" / "written.csv").unlink()
    with pytest.raises(UserError, match=r"written\.csv is not there.*05_failures\.ipynb again"):
        report.write_report(copy)


# The pool


@pytest.fixture
def pooled(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder to which a made pool is the stored one."""
    path = copy.parents[2] / "nano-qaa.jsonl"
    write_made_pool(report.study_of(copy), path)
    monkeypatch.setattr(pool_answers, "stored_pool", lambda study: path)
    return copy


def test_the_pooled_answer_comes_first_with_this_run_in_it(pooled: Path) -> None:
    page = report.write_report(pooled).read_text(encoding="utf-8")
    assert page.index('<section id="answer" class="first">') < page.index('<div class="picture">')
    text = " ".join(html.unescape(page).split())
    assert "The stored pool has 6 seeds, each counted once, on avx512." in text
    assert "At 16k CT tokens TIES is" in text and "over 6 seeds (95% interval" in text
    assert "Lead over CT-then-SFT, n = 6 seeds" in text
    assert "95% interval,<br>items and training" in page
    assert "Over 6 seeds, the stored pool" in text


def test_the_open_questions_are_told_from_their_pool(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, path = report.study_of(copy), copy.parents[2] / "questions.jsonl"
    head = pool.run_head(study, read_manifest(RunPaths(study).scores))
    lines = [made_questions_line(seed, lambda *_: 0.5, budgets=study.ct_budgets) for seed in range(3)]
    pool.write_pool(path, [line | head | {"seed": line["seed"]} for line in lines])
    monkeypatch.setattr(recipe, "stored_questions", lambda study: path)
    text = " ".join(html.unescape(report.write_report(copy).read_text(encoding="utf-8")).split())
    assert "From the stored pool of 3 seeds" in text and "won back, minus no slack; n = 3 seeds" in text
    assert '<span class="chip does">refuted, the same within 2 points</span>' in text
    monkeypatch.setattr(recipe, "stored_questions", lambda study: copy / "none.jsonl")
    assert "Two open questions" not in report.write_report(copy).read_text(encoding="utf-8")


def test_a_run_that_the_pool_does_not_fit_stands_alone(pooled: Path) -> None:
    params = pooled / "params.yaml"
    params.write_text(params.read_text().replace("ct_lr: 0.0004", "ct_lr: 0.0002"))
    page = report.write_report(pooled).read_text(encoding="utf-8")
    text = " ".join(page.split())
    assert "The stored pool of 6 seeds does not go with this run: other ct_lr (0.0002 here, 0.0004" in text
    assert "95% interval,<br>items only" in page and "Lead over CT-then-SFT, n" not in page


def test_without_a_pool_the_page_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_answers, "stored_pool", lambda study: copy / "none.jsonl")
    page = report.write_report(copy).read_text(encoding="utf-8")
    name = html.escape(f"Made {EVIL}", quote=False).replace("'", "&#39;")
    assert f"No pool of seeds is stored for {name}, preset nano." in " ".join(page.split())
    assert "95% interval,<br>items only" in page
    assert '<span class="chip holds">' not in page and '<span class="chip does">' not in page


def test_a_run_outside_of_where_single_runs_lie_is_said_to_be(pooled: Path) -> None:
    path = RunPaths(report.study_of(pooled)).scores / "differences.csv"
    table = pd.read_csv(path)
    table.assign(difference=table["difference"] + 70).to_csv(path, index=False)
    assert "This run is not like the others." in report.write_report(pooled).read_text(encoding="utf-8")


def test_the_terminal_has_the_pooled_answer(pooled: Path, capsys: pytest.CaptureFixture) -> None:
    terminal.print_results(report.study_of(pooled))
    text = capsys.readouterr().out
    assert "6 seeds: merge minus CT-then-SFT, points" in text
    assert text.index("merge minus CT-then-SFT") < text.index("Percent right")


def test_the_page_links_the_files_behind_its_tables(made: Path, page: str, copy: Path) -> None:
    linked = re.findall(r'<a href="((?:scores|failures|conflicts|ct)/[^"]*)"', page)
    assert {"scores/scores.csv", "scores/differences.csv", "conflicts/shares.csv"} <= set(linked)
    assert {"failures/failures.csv", "failures/overlap.csv", "ct/history.csv"} <= set(linked)
    assert all((made / name).is_file() for name in linked)
    (copy / "failures" / "failures.csv").unlink()  # of an earlier version
    older = report.write_report(copy).read_text(encoding="utf-8")
    assert 'href="failures/failures.csv"' not in older and 'href="failures/overlap.csv"' in older


def test_the_terminal_marks_what_the_report_marks(made: Path, copy: Path) -> None:
    scores, items = (
        pd.read_csv(made / "scores" / "scores.csv"),
        pd.read_parquet(made / "scores" / "items.parquet"),
    )
    assert {"label", "majority", "collapsed", "mark", "clear"} <= set(scores)
    table = terminal.by_model(scores).set_index(["method", "CT tokens"])
    base = table.loc[("base", 0)]
    assert base["topic"].endswith("✕") and base["mean"].endswith("✕")  # it always answers the same
    marked = trust.marks(scores, items).set_index(["method", "ct_tokens", "task"])
    for (method, tokens), row in table.iterrows():
        if method not in ("chance", "majority"):
            for task in ("mean", "topic", "reading"):
                one = marked.loc[(method, tokens, task)]
                assert row[task] == f"{one['value']:.1f}{one['mark']}{'✕' if one['collapsed'] else ''}"
    assert table.loc[("majority", 0), "topic"] == f"{results.levels(scores, items)['topic']:.1f}"
    older = scores.drop(columns=["label", "majority", "above", "clear", "collapsed", "mark"])
    assert "✕" not in "".join(terminal.by_model(older)["topic"])


def test_nothing_is_claimed_of_a_mechanism_where_no_score_is_above_chance(made: Path) -> None:
    scores, items = results.gather(RunPaths(made_study(made.parents[1])))
    table = comparisons.compare_methods(items, made_study(made.parents[1]))
    low = scores.assign(ci_low=0.0)
    said = findings.findings_of_scores(low, items, table) + findings.findings_of_shares(made_shares(), low)
    assert said[0]["claim"] == findings.CHANCE and said[0]["verdict"] == findings.NOT_HERE
    how = [f for f in said if f["claim"] in (findings.FADES, findings.SLACK, findings.GROWS)]
    assert {f["verdict"] for f in said[1:]} == {NO_RESULT}
    assert all(f["text"].startswith("No score in X is above chance, so this says nothing") for f in how)
    one = scores.assign(ci_low=scores["ci_low"].where(scores["task"] == "topic", 0.0))
    assert findings.findings_of_shares(made_shares(), one)[0]["verdict"] == findings.HERE
    assert findings.findings_of_scores(one, items, table)[-1]["text"].startswith("At 65k CT tokens TIES-SV")


def test_a_run_at_chance_says_so_first_and_what_to_try(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(pool_answers, "stored_pool", lambda study: copy / "none.jsonl")
    at_chance(copy)
    page = " ".join(report.write_report(copy).read_text(encoding="utf-8").split())
    first = page[page.index('<section id="answer"') : page.index("</section>")]
    name = html.escape(f"Made {EVIL}")
    assert f"No score in {name} is above chance: this run compares nothing." in html.unescape(first).replace(
        f"Made {EVIL}", name
    )
    assert EVIL not in first
    assert "scores in X (models times tasks), 0 have" in first
    assert "To try: solved examples before each item (shots: 3), more text for CT" in first
    assert "no merge is better" not in page and "chip holds" not in page and "chip above" not in page
    assert page.count(f'<td class="left">{NO_RESULT}</td>') == len(BUDGETS) * len(METHODS) + len(BUDGETS)
    terminal.print_results(report.study_of(copy))
    told = capsys.readouterr().out
    assert "is above chance: this run compares nothing. To try: solved examples" in told


def test_the_picture_shows_the_merges_of_the_run(copy: Path) -> None:
    usual = report.picture()
    assert all(f">{line}<" in usual for line in report.PICTURED)
    assert ">average, TIES:<" in (own := report.picture(["average", "ties"]))
    assert "task arithmetic" not in own and "TIES-SV" not in own
    assert report.picture(["average", "task_arithmetic", "ties", "ties_sv"]) == usual
    many = report.picture(METHODS)
    assert ">average, task arithmetic, TIES<" in many and ">and 3 more: no training<" in many


def test_one_setting_an_arm_is_said_as_such(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {arm: on_dev.Tried(1, 1) for arm in ("sft", "ct_then_sft", "ties")}
    monkeypatch.setattr(trust, "tried_by_arm", lambda paths: one)
    page = report.write_report(copy).read_text(encoding="utf-8")
    assert "Every arm had one setting" in page and "Tuned alike" not in page and "in the grid" not in page


def at_chance(folder: Path) -> None:
    """Lower the scores of a made run until no interval is above chance."""
    path = folder / "scores" / "scores.csv"
    pd.read_csv(path).assign(ci_low=0.0).to_csv(path, index=False)


def test_a_pool_at_chance_says_so_first(pooled: Path) -> None:
    path = pooled / "scores" / "scores.csv"
    pd.read_csv(path).assign(chance=100.0).to_csv(path, index=False)  # of the pool, too
    page = report.write_report(pooled).read_text(encoding="utf-8")
    assert "is above chance: these 6 seeds compare nothing." in html.unescape(page)
    assert '<span class="chip no">no result</span>' in page and "chip holds" not in page


def test_a_caption_keeps_the_tags_that_plotly_draws_and_shows_all_others() -> None:
    title = 'SFT <b>kept</b>, n<sub>1</sub> &amp; 2<br>of <script>alert("x")</script><b onclick="y">task</b>'
    assert report.plain_caption(title) == (
        'SFT <b>kept</b>, n<sub>1</sub> &amp; 2<br>of &lt;script&gt;alert("x")&lt;/script&gt;'
        '&lt;b onclick="y"&gt;task</b>'
    )


def test_retention_is_told_where_it_was_measured(copy: Path, page: str) -> None:
    write_made_retention(RunPaths(report.study_of(copy)).retention)
    told = report.write_report(copy).read_text(encoding="utf-8")
    assert "Which ability needs most of SFT" in told and "Which ability needs" not in page
    assert "In X steep gains most" in told and "steeper than the other tasks" in told
