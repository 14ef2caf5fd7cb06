"""SFT on rows in X, `sft_x`: arms of their own from the plan to the report, and what is refused before."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from support.pico_run import pico_study
from support.run_all import kernel, with_parameters
from support.tiny_study import TINY

from lrnb.analysis.kinds import arm_model, kind_and_rows, label
from lrnb.data import microworld
from lrnb.errors import UserError
from lrnb.pipeline import estimate, freshness, preflight
from lrnb.pipeline.steps import plan, step_params
from lrnb.study.files import write_text
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.stages import RunPaths, read_manifest
from lrnb.tasks.degraded import degrade_folder
from lrnb.tasks.sft_rows import study_rows

TASKS = ["world_topic", "world_sums"]
FEW = {"methods": ["average", "ties"], "search": {}}


def rows_in(folder: Path, lang: str = "qaa", n: int = 20) -> Path:
    """Rows of the micro-world to train on, in an invented language or in English."""
    world = microworld.make_world()
    for task in TASKS:
        rows = microworld.world_items(world, task.removeprefix("world_"), lang, "train", n)
        write_text(folder / f"{task}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study_with(runs: Path, **sft_x: Path) -> Study:
    given = {"runs": str(runs), "sft_x": {name: str(folder) for name, folder in sft_x.items()}}
    return load_study(ROOT / "params" / "qaa.yaml", "nano", TINY | FEW | given)


def test_each_folder_is_an_arm_of_its_own_and_moves_no_other_step(tmp_path: Path) -> None:
    with_arm = study_with(tmp_path, human=rows_in(tmp_path / "human"))
    own, plain = plan(with_arm), plan(study_with(tmp_path))
    arm = {
        "sft-x-human",
        "cts_2k-x-human",
        "cts_4k-x-human",
        "average-x-human",
        "ties-x-human",
        "eval-x-human",
    }
    assert own.keys() - plain.keys() == {*arm, "rows_in_x"}
    assert all(own[name].home.name == "qaa" for name in arm)
    for name, step in plain.items():
        if name != "report":
            assert step == own[name]
            assert step_params(step, study_with(tmp_path)) == step_params(own[name], with_arm)
    counts, without = estimate.tokens(with_arm), estimate.tokens(study_with(tmp_path))
    assert counts["sft"] == 2 * without["sft"]  # of three SFTs, the same three again
    assert counts["scoring"] > 1.5 * without["scoring"]
    assert estimate.disk_bytes(with_arm, own.values()) > estimate.disk_bytes(with_arm, plain.values())


def test_only_the_rows_of_an_arm_make_its_steps_outdated(tmp_path: Path) -> None:
    human, noisy = (rows_in(tmp_path / name) for name in ("human", "noisy"))
    study = study_with(tmp_path, human=human, noisy=noisy)
    steps = plan(study)
    before = {
        name: freshness._own_files(step_params(step, study)) for name, step in steps.items() if step.notebook
    }
    rows_in(noisy, n=21)
    after = {
        name: freshness._own_files(step_params(step, study)) for name, step in steps.items() if step.notebook
    }
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"sft-x-noisy", "cts_2k-x-noisy", "cts_4k-x-noisy", "rows_in_x"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sft_x": {"a b": "x"}}, "sft_x: 'a b' is no name for rows; give letters"),
        ({"sft_x": {"human": " "}}, "sft_x: human has no folder; give the one that holds <task>.jsonl"),
        (
            {"extra_models": {"sft-x-mine": "x"}},
            "extra_models: 'sft-x-mine': names with 'sft-x-' are those of sft_x",
        ),
        ({"preset": "released", "sft_x": {"human": "x"}}, "sft_x goes with SFT that is trained"),
    ],
)
def test_names_that_cannot_be_are_refused(given: dict, message: str) -> None:
    preset = given.pop("preset", "smol")
    with pytest.raises(UserError, match=message):
        load_study(ROOT / "params" / "bn.yaml", preset, given)


def test_rows_that_no_arm_can_train_on_are_refused_before_anything(tmp_path: Path) -> None:
    def told(folder: Path) -> str:
        return "\n".join(preflight.faults(study_with(tmp_path, human=folder), hub=False))

    assert told(rows_in(tmp_path / "human")) == ""
    assert "sft_x, human: " in told(tmp_path / "nowhere") and "is no folder" in told(tmp_path / "nowhere")
    assert "world_topic.jsonl has 9; ask for less" in told(rows_in(tmp_path / "few", n=9))
    english = told(rows_in(tmp_path / "english", "en"))
    assert "world_topic.jsonl:1: the row is mostly in another script than Georgian; rows in 'qaa'" in english
    assert "English rows go to sft/<task>.jsonl" in english
    (tmp_path / "human/world_sums.jsonl").unlink()
    assert "no file" in (one := told(tmp_path / "human")) and "take the task out of sft_mix" in one


def test_names_of_arms_are_read_back_and_said() -> None:
    for kind in ("sft", "ct_then_sft", "ties", "task_arithmetic"):
        assert kind_and_rows(arm_model(kind, "ct_then-1")) == (kind, "ct_then-1")
        assert arm_model(kind, "") == kind and kind_and_rows(kind) == (kind, "")
    names = [label(arm_model(kind, "human")) for kind in ("sft", "ct_then_sft", "ties")]
    assert names == ["sft-x-human", "CT-then-sft-x-human", "TIES with sft-x-human"]


@pytest.mark.slow  # trains seven small models through the notebooks, half a minute
def test_the_arms_run_through_the_notebooks_to_the_comparison(tmp_path: Path) -> None:
    pico_study(tmp_path / "runs")
    human = rows_in(tmp_path / "human")
    degrade_folder(human, tmp_path / "copies", seed=0)
    study = study_with(tmp_path / "runs", human=human, degraded=tmp_path / "copies" / "degraded-3")
    study = study.model_copy(update={"ct_budgets": [2048]})
    steps, paths = plan(study), RunPaths(study)
    done = ("base", "corpus", "ct", "sft")  # as `pico_study` left them
    asked = ("sft", "cts", "average", "ties", "eval", "rows_in_x")
    with kernel() as running:
        for name, step in steps.items():
            if name.startswith(asked) and name not in done:
                running.start_afresh()
                shown = running.run_all(with_parameters(step.notebook, **step_params(step, study)))
    arm = paths.of_rows("degraded")
    assert arm.sft == paths.lang / "sft-x-degraded" / "sft"
    trained = [read_manifest(one.sft)["facts"] for one in (paths.of_rows("human"), arm)]
    assert [facts["examples"] for facts in trained] == [32, 32] and trained[0] != trained[1]
    assert study_rows(arm.study, paths.data_root).keys() == {*TASKS}
    scores, leads, rows = (
        pd.read_csv(paths.rows_in_x / f"{name}.csv") for name in ("scores", "leads", "rows")
    )
    models = {
        arm_model(kind, name) for kind in ("sft", "ct_then_sft", "average", "ties") for name in study.sft_x
    }
    assert models | {"base", "ct", "sft", "ct_then_sft", "average", "ties"} == {*scores["method"]}
    assert {*leads["against"]} == {
        "SFT on English rows", "sft-x-human", "ct_then_sft-x-human", "ct_then_sft-x-degraded"
    }  # fmt: skip
    own = leads[(leads["task"] == "mean") & (leads["against"] == "sft-x-human")].set_index("method")
    value = scores[scores["task"] == "mean"].set_index("method")["value"]
    for method, row in own.iterrows():
        assert row["difference"] == pytest.approx(value[method] - value[row["baseline"]])
    short = rows.pivot_table(index="rows", columns="task", values="characters")
    assert short.loc["degraded", "world_topic"] < short.loc["human", "world_topic"]
    assert (rows.set_index("rows").loc["human", "own_script"] > 60).all()
    assert "teach more than English rows" in shown[-1]
