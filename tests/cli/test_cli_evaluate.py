"""`lrnb evaluate`: several models and their differences, LoRA folders and Hub ids, JSON, a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from support.hub_cache import to_hub
from support.pico import pico_model, pico_tokenizer, save_pico
from support.pico_tasks import words

from lrnb import statistics
from lrnb.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of pico words, and two models."""
    folder, rng = tmp_path_factory.mktemp("evaluate"), np.random.default_rng(0)
    for name in ("label", "other"):
        rows = [
            {"text": words(rng, 9), "label": str(rng.choice(["red", "blue", "house"]))} for _ in range(40)
        ]
        path = folder / "eval" / name / "bn" / "test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        meta = {"family": "text_classification", "metric": "acc", "data": name}
        task = {"task": name, "output_type": "multiple_choice", "doc_to_text": "{{text}}", "metadata": meta}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    for seed, name in enumerate(("a", "b")):
        save_pico(folder / name, seed=seed)
    return folder


def evaluate(made: Path, *given: object) -> int:
    tasks = f"{made}/label.yaml,{made}/other.yaml"
    asked = ["--tasks", tasks, "--lang", "bn", "--data-root", str(made)]
    return main.main(["evaluate", *map(str, given), *asked])


def test_several_models_are_compared_with_the_first(made: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "scores"  # as a run's folder is called
    assert evaluate(made, f"one={made}/a", f"two={made}/b", "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"] == {"one": f"{made}/a", "two": f"{made}/b"}
    items = pd.read_parquet(out / "items.parquet")
    right = items.pivot_table(index=["task", "item"], columns="model", values="correct").astype(float)
    rows = {row["task"]: row for row in told["differences"]}
    assert list(rows) == ["label", "other", "mean"]
    for task in ("label", "other"):
        own = right.loc[task]
        assert rows[task]["difference"] == pytest.approx(100 * (own["two"] - own["one"]).mean())
        assert rows[task]["p"] == pytest.approx(statistics.mcnemar(own["two"], own["one"]))
    assert {row["noise"] for row in rows.values()} == {"items only"}
    scores = pd.read_csv(out / "scores.csv").set_index(["model", "task"])
    most = items[(items["model"] == "one") & (items["task"] == "label")]["gold"].value_counts().iloc[0]
    assert scores.loc[("one", "label"), "majority"] == pytest.approx(100 * most / 40)
    said = items[(items["model"] == "one") & (items["task"] == "label")]["prediction"].value_counts()
    collapsed = said.iloc[0] > max(0.6 * 40, most)
    assert bool(scores.loc[("one", "label"), "collapsed"]) == collapsed
    assert scores.loc[("two", "mean"), "n"] == 80
    assert {path.name for path in out.iterdir()} == {
        "scores.csv", "items.parquet", "differences.csv", "evaluation.json"
    }  # fmt: skip
    assert main.main(["compare", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert str(rows["label"]["difference"]) in json.dumps(again)


def test_one_model_is_printed_with_its_marks(made: Path, capsys) -> None:
    assert evaluate(made, made / "a") == 0
    text = capsys.readouterr().out
    assert "majority" in text and "✕ a collapse" in text and "B - A" not in text


def test_a_lora_folder_is_scored_as_the_model_it_makes(
    made: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    model = get_peft_model(pico_model(seed=0), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path / "lora")
    dense = model.merge_and_unload()
    dense.save_pretrained(tmp_path / "dense")
    pico_tokenizer().save_pretrained(tmp_path / "dense")
    assert evaluate(made, tmp_path / "lora") == 2
    assert "needs the base it was trained from" in capsys.readouterr().err
    models = [tmp_path / "dense", tmp_path / "lora", made / "a"]
    assert evaluate(made, *models, "--base", made / "a", "--out", tmp_path / "out") == 0
    items = pd.read_parquet(tmp_path / "out" / "items.parquet")
    values = {name: np.concatenate(own["loglikelihoods"].tolist()) for name, own in items.groupby("model")}
    assert values["lora"] == pytest.approx(values["dense"], abs=1e-4)
    assert np.abs(values["lora"] - values["a"]).max() > 1e-3


def test_a_hub_id_is_opened_from_the_cache(made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    to_hub(save_pico(tmp_path / "model", seed=0), tmp_path / "hub", "org/name", revision="v1")
    assert evaluate(made, "org/name@v1", f"same={made}/a", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"] == {"name@v1": "org/name@v1", "same": f"{made}/a"}
    assert {row["difference"] for row in told["differences"]} == {0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{made}/a", "{made}/a"], "two models are called 'a'"),
        (["x=", "{made}/a"], "expected MODEL or NAME=MODEL"),
        (["{made}/a", "{made}/none"], "none: no such folder"),
        (["{made}/a", "--out", "{made}"], "exists and is no evaluation"),
    ],
)
def test_refused_before_anything_is_scored(
    made: Path, given: list[str], message: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("lrnb.scoring.evaluate.score_one", lambda *_: pytest.fail("scored"))
    assert evaluate(made, *(text.format(made=made) for text in given)) == 2
    assert message in capsys.readouterr().err
