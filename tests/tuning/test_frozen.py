"""Hyper-parameters tuned on some runs and frozen for others: the best on dev over all of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.made_run import BUDGETS, METHODS, made_study, write_made_run

from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.study.parameters import Study, load_study, read_overrides
from lrnb.study.stages import RunPaths
from lrnb.tuning.frozen import frozen
from lrnb.tuning.search import candidate_grid, searched, sft_candidates


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Two runs: in the first the last candidate of each arm is far the best, in the second it is the worst
    by more, and the first one a little better than the others."""
    found = []
    for name, worth in (("one", {-1: 30.0}), ("two", {-1: -60.0, 0: 5.0})):
        runs = tmp_path_factory.mktemp(name)
        write_made_run(runs, n=20)
        found.append(made_study(runs))
        for path in [*runs.glob("nano/**/choices.csv")]:
            _rescore(path, worth)
    return found


def _rescore(path: Path, worth: dict[int, float]) -> None:
    table = pd.read_csv(path).assign(dev_score=50.0)
    groups = table.groupby("ct_tokens") if "ct_tokens" in table else [(0, table)]
    for _, own in groups:
        for place, more in worth.items():
            table.loc[own.index[place], "dev_score"] += more
    table.to_csv(path, index=False)


def test_every_arm_has_the_candidate_that_is_best_over_the_runs(studies: list[Study]) -> None:
    found = frozen(studies)
    assert set(found["search"]) == set(METHODS)
    for method in METHODS:
        table = pd.read_csv(RunPaths(studies[0]).merge(method) / "choices.csv")
        first = table[table["ct_tokens"] == BUDGETS[0]].iloc[0]
        names = searched(studies[0], method)
        assert found["search"][method] == {name: [pytest.approx(first[name])] for name in names}
    assert {arm: {k: len(v) for k, v in own.items()} for arm, own in found["sft_search"].items()} == {
        "sft": {"lr": 1, "epochs": 1}, "ct_then_sft": {"lr": 1, "epochs": 1},
    }  # fmt: skip


def test_what_one_run_chose_alone_is_its_own_choice(studies: list[Study]) -> None:
    found = frozen(studies[:1])
    for method in METHODS:
        table = pd.read_csv(RunPaths(studies[0]).merge(method) / "choices.csv")
        last = table[table["ct_tokens"] == BUDGETS[0]].iloc[-1]
        assert found["search"][method] == {
            name: [pytest.approx(last[name])] for name in searched(studies[0], method)
        }


def test_other_runs_take_the_file_and_try_one_candidate(
    studies: list[Study], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "frozen.yaml"
    folders = [str(RunPaths(study).lang) for study in studies]
    assert main(["freeze", *folders, "--out", str(out)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == frozen(studies)
    given = read_overrides([f"@{out}", f"methods={[*METHODS]}", "tuning_trials=3"])
    study = load_study(Path("params/qaa.yaml"), "nano", given)
    assert [len(candidate_grid(study, method)) for method in METHODS] == [1] * len(METHODS)
    for arm in ("sft", "ct_then_sft"):
        (one,) = sft_candidates(study, arm)
        assert (one.lr, one.epochs) == (
            given["sft_search"][arm]["lr"][0],
            given["sft_search"][arm]["epochs"][0],
        )


def test_runs_of_other_methods_are_refused(studies: list[Study]) -> None:
    with pytest.raises(UserError, match="its methods are ties.*give runs of the same methods"):
        frozen([studies[0], studies[1].model_copy(update={"methods": ["ties"]})])


def test_arms_without_a_candidate_in_common_are_refused(studies: list[Study], tmp_path: Path) -> None:
    write_made_run(tmp_path, n=20)
    other = made_study(tmp_path)
    path = RunPaths(other).merge("average") / "choices.csv"
    table = pd.read_csv(path)
    table.assign(alpha=table["alpha"] / 2 + 0.01).to_csv(path, index=False)
    with pytest.raises(UserError, match="average: the runs have no candidate in common"):
        frozen([studies[0], other])
