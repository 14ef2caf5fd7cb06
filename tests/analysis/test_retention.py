"""Score against SFT's entries kept: the merges, what they keep, slopes worked out by hand, the notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from support.made_retention import made_retention
from support.pico_run import BUDGET, pico_study

from lrnb.analysis import retention, retention_merges, retention_run
from lrnb.analysis.retention import AT_EQUAL_CT, SLOPE, STEEPER
from lrnb.analysis.retention_merges import ABLATION, DEV, EVERYTHING, GRID, MIDDLE, Retained, elected_options
from lrnb.errors import UserError
from lrnb.figures.retention import losses_by_part, score_by_retention
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state
from lrnb.pipeline.notebooks import QUIET, exec_notebook
from lrnb.pipeline.steps import plan, step_params
from lrnb.study.files import write_text
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths, Stage
from lrnb.tuning.on_dev import Dev, choose_on_dev, parent_folders

GIVEN = {"methods": ["average", "ties"], "alphas": [0.4], "lams": [1.0], "densities": [0.3, 0.5]}
GIVEN |= {"tasks_en": ["world_topic"], "tuning_trials": 2, "test_limit": 12, "retention": BUDGET}


def fixed_dev(state: object) -> Dev:
    return Dev(50.0, 8, 25.0, ("world_topic",), 5.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A pico study with its merges chosen."""
    made = pico_study(tmp_path_factory.mktemp("runs")).model_copy(update=GIVEN)
    write_text(RunPaths(made).lang / "params.yaml", yaml.safe_dump(made.model_dump()))
    for method in made.methods:
        choose_on_dev(made, method, fixed_dev)
    return made


@pytest.fixture(scope="module")
def vectors(study: Study) -> TaskVectors:
    return TaskVectors(RunPaths(study).base, parent_folders(RunPaths(study), BUDGET), method="ties_sv")


def test_every_candidate_tried_on_dev_is_a_point_and_none_stands_twice(
    study: Study, vectors: TaskVectors
) -> None:
    found = retention_merges.retained_merges(study, BUDGET, vectors.names)
    assert len({one.name for one in found}) == len(found)
    assert {one.name for one in found if one.on_dev} == {
        "average alpha=0.4",
        "ties_sv density=0.3 slack=0 weight=1 lam=1",
        "ties_sv density=0.5 slack=0 weight=1 lam=1",  # which the grid has too
    }
    assert [one.kind for one in found if one.on_dev] == [GRID, DEV, DEV]
    parts = {one.left_out for one in found if one.kind == ABLATION}
    assert parts >= {EVERYTHING, "module q", "module down", "module embed", "layers bottom", "layers top"}
    assert not any(part.startswith("layers middle") for part in parts)  # of two layers


def test_leaving_all_of_sft_out_is_trimmed_ct_and_a_part_moves_only_its_tensors(
    study: Study, vectors: TaskVectors
) -> None:
    middle = Retained(GRID, "ties_sv", elected_options(MIDDLE))
    whole = retention_merges.state_of(middle, vectors, study)
    plain = merge_state("ties", vectors, density=0.5)
    assert all(np.array_equal(whole[name], plain[name]) for name in plain)
    alone = retention_merges.state_of(middle._replace(left_out=EVERYTHING), vectors, study)
    base, ct = (np.asarray(vectors.base["model.norm.weight"]), vectors.parents)
    assert ct == ["ct", "sft"] and not np.array_equal(alone["model.norm.weight"], whole["model.norm.weight"])
    moved = alone["model.norm.weight"] - base.astype(np.float32)
    own = _ct(study)["model.norm.weight"].astype(np.float32) - base
    assert all(np.isclose(m, 0) or np.isclose(m, x, atol=1e-6) for m, x in zip(moved, own, strict=True))
    part = retention_merges.state_of(middle._replace(left_out="module q"), vectors, study)
    changed = {name for name in whole if not np.array_equal(whole[name], part[name])}
    assert changed == {name for name in whole if ".q_proj." in name}
    tied = retention_merges.state_of(middle._replace(left_out="module embed"), vectors, study)
    assert np.array_equal(tied["model.embed_tokens.weight"], alone["model.embed_tokens.weight"])


def _ct(study: Study) -> dict[str, np.ndarray]:
    from lrnb.checkpoints.reading import open_checkpoint

    found = open_checkpoint(RunPaths(study).ct(BUDGET))
    return {name: np.asarray(found[name]) for name in found}


def test_shares_add_up(study: Study, vectors: TaskVectors) -> None:
    def kept(left_out: str = "", **options: float) -> dict[str, float]:
        one = Retained(GRID, "ties_sv", elected_options(options), left_out)
        return retention_merges.kept_shares(one, vectors, study, changed)

    changed = retention_merges.changed_entries(vectors)
    everything = kept(density=1.0, slack=1.0)
    assert everything["sft"] == 1 and everything["ct"] < 1
    assert kept(density=0.5, slack=1.0)["sft"] == pytest.approx(0.5, abs=1e-3)
    low, high = kept(density=0.5, weight=0.5), kept(density=0.5, weight=2.0)
    assert low["sft"] < high["sft"] and low["ct"] > high["ct"]
    assert kept(EVERYTHING, density=0.5)["sft"] == 0
    parts = retention_merges.parts_of(vectors.names)
    gone = [kept(density=0.5)["sft"] - kept(p, density=0.5)["sft"] for p in parts if p.startswith("module")]
    assert sum(gone) == pytest.approx(kept(density=0.5)["sft"])
    average = retention_merges.kept_shares(
        Retained(DEV, "average", (("alpha", 0.5),)), vectors, study, changed
    )
    assert average == {"sft": 1.0, "ct": 1.0}


def test_slopes_of_one_run_and_of_several_find_what_was_put_in() -> None:
    put_in = {"flat": 0.0, "steep": 0.6, "mild": 0.3, "other_en": 0.2}
    several = [made_retention(put_in, seed) for seed in range(4)]
    for runs in (several[:1], several):
        table = retention.retention_slopes(runs)
        rows = table.set_index(["what", "task"])
        for task, slope in put_in.items():
            for what in (SLOPE, AT_EQUAL_CT):
                row = rows.loc[what, task]
                assert row["ci_low"] - 1.5 < 10 * slope < row["ci_high"] + 1.5
        assert rows.loc[SLOPE, "steep"]["p_holm"] < 0.05 < rows.loc[SLOPE, "flat"]["p"]
        assert rows.loc[STEEPER, "steep"]["slope"] == pytest.approx(
            rows.loc[SLOPE, "steep"]["slope"]
            - (rows.loc[SLOPE, "flat"]["slope"] + rows.loc[SLOPE, "mild"]["slope"]) / 2
        )
        assert (STEEPER, "other_en") not in rows.index  # it is alone in English
        assert set(table["seeds"]) == {len(runs)}
    one = several[0]
    grid = one.merges[one.merges["kind"] == GRID]
    scores = [100 * one.right[name]["steep"].mean() for name in grid["merge"]]
    by_hand = np.polyfit(10 * grid["sft_share"], scores, 1)[0]
    assert retention.retention_slopes([one]).set_index(["what", "task"]).loc[SLOPE, "steep"]["slope"] == (
        pytest.approx(by_hand)
    )


def test_a_loss_is_against_the_middle_of_the_grid_and_the_sentences_name_the_steepest() -> None:
    run = made_retention({"flat": 0.0, "steep": 0.6})
    losses, slopes = retention.ablation_losses([run]), retention.retention_slopes([run])
    row = losses[(losses["task"] == "steep") & (losses["left_out"] == EVERYTHING)].iloc[0]
    middle = run.right["ties_sv density=0.5 slack=0 weight=1 lam=1"]["steep"]
    assert row["loss"] == pytest.approx(100 * (middle.mean() - run.right["gone"]["steep"].mean()))
    assert row["share"] == pytest.approx(0.5) and row["p_holm"] < 0.05
    said = retention.findings_of_retention(slopes, losses)
    assert said[0].startswith("In X steep gains most") and "of the items of one run" in said[0]
    assert said[-1].startswith("No part of SFT costs flat, steep more than the items can tell")
    sure = losses.assign(p_holm=0.01, loss=3.0)
    told = retention.findings_of_retention(slopes, sure)
    assert (
        told[-1].startswith("steep: leaving module q of SFT out costs most, +3.0") and "10.0% of" in told[-1]
    )
    fig = score_by_retention(retention.retention_points(run), slopes, "steep")
    assert len(fig.data[-1].x) == 2 and "for each 10%" in fig.layout.title.text
    assert losses_by_part(losses).data[0].y[0].startswith("all of SFT (50.0%)")


def test_scored_merges_are_kept_and_gone_on_from(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [Retained(GRID, "ties_sv", elected_options({"density": d})) for d in (0.2, 0.5)]
    few += [few[1]._replace(kind=ABLATION, left_out="module q")]
    monkeypatch.setattr(retention_run, "retained_merges", lambda *_: few)
    made, scored = list[str](), retention_run.state_of

    def broken_off(one: Retained, *rest: object) -> dict:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(one.name)
        return scored(one, *rest)

    def measured() -> None:
        with Stage(tmp_path / "retention", "retention", {}, resumes=True) as stage:
            retention_run.measure_retention(study, stage)

    monkeypatch.setattr(retention_run, "state_of", broken_off)
    with pytest.raises(KeyboardInterrupt):
        measured()
    monkeypatch.setattr(
        retention_run, "state_of", lambda one, *rest: made.append(one.name) or scored(one, *rest)
    )
    measured()
    assert made == [one.name for one in few]
    found = retention.read_retention(tmp_path / "retention")
    assert found.tasks == ["world_topic", "world_sums", "world_topic_en"]
    assert {len(x) for tasks in found.right.values() for x in tasks.values()} == {12}
    assert not (tmp_path / "retention" / "work").exists()


def test_its_step_is_there_only_where_it_is_asked_for(study: Study) -> None:
    assert plan(study)["report"].needs[-1] == "retention"
    assert "retention" not in plan(study.model_copy(update={"retention": 0}))


@pytest.mark.slow
def test_the_notebook_measures_a_run(study: Study, tmp_path: Path) -> None:
    step = plan(study)["retention"]
    exec_notebook(step.source, step_params(step, study), tmp_path / "out.ipynb", QUIET)
    assert retention.retention_there(RunPaths(study)) is not None
    assert {"points.csv", "slopes.csv", "losses.csv"} <= {p.name for p in RunPaths(study).retention.iterdir()}


def test_a_budget_that_the_study_lacks_is_refused(study: Study) -> None:
    other = study.model_copy(update={"retention": 999})
    for ask in (plan, retention_run.retention_budget):
        with pytest.raises(UserError, match=r"retention: 999 is none of ct_budgets, \[2048\]"):
            ask(other)
