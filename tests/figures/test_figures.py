"""Figures from made-up tables (see made_run): what stands in them, and that nothing leaks as HTML."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.made_run import BUDGETS, EVIL, METHODS, made_choices, made_shares, made_study, write_made_run

from lrnb import figures
from lrnb.analysis import comparisons, results
from lrnb.analysis.kinds import KINDS, label
from lrnb.figures.style import PAPER, colour
from lrnb.merging.methods import find
from lrnb.scoring import predictions
from lrnb.study.stages import RunPaths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(scores, items, differences) of a made-up run."""
    runs = tmp_path_factory.mktemp("runs")
    write_made_run(runs, n=40)
    study = made_study(runs)
    scores, items = results.gather(RunPaths(study))
    return scores, items, comparisons.compare_methods(items, study)


def test_scores_carry_intervals_chance_and_fixed_colours(run) -> None:
    scores = run[0]
    fig = figures.scores_by_budget(scores, "topic", levels={"topic": 30.0})
    drawn = {trace.name: trace for trace in fig.data}
    merges = [find(method).label for method in METHODS]
    assert list(drawn) == ["base", "SFT-en", "CT", "CT-then-SFT", *merges]
    row = scores[(scores["model"] == "ties@65k") & (scores["task"] == "topic")].iloc[0]
    assert drawn["TIES"].y[1] == row["value"]
    assert drawn["TIES"].error_y.array[1] == pytest.approx(row["ci_high"] - row["value"])
    assert drawn["TIES"].line.color == colour("ties")
    assert {a.text.strip() for a in fig.layout.annotations} - {"°"} == {"chance", "majority"}
    part = scores[scores["task"] == "topic"]
    below = part[part["ci_low"] <= part["chance"]]
    assert 0 < len(below) < len(part)
    marked = [a.y for a in fig.layout.annotations if a.text == "°"]
    assert sorted(marked) == sorted(below["value"])
    assert {shape.y0 for shape in fig.layout.shapes} == {25.0, 30.0}
    assert "n = 40 items" in fig.layout.title.text
    assert fig.layout.yaxis.title.text == "correct (%)"
    assert list(fig.layout.xaxis.ticktext) == ["0", "16k", "65k"]


def test_collapsed_points_are_crossed_and_the_mean_has_its_level(run) -> None:
    scores, items, _ = run
    levels, fallen = results.levels(scores, items), results.fallen(scores, items)
    fig = figures.scores_by_budget(scores, "mean", levels=levels, fallen=fallen)
    assert levels["mean"] in {shape.y0 for shape in fig.layout.shapes}
    drawn = {trace.name: trace for trace in fig.data}
    crosses = drawn["collapse on a task"]
    assert (drawn["base"].x[0], drawn["base"].y[0]) in zip(crosses.x, crosses.y, strict=True)
    assert len(crosses.x) == sum(task == "mean" for _, task in fallen)


def test_points_of_one_budget_do_not_cover_each_other(run) -> None:
    fig = figures.scores_by_budget(run[0], "mean")
    places = [x for trace in fig.data for x in trace.x]
    assert len(set(np.round(places, 6))) == len(places)


def test_differences_are_full_only_after_correction(run) -> None:
    table = run[2]
    fig = figures.differences_to_baseline(table)
    for trace in fig.data:
        rows = table[(table["task"] == "mean") & (table["baseline"] == "ct_then_sft")]
        own = rows[rows["method"].map(label) == trace.name]
        full = [c != PAPER for c in trace.marker.color]
        assert full == list(own["p_holm"] < 0.05)
        assert list(trace.x) == list(own["difference"])


def test_predicted_classes_shows_a_collapse_and_escapes(run) -> None:
    counts = predictions.predicted(run[1], "topic")
    assert counts.loc["base", "sea"] == 40  # the made base gives one answer
    assert counts.loc["truth"].sum() == 40
    fig = figures.predicted_classes(counts, EVIL)
    assert EVIL not in fig.layout.title.text
    assert all("<" not in trace.name for trace in fig.data)


def test_tasks_without_classes_are_counted_by_position(run) -> None:
    counts = predictions.predicted(run[1], "reading")
    assert list(counts.columns) == ["option 1", "option 2", "option 3", "option 4"]
    assert "reading" not in predictions.majorities(run[1])


def test_shares_and_fates_add_up() -> None:
    shares = made_shares()
    chosen = shares[shares["setting"] == "chosen"]
    whole = chosen[chosen["tensor"] == "(model)"].iloc[0]
    fig = figures.shares_by_budget(chosen)
    lost = next(t for t in fig.data if t.name == "SFT: discarded")
    assert lost.y[0] == pytest.approx(100 * whole["sft_discarded"] / whole["sft_kept"])
    bars = figures.fates(chosen)
    heights = np.sum([bar.y for bar in bars.data], axis=0)
    assert heights[1] == pytest.approx(100 * whole["sft_kept"] / whole["n"])
    assert "n = 28,000 weights" in bars.layout.title.text


def test_fixed_setting_has_no_slack_line() -> None:
    shares = made_shares()
    fig = figures.shares_by_budget(shares[shares["setting"] == "fixed"])
    assert "SFT: won back by slack" not in [trace.name for trace in fig.data]


@pytest.mark.parametrize("by", ["module", "layer"])
def test_shares_by_part_are_weighted_by_entries(by: str) -> None:
    shares = made_shares()
    fixed = shares[shares["setting"] == "fixed"]
    fig = figures.shares_by(fixed, by)
    rows = fixed[(fixed["ct_tokens"] == BUDGETS[0]) & (fixed["layer"] >= 0)]
    total = rows.groupby(by)[["sft_discarded", "sft_kept"]].sum()
    first = fig.data[0]
    at = list(first.x).index("q" if by == "module" else 0)
    want = total.loc["q" if by == "module" else 0]
    assert first.y[at] == pytest.approx(100 * want["sft_discarded"] / want["sft_kept"])
    if by == "layer":  # no tick stands where there is no layer
        assert fig.layout.xaxis.range == (-0.5, 3.5)


def test_candidates_ring_the_chosen_one() -> None:
    fig = figures.candidates_on_dev(made_choices("average", {"alpha": [0.3, 0.5, 0.7]}), "alpha", "Average")
    rings = [t for t in fig.data if t.marker.symbol == "circle-open"]
    assert [list(ring.x) for ring in rings] == [[0.7], [0.7]]
    assert "n = 100 dev items" in fig.layout.title.text
    assert fig.layout.xaxis.title.text == "α (share of CT)"


def test_candidates_show_the_chance_level() -> None:
    choices = made_choices("average", {"alpha": [0.3, 0.5, 0.7]})
    fig = figures.candidates_on_dev(choices, "alpha", "Average")
    assert {shape.y0 for shape in fig.layout.shapes} == {25.0}
    assert not figures.candidates_on_dev(choices.drop(columns="chance"), "alpha", "Average").layout.shapes


def test_training_history_leaves_out_what_was_not_measured() -> None:
    table = pd.DataFrame(
        {"tokens": [0, 10, 20], "loss": [np.nan, 3.0, 2.0], "bits_per_byte_x": [2.0, np.nan, 1.0]}
    )
    fig = figures.training_history(table, [10])
    drawn = {trace.name: list(trace.y) for trace in fig.data}
    assert drawn == {"training loss": [3.0, 2.0], "held-out X": [2.0, 1.0]}


def test_colours_are_different_and_unknown_methods_are_escaped() -> None:
    assert len({kind.look.colour for kind in KINDS.values()}) == len(KINDS)
    assert "<" not in label(EVIL)
