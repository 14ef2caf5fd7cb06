"""The report and its sentences, from a made-up run folder (see made_run)."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_run import BUDGETS, EVIL, made_shares, made_study, manifest, write_made_run

from lrnb import answers, choose, findings, report, seeds, stats, summary
from lrnb.params import Study, UserError
from lrnb.store import RunPaths


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
    for part in ("holds", "scores", "differences", "answers", "failures", "discarded", "training", "chosen"):
        assert f'<section id="{part}">' in page
    assert '<section id="details">' in page
    assert "synthetic micro-world" in page
    assert "<td>ct_budgets</td>" in page
    assert "0.1.0" in page


def test_table_marks_what_is_no_result(made: Path) -> None:
    scores, items = summary.gather(RunPaths(made_study(made.parents[1])))
    table = report.tables(scores, items)[0]
    rows = {row["method"]: row for group in table["groups"] for row in group["rows"] if group["budget"] == 0}
    topic = rows["base"]["cells"][table["columns"].index("topic")]
    assert topic["fallen"]
    for group in table["groups"]:
        for cell in (cell for row in group["rows"] for cell in row["cells"]):
            assert cell["above"] == (cell["low"] > 25)
            assert not (cell["best"] and (not cell["clear"] or cell["fallen"]))


def test_mean_has_a_majority_level_and_falls_with_any_of_its_tasks(made: Path) -> None:
    scores, items = summary.gather(RunPaths(made_study(made.parents[1])))
    own = answers.majorities(items)
    assert own["topic"] > 25
    levels = summary.levels(scores, items)
    assert levels["mean"] == pytest.approx((own["topic"] + 25) / 2)  # reading has no classes: its chance
    assert "reading" not in levels
    fallen = summary.fallen(scores, items)
    assert ("base", "topic") in fallen
    assert {model for model, task in fallen if task == "mean"} == {
        model for model, task in fallen if task in ("topic", "reading")
    }
    table = report.tables(scores, items)[0]
    assert table["majority"]["mean"] == levels["mean"]
    cells = {row["method"]: row["cells"][0] for row in table["groups"][0]["rows"]}
    assert cells["base"]["fallen"] and not cells["sft"]["fallen"]


def test_mean_of_tasks_without_classes_has_no_majority(tmp_path: Path) -> None:
    write_made_run(tmp_path, n=20, tasks=("reading", "response"))
    scores, items = summary.gather(RunPaths(made_study(tmp_path, ("reading", "response"))))
    assert "mean" in set(scores["task"])
    assert set(summary.levels(scores, items)) == {"topic_en"}


def test_mean_is_the_mean_of_the_tasks_in_x(made: Path) -> None:
    scores, _ = summary.gather(RunPaths(made_study(made.parents[1])))
    own = scores[scores["model"] == "average@16k"].set_index("task")
    assert own.loc["mean", "value"] == pytest.approx(own.loc[["topic", "reading"], "value"].mean())
    assert own.loc["mean", "ci_low"] < own.loc["mean", "value"] < own.loc["mean", "ci_high"]
    assert own.loc["mean", "n"] == 120
    assert summary.headline(scores) == "mean"


def test_one_task_has_no_mean_and_stands_for_itself(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path, n=30, tasks=("topic",))
    scores = pd.read_csv(folder / "scores" / "scores.csv")
    assert summary.headline(scores) == "topic"
    assert report.write_report(folder).is_file()


def test_holm_runs_within_one_question(made: Path) -> None:
    study = made_study(made.parents[1])
    table = summary.compare(summary.gather(RunPaths(study))[1], study)
    part = table[(table["baseline"] == "ct_then_sft") & (table["task"] == "mean")]
    assert len(part) == 4 * len(BUDGETS)
    assert np.allclose(part["p_holm"], stats.holm(part["p"]))
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
    scores, items = summary.gather(RunPaths(study))
    table = summary.compare(items, study)
    said = findings.findings(scores, items, table)
    row = table[(table["task"] == "mean") & (table["baseline"] == "ct_then_sft")
                & (table["ct_tokens"] == BUDGETS[0]) & (table["method"] == "average")].iloc[0]  # fmt: skip
    sentence = next(f for f in said if f["claim"] == findings.SCARCE)
    assert f"average is {row['difference']:.1f} points above CT-then-SFT" in sentence["text"]
    assert f"[{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]" in sentence["text"].replace("−", "-")
    assert sentence["verdict"] == findings.verdict(
        *(row[k] for k in ("difference", "ci_low", "ci_high", "p_holm"))
    )


def test_below_is_said_as_below() -> None:
    assert findings.points(-2.04) == "2.0 points below"
    assert findings.points(3.1) == "3.1 points above"
    assert findings.points(0.01) == "level with"


def test_growth_of_the_discard_is_read_from_the_counts() -> None:
    shares = made_shares()
    assert findings.findings_of_shares(shares)[0]["verdict"] == findings.HOLDS
    shrinking = shares.assign(ct_l2=-shares["ct_l2"])
    assert findings.findings_of_shares(shrinking)[0]["verdict"] == findings.FAILS


def test_given_weights_are_not_compared_with_what_is_not_there(tmp_path: Path, monkeypatch) -> None:
    import made_run

    models = [row for row in made_run.made_models() if row[0] != "ct_then_sft"]
    monkeypatch.setattr(made_run, "made_models", lambda: models)
    given = made_study(tmp_path).model_copy(update={"preset": "released", "lang": "bn"})
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
    listed = [s["stage"] for s in summary.stages(paths, BUDGETS)]
    assert "qaa/ct_then_sft/16k" in listed and "shared/base" in listed
    assert "qaa/ct_then_sft/4k" not in listed
    assert "qaa/ct_then_sft/4k" in [s["stage"] for s in summary.stages(paths)]


def test_page_says_what_was_tuned_and_what_can_be_told_apart(made: Path, page: str) -> None:
    assert "average 3, task arithmetic 3, TIES 3, TIES-SV 3" in " ".join(page.split())
    study = made_study(made.parents[1])
    items = summary.gather(RunPaths(study))[1]
    found = report.detectable(items, summary.compare(items, study), "mean")
    assert found is not None
    assert found["n"] == 120
    assert found["points"] == pytest.approx(
        100 * stats.minimum_detectable_difference(120, discordant=found["discordant"] / 100)
    )
    assert f"must be about {found['points']:.1f} points" in page


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
    rows = choose.mark_chosen(frame([30, 40, 35], alpha=[0.3, 0.5, 0.7]), ["alpha"])
    assert list(rows["chosen"]) == [False, True, False]
    assert set(rows["tied"]) == {1}


def test_equal_scores_go_to_the_middle_and_are_counted() -> None:
    rows = choose.mark_chosen(frame([40, 40, 40], alpha=[0.3, 0.5, 0.7]), ["alpha"])
    assert list(rows["chosen"]) == [False, True, False]
    assert set(rows["tied"]) == {3}
    grid = frame([1, 1, 1, 1, 1, 0], density=[0.2, 0.2, 0.5, 0.5, 0.8, 0.8], lam=[0.7, 1, 0.7, 1, 0.7, 1])
    rows = choose.mark_chosen(grid, ["density", "lam"])
    assert list(rows.index[rows["chosen"]]) == [2]


def test_ties_sv_takes_density_and_lam_from_ties(made: Path) -> None:
    study = made_study(made.parents[1])
    fixed = choose.fixed_options(study, "ties_sv", BUDGETS[0])
    assert (fixed["density"], fixed["lam"], fixed["trim_scope"]) == (0.8, 1.0, "model")
    with pytest.raises(UserError, match="ct_budgets"):
        choose.chosen(RunPaths(study), "ties", 999)


def test_grid_is_every_pair(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    assert len(choose.grid(study, "ties")) == len(study.densities) * len(study.lams)
    assert choose.grid(study, "average") == [{"alpha": a} for a in study.alphas]


def test_failures_of_an_earlier_version_say_what_to_run(copy: Path) -> None:
    (copy / "failures" / "written.csv").unlink()
    with pytest.raises(UserError, match=r"written\.csv is not there.*05_failures\.ipynb again"):
        report.write_report(copy)
