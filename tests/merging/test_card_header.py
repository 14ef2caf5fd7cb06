"""The YAML of a merge's card: what the Hub is told, from what is known and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from support.hub_cache import to_hub
from support.pico import save_pico

from lrnb.merging.whole_models import merge_checkpoints


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    return {name: save_pico(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "ct", "sft"))}


def header(models: dict[str, str | Path], out: Path, method: str = "average", **options: object) -> dict:
    """The YAML of the card, read by huggingface_hub as the Hub would."""
    base, *parents = models.values()
    merge_checkpoints(method, base, dict(zip(("ct", "sft"), parents, strict=True)), out, **options)
    card = ModelCard.load(out / "README.md")
    assert card.text.lstrip().startswith("# Merge by")
    return card.data.to_dict()


def stage(folder: Path, **manifest: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_nothing_is_said_that_is_not_known(models: dict, tmp_path: Path) -> None:
    found = header(models, tmp_path / "out", "ties_sv", density=0.5, slack=0.1)
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "lrnb", "ties-sv"],
    }
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


def test_a_run_says_base_and_languages(models: dict, tmp_path: Path) -> None:
    stage(models["base"], stage="base", facts={"source": "gguf:gemma3-270m"}, params={})
    stage(models["ct"], stage="ct", params={"lang": "bn"})
    (models["base"] / "NOTICE").write_text("Gemma is provided under ... the Gemma Terms of Use found at ...")
    found = header(models, tmp_path / "out", "ties", density=0.5)
    assert found["base_model"] == ["google/gemma-3-270m"] and found["base_model_relation"] == "merge"
    assert found["language"] == ["bn", "en"]
    assert (found["license"], found["license_link"]) == ("gemma", "https://ai.google.dev/gemma/terms")


def test_private_codes_are_no_languages(models: dict, tmp_path: Path) -> None:
    stage(models["ct"], stage="ct", params={"lang": "qaa"})
    assert header(models, tmp_path / "out")["language"] == ["en"]


def test_gemma_is_known_by_its_kind(tmp_path: Path) -> None:
    models = {n: save_pico(tmp_path / n, "gemma", seed=i) for i, n in enumerate(("base", "ct", "sft"))}
    (models["sft"] / "LICENSE").write_text("Apache License\nVersion 2.0")
    assert header(models, tmp_path / "out")["license"] == "gemma"


def test_hub_ids_and_cards_of_the_models_are_used(models: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    card = {"base_model": "org/older", "language": "ta", "license": "apache-2.0"}
    (models["ct"] / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# A model\n")
    (models["base"] / "LICENSE").write_text("Apache License, Version 2.0")
    to_hub(models["base"], tmp_path / "hub", "org/base")
    found = header(
        {"base": "org/base", "ct": models["ct"], "sft": models["sft"]},
        tmp_path / "out",
        "task_arithmetic",
        lam=1.0,
    )
    assert found["base_model"] == ["org/base", "org/older"]
    assert (found["language"], found["license"]) == (["ta"], "apache-2.0")


def test_licences_that_differ_are_named_as_such(models: dict, tmp_path: Path) -> None:
    (models["ct"] / "LICENSE").write_text("MIT License")
    (models["sft"] / "LICENSE").write_text("Apache License")
    found = header(models, tmp_path / "out")
    assert (found["license"], found["license_name"]) == ("other", "those of the merged models")


def test_a_card_that_cannot_be_read_does_not_stop_a_merge(models: dict, tmp_path: Path) -> None:
    (models["ct"] / "README.md").write_text("---\nbase_model: [\n---\n")
    (models["sft"] / "README.md").write_bytes(b"---\n\xff\xfe\n---\n")
    (models["ct"] / "manifest.json").write_text("{")
    assert "base_model" not in header(models, tmp_path / "out")
