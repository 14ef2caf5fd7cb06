"""The cache of scores: a rerun scores what changed and nothing else, and gives the same tables."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.pico import pico_tokenizer, save_pico, sharp
from support.pico_tasks import load_tasks

from lrnb.scoring import cache as scorecache
from lrnb.scoring import evaluate
from lrnb.scoring.open_model import device_and_precision
from lrnb.scoring.scorer import Scorer
from lrnb.study.parameters import ROOT


@pytest.fixture
def models(tmp_path) -> dict[str, Path]:
    return {f"m{seed}": save_pico(tmp_path / f"m{seed}", seed=seed) for seed in range(2)}


@pytest.fixture
def scored(monkeypatch) -> list[tuple[str, ...]]:
    """The tasks that models are really asked, one entry a call."""
    calls, real = [], evaluate.score_one

    def counted(judge, tasks):
        calls.append(tuple(tasks))
        return real(judge, tasks)

    monkeypatch.setattr(evaluate, "score_one", counted)
    return calls


def same(first: tuple, second: tuple) -> None:
    for a, b in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_a_rerun_scores_nothing_and_gives_the_same(root, tmp_path, models, scored):
    cache, done = tmp_path / "cache", []
    plain = evaluate.score_models(models, load_tasks(root))
    first = evaluate.score_models(models, load_tasks(root), cache=cache)
    scored.clear()
    again = evaluate.score_models(models, load_tasks(root), cache=cache, progress=done.append)
    assert scored == []
    assert sum(done) == len(again[1])
    same(first, again)
    same(plain, first)
    assert not list(cache.glob("*.tmp"))


def test_a_changed_task_rescores_just_it(root, tmp_path, models, scored):
    cache = tmp_path / "cache"
    evaluate.score_models(models, load_tasks(root), cache=cache)
    scored.clear()
    path = root / "eval" / "choice" / "bn" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["text"] = "the dog likes the river"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = evaluate.score_models(models, load_tasks(root), cache=cache)
    assert scored == [("choice",), ("choice",)]
    same(changed, evaluate.score_models(models, load_tasks(root)))


@pytest.mark.parametrize("options", [{"normalisation": "token"}, {"seed": 1}, {"limit": 7}])
def test_other_ways_of_asking_are_other_entries(root, tmp_path, models, scored, options):
    cache = tmp_path / "cache"
    evaluate.score_models(models, load_tasks(root), cache=cache)
    scored.clear()
    evaluate.score_models({"m0": models["m0"]}, load_tasks(root, **options), cache=cache)
    assert len(scored) == 1


def test_changed_weights_are_scored_again(root, tmp_path, models, scored):
    cache = tmp_path / "cache"
    evaluate.score_models(models, load_tasks(root), cache=cache)
    scored.clear()
    save_pico(models["m1"], seed=5)
    evaluate.score_models(models, load_tasks(root), cache=cache)
    assert scored == [("label", "choice")]


@pytest.mark.parametrize("name", ["tokenizer.json", "pytorch_model.bin", "spiece.model", "added_tokens.json"])
def test_every_file_that_a_model_is_read_from_counts(tmp_path, models, name):
    before = scorecache.model_hash(models["m0"])
    with (models["m0"] / name).open("a") as file:
        file.write(" ")
    assert scorecache.model_hash(models["m0"]) != before


def test_what_is_written_about_a_model_does_not_count(models):
    before = scorecache.model_hash(models["m0"])
    for name in ("manifest.json", "README.md", ".lock"):
        (models["m0"] / name).write_text("about it")
    assert scorecache.model_hash(models["m0"]) == before


def test_weights_in_a_bin_file_are_scored_again(root, tmp_path, models, scored):
    import torch
    from safetensors.torch import load_file

    for path in models.values():
        torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
    task = load_tasks(root, names=("label",))
    found = [
        evaluate.score_models({"m": folder}, task, cache=tmp_path / "cache")[1] for folder in models.values()
    ]
    assert len(scored) == 2
    assert found[0]["loglikelihoods"].tolist() != found[1]["loglikelihoods"].tolist()


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"max_length": 40}])
def test_another_way_of_scoring_is_another_entry(root, tmp_path, models, scored, options):
    task, one = load_tasks(root, names=("label",), limit=4), {"m0": models["m0"]}
    evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu")
    other = evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu", **options)
    assert len(scored) == 2
    same(other, evaluate.score_models(one, task, device="cpu", **options))


def test_auto_is_float32_on_the_cpu_and_bfloat16_on_a_gpu(root, tmp_path, models, scored, monkeypatch):
    task, one = load_tasks(root, names=("label",), limit=4), {"m0": models["m0"]}
    for options in ({}, {"precision": "auto"}, {"precision": "fp32"}):
        evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu", **options)
    assert len(scored) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_and_precision("auto", "auto") == ("cuda", "bf16")
    assert device_and_precision("auto", "fp32") == ("cuda", "fp32")
    assert device_and_precision("cpu", "auto") == ("cpu", "fp32")


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_bfloat16_answers_as_float32_where_the_options_are_apart(root, tmp_path, kind):
    """Log-likelihoods to a part in 50; a different answer only where two options are as near as that."""
    sharp(kind).save_pretrained(tmp_path / "m")
    pico_tokenizer().save_pretrained(tmp_path / "m")
    fine, coarse = (
        evaluate.score_models({"m": tmp_path / "m"}, load_tasks(root), device="cpu", precision=precision)[1]
        for precision in ("fp32", "bf16")
    )
    a, b = (np.concatenate(items["loglikelihoods"].to_list()) for items in (fine, coarse))
    assert 0 < np.abs((a - b) / a).max() < 0.05
    assert (fine["prediction"] == coarse["prediction"]).mean() > 0.9


def test_another_device_is_another_entry(root, tmp_path, models, scored, monkeypatch):
    task, one = load_tasks(root, names=("label",), limit=4), {"m0": models["m0"]}
    evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu")
    monkeypatch.setattr(evaluate, "device_name", lambda asked: "a GPU")
    evaluate.score_models(one, task, cache=tmp_path / "cache")
    assert len(scored) == 2


def test_a_corrected_answer_is_scored_again(root, tmp_path, models, scored):
    """The requests stay the same: only what counts as right changes."""
    one, path = {"m0": models["m0"]}, root / "eval" / "label" / "bn" / "test.jsonl"
    first = evaluate.score_models(one, load_tasks(root, names=("label",)), cache=tmp_path / "cache")[1]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["label"] = next(label for label in ("red", "blue", "house") if label != rows[3]["label"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = evaluate.score_models(one, load_tasks(root, names=("label",)), cache=tmp_path / "cache")[1]
    assert len(scored) == 2
    assert (first["gold"] != again["gold"]).tolist() == [i == 3 for i in range(len(first))]


MAKES_A_SCORE = """scoring/scorer scoring/open_model tasks/harness
tasks/written_answers training/bits_per_byte"""


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    """A copy of the package's files that `code_hash` reads in place of the package's own."""
    folder = Path(shutil.copytree(ROOT / "lrnb", tmp_path / "lrnb"))
    monkeypatch.setattr(scorecache, "__file__", str(folder / "scoring" / "cache.py"))
    yield folder
    scorecache.code_hash.cache_clear()


def key_now() -> str:
    scorecache.code_hash.cache_clear()
    return scorecache.ScoreCache(Path("unused"), {}).key("model", "task")


@pytest.mark.parametrize("name", MAKES_A_SCORE.split())
def test_changed_code_is_another_key(code, name):
    before = key_now()
    assert key_now() == before
    with (code / f"{name}.py").open("a") as file:
        file.write("\n# changed\n")
    assert key_now() != before


def test_a_new_module_is_another_key_and_a_new_task_file_is_not(code):
    before = key_now()
    (code / "tasks" / "files" / "mine.yaml").write_text("task: mine\n")
    assert key_now() == before  # what a task asks, and how it is judged, is in the key of the task
    (code / "tasks" / "mine.py").write_text("")
    assert key_now() != before


def test_a_changed_rule_for_written_answers_is_another_key(code):
    before, path = key_now(), code / "tasks" / "written_answers.py"
    text = path.read_text()
    path.write_text(text.replace('found[-1 if rule == "last" else 0]', "found[0]"))
    assert path.read_text() != text
    assert key_now() != before


@pytest.mark.parametrize("name", ["lm-eval", "tokenizers", "torch", "transformers"])
def test_another_library_is_another_key(code, name, monkeypatch):
    before, real = key_now(), metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: "0" if asked == name else real(asked))
    assert key_now() != before


def test_a_broken_entry_counts_as_absent(root, tmp_path, models, scored):
    cache = tmp_path / "cache"
    first = evaluate.score_models({"m0": models["m0"]}, load_tasks(root), cache=cache)
    scored.clear()
    entry = sorted(cache.glob("*.parquet"))[0]
    entry.write_bytes(entry.read_bytes()[:100])
    same(first, evaluate.score_models({"m0": models["m0"]}, load_tasks(root), cache=cache))
    assert len(scored) == 1


def test_examples_before_items_are_the_same_with_and_without_cache(root, models):
    train = root / "eval" / "label" / "bn" / "train.jsonl"
    train.write_text((root / "eval" / "label" / "en" / "test.jsonl").read_text())

    def load():
        return load_tasks(root, names=("label",), limit=6, shots=2)

    judge = Scorer.from_folder(models["m0"])
    plain, task = evaluate.score_one(judge, load()), load()
    scorecache.task_hash(task["label"])
    pd.testing.assert_frame_equal(plain, evaluate.score_one(judge, task))


def test_bits_per_byte_are_kept_too_and_equal_the_plain_ones(tmp_path, models, monkeypatch):
    from lrnb.training.bits_per_byte import bits_per_byte

    texts = {"bn": ["the cat sees the dog", "a dog likes two"], "en": ["the river in the house"]}
    given, done = {label: evaluate.ScoredModel(folder, "ct", 4) for label, folder in models.items()}, []
    first = evaluate.text_bits(given, texts, cache=tmp_path / "cache", progress=done.append)
    judge = Scorer.from_folder(models["m1"])
    plain = bits_per_byte(judge.model, judge.tokenizer, texts["bn"])
    row = first[(first["model"] == "m1") & (first["lang"] == "bn")].iloc[0]
    assert row["bits_per_byte"] == pytest.approx(plain)
    assert (row["bytes"], sum(done), list(first.columns)) == (35, 6, evaluate.BITS_COLUMNS)
    monkeypatch.setattr(evaluate, "bits_per_byte", lambda *_: 1 / 0)
    pd.testing.assert_frame_equal(first, evaluate.text_bits(given, texts, cache=tmp_path / "cache"))
