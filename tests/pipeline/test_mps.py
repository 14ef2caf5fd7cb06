"""device mps: accepted, untested, and told so. What is decided for it, on a machine that has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrnb.analysis import pool
from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.pipeline import estimate, memory, notebooks, preflight, runner
from lrnb.scoring.open_model import device_and_precision
from lrnb.scoring.scorer import BUDGETS
from lrnb.study.environment import UNTESTED, device_name, resolved_device
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.training.pretraining import TrainingRecipe


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which torch sees Apple's GPU and none of NVIDIA; nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_mps_is_chosen_where_it_is_asked_for_alone(apple: None) -> None:
    assert [resolved_device(asked) for asked in ("auto", "cpu", "mps")] == ["cpu", "cpu", "mps"]
    recipe = TrainingRecipe(lr=1, batch=4, device="mps", devices="auto")
    assert (recipe.on_cpu(), recipe.count()) == (False, 1)
    assert TrainingRecipe(lr=1, batch=4).on_cpu()
    assert device_and_precision("mps", "auto") == ("mps", "fp32")
    assert {"cpu", "cuda", "mps"} == set(BUDGETS)
    assert device_name("mps").endswith("GPU by mps") and "mps" not in device_name()


def test_steps_of_mps_run_one_at_a_time_and_take_no_gpu_of_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    own, auto = Study(device="mps", devices="auto"), Study(devices="auto")
    assert (notebooks.usable_gpus(own), notebooks.usable_gpus(auto)) == ([], ["0", "1"])
    assert (memory.devices_here(own), memory.devices_here(auto)) == (1, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(runner, "cores", lambda: 8)
    assert [runner.default_jobs(study) for study in (own, Study())] == [1, 8]
    assert not runner.can_be_warm(own, "")


def test_mps_is_told_to_be_untested(apple: None, tmp_path: Path) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"device": "mps", "runs": str(tmp_path)})
    assert dict(estimate.describe([study], []))["time"] == f"not known: {UNTESTED['mps']}"
    preflight.refuse_missing(study, hub=False)
    with pytest.raises(UserError, match="--pool takes no runs of device mps, which is untested"):
        pool.refuse_misfit(study, tmp_path / "nano-qaa.jsonl")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"precision": "bf16"}, "precision bf16 does not go with it; give precision=fp32"),
        ({"eval_precision": "bf16"}, "eval_precision bf16 does not go with it; give eval_precision=auto"),
        ({"devices": 2}, "devices 2 does not go with it; give devices=1"),
        ({"nodes": 2}, "nodes 2 does not go with it; give nodes=1"),
    ],
)
def test_what_mps_does_not_do_is_refused(given: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Study(device="mps", **given)
    Study(device="cuda", **given)


def test_a_missing_gpu_of_apple_is_said_before_anything_is_computed(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    given = ["--preset", "nano", "--set", "device=mps", "--set", f"runs={tmp_path}"]
    assert main(["run", "params/qaa.yaml", *given]) == 2
    said = capsys.readouterr()
    assert UNTESTED["mps"] in said.out
    assert "device mps: torch sees no GPU of Apple here. Use device auto or cpu" in said.err
    assert not list(tmp_path.rglob("manifest.json"))
