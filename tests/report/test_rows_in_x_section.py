"""The page and the export of a run with SFT on rows in X, from a made-up run folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.made_run import BUDGETS, METHODS, WRITTEN, made_items, manifest, score_rows, write_made_run

from lrnb.analysis import results, rows_in_x
from lrnb.analysis.kinds import arm_model
from lrnb.errors import UserError
from lrnb.report import export, page
from lrnb.study.parameters import budget_name
from lrnb.study.run_folder import study_of
from lrnb.study.stages import RunPaths

SKILL = {"human": 0.6, "noisy": 0.2}  # of every model on these rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run with two folders of rows in X, all its stages written."""
    folder = write_made_run(tmp_path_factory.mktemp("runs"), n=60)
    params = folder / "params.yaml"
    sft_x = {"sft_x": {name: f"rows/{name}" for name in SKILL}}
    params.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | sft_x))
    study = study_of(folder)
    paths = RunPaths(study)
    for name in SKILL:
        _arm(paths.of_rows(name))
    scores, items = rows_in_x.gather_rows_in_x(paths)
    manifest(paths.rows_in_x)
    scores.to_csv(paths.rows_in_x / "scores.csv", index=False)
    rows_in_x.row_leads(items, study).to_csv(paths.rows_in_x / "leads.csv", index=False)
    items[items["method"].map(rows_in_x.is_on_rows_in_x)].to_parquet(paths.rows_in_x / "items.parquet")
    row = {
        "task": "topic",
        "n": 32,
        "characters": 90.0,
        "characters_sd": 9.0,
        "own_script": 91.2,
        "latin": 8.8,
    }
    pd.DataFrame({"rows": ["English", *SKILL]} | row).to_csv(paths.rows_in_x / "rows.csv", index=False)
    return folder


def _arm(paths: RunPaths) -> None:
    name, rows = paths.rows, []
    models = [("sft", 0), *((kind, budget) for kind in ("ct_then_sft", *METHODS) for budget in BUDGETS)]
    for kind, budget in models:
        method = arm_model(kind, name)
        model = f"{method}@{budget_name(budget)}" if budget else method
        for task in ("topic", "reading", "topic_en"):
            rows += made_items(model, method, budget, task, SKILL[name], 60)
    manifest(paths.scored("sft_x"))
    manifest(paths.sft, examples=32 if name == "human" else 31)
    items = pd.DataFrame(rows)
    results.write_group(paths.scored("sft_x"), score_rows(items), items, [WRITTEN])


def test_the_arms_stand_beside_the_english_ones_in_a_part_of_their_own(run: Path) -> None:
    text = page.write_report(run).read_text(encoding="utf-8")
    part = text[text.index('<details class="part" id="rows-in-x">') : text.index('id="answers"')]
    assert text.count("rows-in-x") == 2  # the part, and the link to it
    for said in (
        "sft-x-human",
        "CT-then-sft-x-human",
        "TIES with sft-x-noisy",
        "The rows noisy teach more than",
    ):
        assert said in part
    assert "Not the same size" in part and "sft-x-noisy 31" in part
    assert (
        "TIES with sft-x" not in text[: text.index('id="rows-in-x"')]
    )  # the main tables have English rows alone
    assert page.write_report(write_made_run(run.parents[2] / "plain")).read_text().count("rows-in-x") == 0


def test_what_arms_are_held_against_is_paired_and_corrected_apart(run: Path) -> None:
    scores, leads = (pd.read_csv(run / "rows_in_x" / f"{name}.csv") for name in ("scores", "leads"))
    value = scores.set_index(["model", "task"])["value"]
    for row in leads[leads["task"] != "mean"].sample(20, random_state=0).to_dict("records"):
        one, other = (f"{row[k]}@{budget_name(row['ct_tokens'])}" if row["ct_tokens"] else row[k]
                      for k in ("method", "baseline"))  # fmt: skip
        assert row["difference"] == pytest.approx(value[one, row["task"]] - value[other, row["task"]])
    own = leads[(leads["task"] == "mean") & (leads["against"] == "sft-x-human")]
    assert {*own["rows"]} == {"noisy"} and len(own) == 1 + (1 + len(METHODS)) * len(BUDGETS)
    assert (own["difference"] < 0).all() and (own["p_holm"] >= own["p"]).all()
    assert own["p_holm"].min() == pytest.approx(min(1, len(own) * own["p"].min()))


def test_the_tables_and_figures_are_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "save_images", lambda figures, folder: " ".join(figures))
    assert "rows_in_x-1" in export.export_report(run, tmp_path / "out")
    for name in ("scores", "leads", "rows"):
        assert len(pd.read_csv(tmp_path / "out" / "tables" / f"rows_in_x_{name}.csv"))


def test_a_run_whose_arms_are_not_compared_yet_says_what_to_run(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "runs")
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | {"sft_x": {"human": "rows"}}))
    with pytest.raises(
        UserError, match=r"rows_in_x is missing. Run notebooks/03_analysis/09_rows_in_x.ipynb"
    ):
        page.write_report(folder)
