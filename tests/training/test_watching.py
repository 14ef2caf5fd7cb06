"""The optimizer with moments in 8 bits, and trainings that are watched from elsewhere."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.pico import save_pico

from lrnb.data import packing
from lrnb.errors import UserError
from lrnb.pipeline import memory, preflight
from lrnb.study.parameters import ROOT, budget_name, load_study
from lrnb.training import pretraining, watching

QAA = ROOT / "params" / "qaa.yaml"


def has(*packages: str) -> bool:
    return all(util.find_spec(package) for package in packages)


@pytest.mark.parametrize(
    "asked", [{"optimizer": "adamw_8bit"}, {"log_to": "tensorboard"}, {"log_to": "wandb"}]
)
def test_a_package_that_is_missing_is_told_before_anything_runs(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"adamw_8bit|tensorboard|wandb needs a package: .* -m pip install"):
        preflight.refuse_missing(load_study(QAA, "nano", asked))
    preflight.refuse_missing(load_study(QAA, "nano"))


def test_events_go_to_the_folder_of_the_run_and_a_users_project_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert watching.log_places("") == {}
    places = watching.log_places("runs/nano/logs/qaa/ct")
    assert places["TENSORBOARD_LOGGING_DIR"] == places["WANDB_DIR"] == "runs/nano/logs/qaa/ct"
    assert places["WANDB_PROJECT"] == "lrnb"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert watching.log_places("x")["WANDB_PROJECT"] == "mine"


def test_moments_in_8_bits_are_counted() -> None:
    study = load_study(ROOT / "params" / "bn.yaml", "paper", {"devices": 8})
    shape = memory.Shape(parameters=7_000_000_000, hidden=4096, layers=32, vocabulary=32_000)
    full = memory.training_bytes(study, shape, 8)
    small = memory.training_bytes(study.model_copy(update={"optimizer": "adamw_8bit"}), shape, 8)
    assert full - small == pytest.approx(6 * 7e9 / 8, rel=1e-3)


@pytest.mark.slow  # torchao compiles its steps: a minute
@pytest.mark.skipif(not has("torchao", "tensorboard"), reason="torchao and tensorboard are not installed")
def test_8_bit_moments_train_resume_and_are_logged(tmp_path: Path) -> None:
    base, rng = save_pico(tmp_path / "base"), np.random.default_rng(0)
    documents = [[1, *rng.integers(4, 29, 20).tolist(), 2] for _ in range(200)]
    packing.write_packed(packing.pack(documents, 16), tmp_path / "packed.arrow", 10_000)
    own = {"optimizer": "adamw_8bit", "log_to": "tensorboard"}
    weights = {}
    for name, budgets in {"whole": [[1024]], "resumed": [[512], [512, 1024]], "usual": [[1024]]}.items():
        log_dir = str(tmp_path / "logs" / name)
        recipe = pretraining.TrainingRecipe(
            1e-2, 4, device="cpu", log_dir=log_dir, **(own if name != "usual" else {})
        )
        for some in budgets:
            pretraining.continual_pretrain(
                base, tmp_path / "packed.arrow", tmp_path / name, recipe=recipe, budgets=some,
                heldout={}, save_tokens=256, fingerprint={},
            )  # fmt: skip
        weights[name] = load_file(tmp_path / name / budget_name(1024) / "model.safetensors")
    same = [np.array_equal(weights["whole"][key], value) for key, value in weights["resumed"].items()]
    assert all(same)
    assert any((weights["whole"][key] != value).any() for key, value in weights["usual"].items())
    assert len(list((tmp_path / "logs").rglob("events.out.*"))) == 3
