"""The cache of scores: a rerun scores what changed and nothing else, and gives the same tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import save_pico
from test_evaluate import load_tasks, root  # noqa: F401 (a fixture)

from lrnb import environment, evaluate, scorecache
from lrnb.scorer import Scorer


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


def test_a_rerun_scores_nothing_and_gives_the_same(root, tmp_path, models, scored):  # noqa: F811
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


def test_a_changed_task_rescores_just_it(root, tmp_path, models, scored):  # noqa: F811
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
def test_other_ways_of_asking_are_other_entries(root, tmp_path, models, scored, options):  # noqa: F811
    cache = tmp_path / "cache"
    evaluate.score_models(models, load_tasks(root), cache=cache)
    scored.clear()
    evaluate.score_models({"m0": models["m0"]}, load_tasks(root, **options), cache=cache)
    assert len(scored) == 1


def test_changed_weights_are_scored_again(root, tmp_path, models, scored):  # noqa: F811
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


def test_weights_in_a_bin_file_are_scored_again(root, tmp_path, models, scored):  # noqa: F811
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
def test_another_way_of_scoring_is_another_entry(root, tmp_path, models, scored, options):  # noqa: F811
    task, one = load_tasks(root, names=("label",), limit=4), {"m0": models["m0"]}
    evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu")
    other = evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu", **options)
    assert len(scored) == 2
    same(other, evaluate.score_models(one, task, device="cpu", **options))


def test_another_device_is_another_entry(root, tmp_path, models, scored, monkeypatch):  # noqa: F811
    task, one = load_tasks(root, names=("label",), limit=4), {"m0": models["m0"]}
    evaluate.score_models(one, task, cache=tmp_path / "cache", device="cpu")
    monkeypatch.setattr(evaluate, "device_name", lambda: "a GPU")
    evaluate.score_models(one, task, cache=tmp_path / "cache")
    assert len(scored) == 2


def test_a_corrected_answer_is_scored_again(root, tmp_path, models, scored):  # noqa: F811
    """The requests stay the same: only what counts as right changes."""
    one, path = {"m0": models["m0"]}, root / "eval" / "label" / "bn" / "test.jsonl"
    first = evaluate.score_models(one, load_tasks(root, names=("label",)), cache=tmp_path / "cache")[1]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["label"] = next(label for label in ("red", "blue", "house") if label != rows[3]["label"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = evaluate.score_models(one, load_tasks(root, names=("label",)), cache=tmp_path / "cache")[1]
    assert len(scored) == 2
    assert (first["gold"] != again["gold"]).tolist() == [i == 3 for i in range(len(first))]


MAKES_A_SCORE = "scorer tree weights generate harness harnesstask numerals bpb"


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    """A copy of the package's files that `code_hash` reads in place of the package's own."""
    folder = Path(shutil.copytree(Path(scorecache.__file__).parent, tmp_path / "code"))
    monkeypatch.setattr(scorecache, "__file__", str(folder / "scorecache.py"))
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


@pytest.mark.parametrize("name", ["lm-eval", "tokenizers", "torch", "transformers"])
def test_another_library_is_another_key(code, name, monkeypatch):
    before, real = key_now(), environment.version
    monkeypatch.setattr(environment, "version", lambda asked: "0" if asked == name else real(asked))
    assert key_now() != before


def test_a_broken_entry_counts_as_absent(root, tmp_path, models, scored):  # noqa: F811
    cache = tmp_path / "cache"
    first = evaluate.score_models({"m0": models["m0"]}, load_tasks(root), cache=cache)
    scored.clear()
    entry = sorted(cache.glob("*.parquet"))[0]
    entry.write_bytes(entry.read_bytes()[:100])
    same(first, evaluate.score_models({"m0": models["m0"]}, load_tasks(root), cache=cache))
    assert len(scored) == 1


def test_examples_before_items_are_the_same_with_and_without_cache(root, models):  # noqa: F811
    train = root / "eval" / "label" / "bn" / "train.jsonl"
    train.write_text((root / "eval" / "label" / "en" / "test.jsonl").read_text())

    def load():
        return load_tasks(root, names=("label",), limit=6, shots=2)

    judge = Scorer.from_folder(models["m0"])
    plain, task = evaluate.score_one(judge, load()), load()
    scorecache.task_hash(task["label"])
    pd.testing.assert_frame_equal(plain, evaluate.score_one(judge, task))


def test_bits_per_byte_are_kept_too_and_equal_the_plain_ones(tmp_path, models, monkeypatch):
    from lrnb.bpb import bits_per_byte

    texts = {"bn": ["the cat sees the dog", "a dog likes two"], "en": ["the river in the house"]}
    given, done = {label: evaluate.Model(folder, "ct", 4) for label, folder in models.items()}, []
    first = evaluate.text_bits(given, texts, cache=tmp_path / "cache", progress=done.append)
    judge = Scorer.from_folder(models["m1"])
    plain = bits_per_byte(judge.model, judge.tokenizer, texts["bn"])
    row = first[(first["model"] == "m1") & (first["lang"] == "bn")].iloc[0]
    assert row["bits_per_byte"] == pytest.approx(plain)
    assert (row["bytes"], sum(done), list(first.columns)) == (35, 6, evaluate.BITS_COLUMNS)
    monkeypatch.setattr(evaluate, "bits_per_byte", lambda *_: 1 / 0)
    pd.testing.assert_frame_equal(first, evaluate.text_bits(given, texts, cache=tmp_path / "cache"))
