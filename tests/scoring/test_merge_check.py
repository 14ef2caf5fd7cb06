"""A merge tried before it gets its name: what is predicted, what is warned of, what is left behind."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.pico import pico_tokenizer, save_pico

from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.scoring.merge_check import BYTES, ENGLISH, MARGIN, complaint_about, texts_for

TEXT = "red cat sees a dog and two blue house in river the " * 40


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that expects TEXT."""
    from transformers import AutoModelForCausalLM

    base = save_pico(tmp_path_factory.mktemp("learnt"))
    pico_tokenizer().save_pretrained(base)
    model, ids = AutoModelForCausalLM.from_pretrained(base), pico_tokenizer()(TEXT[:220])["input_ids"]
    row, steps = torch.tensor([[1, *ids]]), torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        loss = model(row, labels=row).loss
        steps.zero_grad()
        loss.backward()
        steps.step()
    model.save_pretrained(base)
    return base


@pytest.fixture
def models(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The base, and two parents near it."""
    monkeypatch.chdir(tmp_path)
    weights = load_file(learnt / "model.safetensors")
    for seed, name in enumerate(("base", "ct", "sft")):
        shutil.copytree(learnt, tmp_path / name)
        rng, size = np.random.default_rng(seed), 0.003 * (name != "base")
        moved = {k: (w + size * rng.normal(size=w.shape)).astype(np.float32) for k, w in weights.items()}
        save_file(moved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "x.txt").write_text(TEXT, encoding="utf-8")
    return {name: tmp_path / name for name in ("base", "ct", "sft")}


def merge(*options: str) -> int:
    models = ["--base", "base", "--model", "ct=ct", "--model", "sft=sft", "--out", "out"]
    return main(["merge", *options[:1], *models, *options[1:]])


def nats(folder: Path, text: str) -> float:
    """-log p of a text, token by token, without any window."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([[1, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logp = AutoModelForCausalLM.from_pretrained(folder)(ids).logits.log_softmax(-1)
    return -sum(float(logp[0, i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1))


def test_a_sound_merge_is_tried_and_the_card_says_how(models: dict, capsys: pytest.CaptureFixture) -> None:
    assert merge("average", "--check", "x.txt") == 0
    shown = capsys.readouterr()
    report = json.loads(Path("out/manifest.json").read_text())["report"]
    check, card = report["check"], Path("out/README.md").read_text(encoding="utf-8")
    text = TEXT[:BYTES].strip()
    for name, folder in {**models, "merge": Path("out")}.items():
        wanted = nats(folder, text) / math.log(2) / len(text.encode())
        assert check["bits_per_byte"]["X"][name] == pytest.approx(wanted, abs=2e-4)
    assert set(check["bits_per_byte"]) == {"X", "English"}
    assert TEXT.startswith(check["prompt"] + " " + check["answer"])
    assert report["warnings"] == []
    row = next(line for line in card.splitlines() if line.startswith("| X |"))
    assert row.split(" | ")[-1] == f"{check['bits_per_byte']['X']['merge']:.3f} |"
    assert check["answer"] in card
    assert check["answer"] in shown.out


def test_a_merge_that_writes_nonsense_warns(models: dict, capsys: pytest.CaptureFixture) -> None:
    assert merge("task-arithmetic", "--lam", "200", "--check", "x.txt") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "probably broken" in line]
    assert [line.split(": ")[2] for line in warned] == ["X", "English"]
    assert "probably broken" in Path("out/README.md").read_text(encoding="utf-8")


def test_the_margin_is_of_the_worst_parent() -> None:
    bits = {"base": 9.0, "ct": 1.0, "sft": 2.0, "merge": 2.0 * (1 + MARGIN)}
    assert complaint_about("X", bits, ["ct", "sft"]) == ""
    assert "3.000 bits per byte" in complaint_about("X", bits | {"merge": 3.0}, ["ct", "sft"])


def test_auto_takes_the_text_held_out_by_a_parents_run(models: dict, tmp_path: Path) -> None:
    assert texts_for("auto", [models["ct"]]) == {"English": ENGLISH.encode()[:BYTES].decode().strip()}
    (tmp_path / "corpus").mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in ("the cat", "é" * 999)]
    (tmp_path / "corpus" / "heldout_x.jsonl").write_text("".join(lines), encoding="utf-8")
    found = texts_for("auto", ["org/name", models["ct"]])["X"]
    assert found.startswith("the cat\né")
    assert BYTES - 1 <= len(found.encode()) <= BYTES


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_text_that_cannot_be_read_is_refused_before_the_merge(content, models: dict, capsys) -> None:
    if content is not None:
        Path("bad.txt").write_bytes(content)
    assert merge("average", "--check", "bad.txt") == 2
    assert "--check bad.txt" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_merge_that_cannot_be_used_is_not_written(models: dict, capsys: pytest.CaptureFixture) -> None:
    """Weights near the end of float32 merge without complaint, and predict no number."""
    weights = load_file(models["ct"] / "model.safetensors")
    weights["model.norm.weight"][:] = 3e38
    save_file(weights, models["ct"] / "model.safetensors", metadata={"format": "pt"})
    assert merge("average", "--check", "x.txt") == 2
    assert "no number" in capsys.readouterr().err
    assert not Path("out").exists()
    from lrnb.merging.whole_models import merge_checkpoints

    def refuse(folder: Path) -> dict:
        assert (folder / "model.safetensors").is_file()
        raise UserError("not good enough")

    with pytest.raises(UserError, match="not good enough"):
        merge_checkpoints("average", "base", {"sft": "sft"}, "out", check=refuse)
    assert not Path("out").exists()
