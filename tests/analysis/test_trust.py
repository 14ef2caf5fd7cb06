"""Marks, dev against test, detectable differences, intervals over seeds: on made-up runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.made_run import BUDGETS, METHODS, made_study, write_made_run

from lrnb import statistics
from lrnb.analysis import comparisons, results, seeds, trust
from lrnb.report import terminal
from lrnb.scoring import predictions
from lrnb.study.stages import RunPaths
from lrnb.tuning import on_dev

TASKS = ("topic", "reading", "written_sums")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("runs"), n=60, tasks=TASKS)


@pytest.fixture(scope="module")
def run(made: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return results.gather(RunPaths(made_study(made.parents[1], TASKS)))


def test_marks_follow_from_the_interval_and_the_two_levels() -> None:
    base = {"model": "m", "method": "ties", "ct_tokens": 1, "chance": 25.0, "value": 40.0}
    scores = pd.DataFrame(
        [
            base | {"task": "topic", "ci_low": 25.0},
            base | {"task": "topic", "ci_low": 25.1},
            base | {"task": "topic", "ci_low": 50.1},
            base | {"task": "reading", "ci_low": 25.1},
        ]
    )
    classes = [{"model": "m", "task": "topic", "gold": g, "prediction": p, "options": ["a", "b"]}
               for g, p in zip("aabb", "abab", strict=True)]  # fmt: skip
    places = [{"model": "m", "task": "reading", "gold": g, "prediction": g, "options": ["0", "1"]}
              for g in "0101"]  # fmt: skip
    marked = trust.marks(scores, pd.DataFrame(classes + places))
    assert marked["mark"].tolist() == ["°", "ᵐ", "", ""]
    assert marked["majority"].fillna(-1).tolist() == [50, 50, 50, -1]


def test_generated_answers_are_counted_and_have_chance_zero(run) -> None:
    scores, items = run
    counts = predictions.predicted(items, "written_sums")
    assert predictions.UNPARSED in counts.columns
    assert counts.sum(axis=1).eq(60).all()
    assert "written_sums" not in predictions.majorities(items)
    marked = trust.marks(scores, items)
    assert set(marked.loc[marked["task"] == "written_sums", "chance"]) == {0.0}


def test_many_different_answers_are_counted_as_one() -> None:
    rows = [{"model": m, "task": "t", "gold": str(i), "prediction": str(i % 30), "options": []}
            for m in "ab" for i in range(60)]  # fmt: skip
    counts = predictions.predicted(pd.DataFrame(rows), "t")
    assert counts.shape[1] == predictions.CLASSES
    assert counts.sum(axis=1).tolist() == [60, 60, 60]
    assert counts.loc["a", "(other)"] == 60 - 2 * 11


def test_dev_score_stands_beside_the_test_score_of_the_same_tasks(made: Path, run) -> None:
    paths, items = RunPaths(made_study(made.parents[1], TASKS)), run[1]
    table = trust.dev_and_test(paths, items).set_index(["method", "ct_tokens"])
    assert len(table) == (1 + len(METHODS)) * len(BUDGETS) + 1  # CT-then-SFT and merges; SFT-en
    own = items[(items["model"] == "ties@16k") & (items["task"] == "topic")]
    row = table.loc[("ties", BUDGETS[0])]
    assert row["test"] == pytest.approx(100 * own["correct"].mean())  # topic alone was on dev
    assert row["optimism"] == pytest.approx(row["dev"] - row["test"])
    assert (row["dev"], row["n_dev"], row["n_test"], row["tried"]) == (42.0, 100, 60, 3)
    error = np.hypot(on_dev.standard_error([42], [100]), (row["ci_high"] - row["ci_low"]) / 3.92)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * error)
    assert (row["options"], row["default"]) == ("density 0.7, λ 0.3", 41.0)


def test_arms_that_are_trained_stand_among_the_choices(made: Path, run) -> None:
    paths, items = RunPaths(made_study(made.parents[1], TASKS)), run[1]
    table = trust.dev_and_test(paths, items).set_index(["method", "ct_tokens"])
    sft, tuned = table.loc[("sft", 0)], table.loc[("ct_then_sft", BUDGETS[0])]
    for row, model, task in ((sft, "sft", "topic_en"), (tuned, "ct_then_sft@16k", "topic")):
        own = items[(items["model"] == model) & (items["task"] == task)]
        assert row["test"] == pytest.approx(100 * own["correct"].mean())
        assert (row["options"], row["searched"]) == ("learning rate 0.0002, epochs 1", "learning rate")
        assert (row["dev"], row["default"], row["tried"], row["search"]) == (44.0, 40.0, 3, "3")
    slack = table.loc[("ties_sv", BUDGETS[0])]
    assert (slack["tried"], slack["search"]) == (6, "6 (3 of TIES, then 3)")


def test_a_single_candidate_has_no_dev_score_and_a_thinned_grid_says_so(made: Path, run, tmp_path) -> None:
    shutil.copytree(made.parents[1], tmp_path / "runs")
    paths = RunPaths(made_study(tmp_path / "runs", TASKS))
    unscored = {"lr": 1e-4, "epochs": 1, "dev_score": np.nan, "dev_error": np.nan, "n": 0, "chance": np.nan}
    unscored |= {"dev_tasks": "", "default": True, "tied": 1, "chosen": True}
    pd.DataFrame([unscored]).to_csv(paths.sft / "choices.csv", index=False)
    choices = on_dev.read_choices(paths, "ties").assign(grid=9)
    choices.to_csv(paths.merge("ties") / "choices.csv", index=False)
    table = trust.dev_and_test(paths, run[1]).set_index(["method", "ct_tokens"])
    row = table.loc[("sft", 0)]
    assert (row["tried"], row["n_dev"], row["searched"]) == (1, 0, "nothing")
    assert row[["dev", "test", "optimism"]].isna().all()
    assert table.loc[("ties", BUDGETS[0]), "search"] == "9 in the grid, 3 tried"


def test_the_error_of_a_dev_score_is_that_of_its_tasks() -> None:
    """A task of 10 items weighs as much as one of 1000, and its noise too; 0 right is not certain."""
    rng = np.random.default_rng(0)
    means = (rng.binomial(10, 0.5, 20_000) / 10 + rng.binomial(1000, 0.2, 20_000) / 1000) / 2
    found = on_dev.standard_error([50, 20], [10, 1000])
    assert found == pytest.approx(100 * means.std(), rel=0.1)
    assert found > 4 * on_dev.standard_error([20.3], [1010])  # as if the items were one pool
    assert on_dev.standard_error([0], [20]) > 3
    row = {"dev_score": 35.0, "n": 1010, "dev_tasks": "a b", "dev_error": found}
    items = pd.DataFrame({"task": np.repeat(["a", "b"], 500), "correct": np.tile([0, 1], 500)})
    tested = trust._dev_test(row, items)
    assert tested["high"] - tested["low"] > 2 * 1.96 * found


def test_merges_that_did_not_record_their_dev_tasks_have_no_test_score(made: Path, run, tmp_path) -> None:
    shutil.copytree(made.parents[1], tmp_path / "runs")
    paths = RunPaths(made_study(tmp_path / "runs", TASKS))
    for method in METHODS:
        table = on_dev.read_choices(paths, method).drop(columns=["dev_tasks", "chance"])
        table.to_csv(paths.merge(method) / "choices.csv", index=False)
    table = trust.dev_and_test(paths, run[1])
    assert table.loc[table["method"].isin(METHODS), "test"].isna().all()


def test_the_best_of_equal_candidates_looks_better_on_dev() -> None:
    """Eight candidates that are all right in 40%: the chosen one's dev score is too high, its test is not."""
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(300):
        dev = rng.binomial(100, 0.4, 8)
        rows = on_dev.mark_chosen(pd.DataFrame({"alpha": range(8), "dev_score": dev * 1.0}), ["alpha"])
        gaps.append(rows.loc[rows["chosen"], "dev_score"].iloc[0] - rng.binomial(100, 0.4))
    assert 5 < np.mean(gaps) < 9  # the expected maximum of 8 is 1.42 sd, and a sd is 4.9 points


def test_detectable_differences_of_every_task_and_baseline(made: Path, run) -> None:
    study = made_study(made.parents[1], TASKS)
    table = comparisons.compare_methods(run[1], study)
    found = trust.detectable_differences(run[1], table).set_index(["baseline", "task"])
    row = found.loc[("ct_then_sft", "topic")]
    assert (row["n"], row["comparisons"]) == (60, len(METHODS) * len(BUDGETS) * 3)
    share = row["discordant"] / 100
    assert row["points"] == pytest.approx(
        100 * statistics.minimum_detectable_difference(60, discordant=share)
    )
    assert row["points_holm"] > row["points"]
    assert found.loc[("ct_then_sft", "mean"), "n"] == 180
    assert found.loc[("ct_then_sft", "mean"), "comparisons"] == len(METHODS) * len(BUDGETS)
    assert ("ties", "topic") in found.index


def test_detectable_difference_is_counted_on_the_items_compared() -> None:
    rows = [{"method": m, "ct_tokens": 1, "task": "t", "item": i, "correct": r, "model": m}
            for m, right in (("ct_then_sft", [1, 1, 0, 0] * 50), ("ties", [1, 0, 1, 0] * 50))
            for i, r in enumerate(right)]  # fmt: skip
    table = pd.DataFrame({"baseline": ["ct_then_sft"], "task": ["t"], "method": ["ties"], "ct_tokens": [1]})
    row = trust.detectable_differences(pd.DataFrame(rows), table).iloc[0]
    assert (row["n"], row["discordant"], row["comparisons"]) == (200, 50.0, 1)
    assert row["points"] == row["points_holm"]


# over seeds


def seed_folder(folder: Path, rng: np.random.Generator, shift: float) -> Path:
    """A run folder with two tasks; the merge is 10 points better, give or take `shift`."""
    rows = []
    for task, method in [(t, m) for t in ("a", "b") for m in ("ct_then_sft", "ties")]:
        rate = 0.4 + (0.1 + shift) * (method == "ties")
        right = rng.random(200) < rate
        rows += [{"method": method, "ct_tokens": 8, "task": task, "item": i, "correct": bool(r)}
                 for i, r in enumerate(right)]  # fmt: skip
    (folder / "scores").mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "scores" / "items.parquet")
    pd.DataFrame({"task": ["a", "b", "mean"], "chance": 25.0}).to_csv(folder / "scores" / "scores.csv")
    return folder


def test_intervals_over_seeds_hold_the_noise_of_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shifts = {"alike": [0.0] * 4, "apart": [-0.2, 0.2, -0.2, 0.2]}
    runs = {name: [seed_folder(tmp_path / f"{name}{k}", rng, s) for k, s in enumerate(values)]
            for name, values in shifts.items()}  # fmt: skip
    width, p = {}, {}
    for name, folders in runs.items():
        scores = seeds.seed_intervals(folders).set_index(["method", "task"])
        apart = seeds.seed_differences(folders).set_index(["method", "task"])
        row = scores.loc[("ties", "mean")]
        width[name], p[name] = row["ci_high"] - row["ci_low"], apart.loc[("ties", "mean"), "p"]
        assert row["ci_low"] < 50 < row["ci_high"]
        assert apart.loc[("ties", "mean"), "difference"] == pytest.approx(10, abs=5)
        single = apart.loc[[("ties", "a"), ("ties", "b")]]  # one family; the mean is another
        assert np.allclose(single["p_holm"], statistics.holm(single["p"]))
        assert apart.loc[("ties", "mean"), "p_holm"] == apart.loc[("ties", "mean"), "p"]
        assert set(apart["seeds"]) == {4}
    assert width["apart"] > 3 * width["alike"]
    assert p["alike"] < 0.05 < p["apart"]


def test_seeds_are_printed_with_intervals(made: Path, tmp_path: Path, capsys) -> None:
    studies = []
    for seed in range(2):
        study = made_study(tmp_path / "runs", TASKS).model_copy(update={"seed": seed})
        shutil.copytree(made, RunPaths(study).lang)
        studies.append(study)
    terminal.print_seeds(studies)
    home = RunPaths(studies[0]).root
    table = pd.read_csv(home / "qaa-seeds.csv")
    rows = table[table["task"] == "mean"]
    assert ((rows["ci_low"] < rows["mean"]) & (rows["mean"] < rows["ci_high"])).all()
    apart = pd.read_csv(home / "qaa-seeds-differences.csv")
    assert set(apart["method"]) == set(METHODS)
    assert "2 seeds: merge minus CT-then-SFT, points" in capsys.readouterr().out
    shown = seeds.seeds_summary(studies[0])
    assert shown is not None and shown["interval"] and shown["chance"] == pytest.approx(50 / 3)


def test_options_of_a_row_are_told_whether_numbers_or_words() -> None:
    row = {"method": "ties_sv", "density": 0.5, "slack": 1.0, "reserve_by": "fisher", "seed": float("nan")}
    assert trust.options_text(row) == "density 0.5, slack ρ 1, reserve_by fisher"
