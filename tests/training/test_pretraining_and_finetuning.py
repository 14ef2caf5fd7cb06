"""Training: no leaks between packed documents, exact resume, budgets, weights on prompt tokens."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.pico import pico_model, pico_tokenizer, save_pico, sharp
from trl import SFTConfig

from lrnb.data import packing
from lrnb.errors import UserError
from lrnb.study import files, stages
from lrnb.study.progress import Progress
from lrnb.training import bits_per_byte, finetuning, pretraining

RECIPE = pretraining.TrainingRecipe(lr=1e-2, batch=4, device="cpu")


def rows_of(documents: list[list[int]], seq_len: int = 16) -> list[dict]:
    return [{"input_ids": ids, "position_ids": pos} for ids, pos in packing.pack(documents, seq_len)]


def random_documents(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(4, 29, rng.integers(3, 30)).tolist(), 2] for _ in range(count)]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "packed.arrow"
    packing.write_packed(packing.pack(random_documents(200), 16), path, 10_000)
    return path


def pretrain(base: Path, packed: Path, out: Path, **changes) -> list[dict]:
    settings = {
        "budgets": [64 * 5, 64 * 12],
        "recipe": RECIPE,
        "save_tokens": 64 * 2,
        "heldout": {},
    }
    settings["heldout"] = {"x": ["the cat sees the dog"], "en": ["a red house"]}
    return pretraining.continual_pretrain(
        base, packed, out, **{**settings, "fingerprint": {"a": 1}, **changes}
    )


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_packed_document_does_not_see_its_neighbours(kind: str) -> None:
    model = pico_model(kind).eval()
    first, changed, second = [1, 5, 6, 7, 8, 9], [1, 15, 16, 17, 18, 19], [1, 10, 11, 12, 13, 2]
    logits = []
    for neighbour in (first, changed):
        batch = pretraining.collate_packed(rows_of([neighbour, second, [1, 5, 6, 2]]))
        batch.pop("labels")
        logits.append(model(**batch).logits[0])
    torch.testing.assert_close(logits[0][6:], logits[1][6:], rtol=0, atol=1e-6)
    assert not torch.allclose(logits[0][:6], logits[1][:6])


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_packed_document_scores_as_it_does_alone(kind: str) -> None:
    model = pico_model(kind).eval()
    second = [1, 10, 11, 12, 13, 14, 15, 2]
    batch = pretraining.collate_packed(rows_of([[1, 5, 6, 7, 8, 9, 3, 2], second]))
    batch.pop("labels")
    alone = model(torch.tensor([second])).logits[0]
    torch.testing.assert_close(model(**batch).logits[0, 8:], alone, rtol=0, atol=1e-5)


def test_an_attention_mask_of_ones_would_leak_and_is_not_given() -> None:
    batch = pretraining.collate_packed(rows_of([[1, 5, 6, 7, 8, 9, 3, 2], [1, 10, 11, 12, 13, 14, 15, 2]]))
    assert "attention_mask" not in batch
    model = pico_model().eval()
    labels = batch.pop("labels")
    apart = model(**batch).logits
    leaking = model(**batch, attention_mask=torch.ones_like(labels)).logits
    assert not torch.allclose(apart[0, 8:], leaking[0, 8:])


def test_the_first_token_of_a_document_is_never_a_target() -> None:
    labels = pretraining.collate_packed(rows_of([[1, 5, 2], [1, 6, 7, 8, 9, 10, 2], [1, 4, 4, 4, 4, 2]]))[
        "labels"
    ]
    assert (labels[0] == -100).nonzero().flatten().tolist() == [0, 3, 10]


def test_budgets_lie_on_one_trajectory(
    pico_llama: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (pico_llama / "NOTICE").write_text("terms of use")
    history = pretrain(pico_llama, packed, tmp_path / "ct")
    pretrain(pico_llama, packed, tmp_path / "short", budgets=[64 * 5])
    long, short = (load_file(tmp_path / run / "320" / "model.safetensors") for run in ("ct", "short"))
    assert all(np.array_equal(long[name], short[name]) for name in long)
    assert [row["tokens"] for row in history if "bits_per_byte_x" in row] == [0, 320, 768]
    assert (tmp_path / "ct" / "768" / "tokenizer.json").is_file()
    assert (tmp_path / "ct" / "768" / "NOTICE").read_text() == "terms of use"
    assert capsys.readouterr().out == ""


def test_a_budget_is_rounded_up_to_whole_steps_and_keeps_its_name(pico_llama, packed, tmp_path) -> None:
    history = pretrain(pico_llama, packed, tmp_path / "ct", budgets=[64 * 5 - 3])
    assert [row["tokens"] for row in history if "bits_per_byte_x" in row] == [0, 320]
    assert (tmp_path / "ct" / "317" / "model.safetensors").is_file()


def _pretrain_and_die(base: Path, packed: Path, out: Path) -> None:
    original = pretraining.Watch.on_step_end

    def slow(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        time.sleep(0.05)

    pretraining.Watch.on_step_end, pretraining.LOGS = slow, 2
    pretrain(base, packed, out)


def test_resume_after_kill_ends_with_the_same_weights_and_losses(
    pico_llama: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "LOGS", 2)  # seldomer than resume points
    pretrain(pico_llama, packed, tmp_path / "whole")
    out = tmp_path / "killed"
    child = multiprocessing.get_context("spawn").Process(
        target=_pretrain_and_die, args=(pico_llama, packed, out)
    )
    child.start()
    deadline = time.time() + 120
    while not (out / "work" / "checkpoint-8" / "complete").exists() and time.time() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not (out / "768").exists()
    (out / "work" / "checkpoint-99").mkdir()  # what a kill in the middle of saving leaves
    history = pretrain(pico_llama, packed, out)
    for budget in ("320", "768"):
        whole, resumed = (load_file(d / budget / "model.safetensors") for d in (tmp_path / "whole", out))
        assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    assert [row["tokens"] for row in history if "bits_per_byte_x" in row] == [0, 320, 768]
    assert [row["tokens"] for row in history if "loss" in row] == [64 * n for n in (2, 4, 5, 6, 8, 10, 12)]
    assert (out / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()


def test_an_interrupted_stage_keeps_older_larger_checkpoints_and_goes_on(
    pico_llama: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = {"budgets": [64 * 5], "fingerprint": {"a": 2}, "recipe": replace(RECIPE, lr=1e-3)}
    pretrain(pico_llama, packed, tmp_path / "whole", **smaller)

    def train(**changes) -> None:
        with stages.Stage(tmp_path / "ct", "ct", {}, resumes=True) as stage:
            pretrain(pico_llama, packed, stage.draft, **changes)

    def interrupted(self, args, state, control, **kwargs) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt

    train()
    before = files.hashes(tmp_path / "ct")
    assert "768/model.safetensors" in before
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretraining.Watch, "on_step_end", interrupted)
        train(**smaller)
    assert stages.read_manifest(tmp_path / "ct")["outputs"] == before == files.hashes(tmp_path / "ct")
    train(**smaller)  # from the resume point after two steps
    assert files.hashes(tmp_path / "ct" / "320") == files.hashes(tmp_path / "whole" / "320")
    assert not (tmp_path / "ct" / "768").exists() and not (tmp_path / "ct" / "work").exists()


def test_other_parameters_start_afresh(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert pretraining.resume_point(work, {"lr": 1}) is None
    (work / "checkpoint-2").mkdir()
    (work / "checkpoint-2" / "complete").touch()
    assert pretraining.resume_point(work, {"lr": 1}) == str(work / "checkpoint-2")
    assert pretraining.resume_point(work, {"lr": 2}) is None and not (work / "checkpoint-2").exists()


def test_a_budget_above_the_corpus_is_refused(pico_llama: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"ct_budgets: 6,400,000 tokens are asked for, the packed corpus holds"
    ):
        pretrain(pico_llama, packed, tmp_path / "ct", budgets=[6_400_000])
    assert not (tmp_path / "ct").exists()


def test_bits_per_byte_of_a_uniform_model_is_known(tmp_path: Path) -> None:
    model = pico_model()
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    measured = bits_per_byte.bits_per_byte(model, pico_tokenizer(), ["the cat sees"])
    assert measured == pytest.approx(3 * 6 / 12)  # three words of log2(64) bits over twelve bytes
    tokenizer = pico_tokenizer()
    tokenizer.bos_token = None
    measured = bits_per_byte.bits_per_byte(model, tokenizer, ["the cat sees"])
    assert measured == pytest.approx(2 * 6 / 9)  # nothing predicts the first word: its bytes do not count


def test_every_window_of_a_text_begins_with_the_start_token() -> None:
    model, tokenizer = sharp("llama"), pico_tokenizer()
    text = "the cat sees a dog the red house"
    words = text.split()
    parts = [" ".join(words[k : k + 3]) for k in range(0, len(words), 3)]
    alone = sum(bits_per_byte.bits_per_byte(model, tokenizer, [part]) * len(part) for part in parts)
    found = bits_per_byte.bits_per_byte(model, tokenizer, [text], window=3)
    assert found == pytest.approx(alone / len(text))
    assert found != pytest.approx(bits_per_byte.bits_per_byte(model, tokenizer, [text]))
    tokenizer.bos_token = None  # then a window goes on from the last token of the one before
    whole = tokenizer(text)["input_ids"]
    pairs = torch.tensor([whole[:-1], whole[1:]]).T
    logits = model(pairs[:, :1]).logits[:, 0]
    expected = -torch.nn.functional.cross_entropy(logits, pairs[:, 1], reduction="sum").item()
    assert bits_per_byte.log_likelihood(model, tokenizer, text, window=1) == pytest.approx(expected)


EXAMPLES = [{"prompt": "the cat sees", "completion": f" {n} {n}"} for n in range(10)] * 4


def fine_tune(parent: Path, out: Path, weight: float = 0.0, **changes) -> dict:
    recipe = pretraining.TrainingRecipe(
        **{"lr": 1e-2, "batch": 8, "device": "cpu", "schedule": "cosine", **changes}
    )
    return finetuning.fine_tune(
        parent, EXAMPLES, out, recipe=recipe, epochs=1, prompt_weight=weight, max_len=32
    )


def test_tokenizing_says_how_far_it_is_without_a_terminal_and_changes_nothing(
    pico_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, stages_told = [], []
    train, write = finetuning.PromptWeighted.train, Progress.write

    def trained(own):
        tables.append(own.train_dataset.to_list())
        return train(own)

    def written(own, *rate):
        write(own, *rate)
        stages_told.append(json.loads(told.read_text()) if told.exists() else {})

    monkeypatch.setattr(finetuning.PromptWeighted, "train", trained)
    monkeypatch.delenv("LRNB_PROGRESS", raising=False)
    fine_tune(pico_llama, tmp_path / "plain")
    monkeypatch.setattr(Progress, "write", written)
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    fine_tune(pico_llama, tmp_path / "told")
    assert tables[0] == tables[1] and len(tables[0]) == 40
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "told")]
    assert weights[0] == weights[1]
    ended = {state["stage"]: (state["done"], state["total"], state["unit"]) for state in stages_told}
    assert ended["tokenizing train dataset"] == (40, 40, "examples")
    assert [*ended][-1] == "sft" and all(state["rate"] >= 0 for state in stages_told)


def test_fine_tuning_writes_a_model_and_its_facts(pico_llama: Path, tmp_path: Path) -> None:
    facts = fine_tune(pico_llama, tmp_path / "sft")
    assert facts["steps"] == 5 and facts["examples"] == 40 and facts["too_long"] == 0
    before, after = (load_file(d / "model.safetensors") for d in (pico_llama, tmp_path / "sft"))
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_prompt_weight_is_the_weight_of_prompt_tokens(tmp_path: Path) -> None:
    rows = [
        {"input_ids": [1, 4, 5, 6, 2], "completion_mask": [0, 0, 0, 1, 1]},
        {"input_ids": [1, 7], "completion_mask": [0, 1]},
    ]
    batch = finetuning.Collator(pad=0, prompt_weight=0.25)(rows)
    assert batch["loss_weights"].tolist() == [[0.25, 0.25, 0.25, 1, 1], [0.25, 1, 0, 0, 0]]
    model = pico_model()
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), batch["input_ids"][:, 1:], reduction="none"
    )
    weights = batch["loss_weights"][:, 1:]
    loss = finetuning.PromptWeighted.compute_loss(None, finetuning.calls_counted(model), batch)
    torch.testing.assert_close(loss, (nll * weights).sum() / weights.sum())


def test_accumulating_micro_batches_changes_nothing(pico_llama: Path, tmp_path: Path) -> None:
    fine_tune(pico_llama, tmp_path / "whole", weight=0.3)
    fine_tune(pico_llama, tmp_path / "parts", weight=0.3, micro_batch=2)
    whole, parts = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], rtol=0, atol=2e-4)


def test_steps_keep_their_examples_and_micro_batches_are_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 40).tolist()
    order = list(finetuning.StepOrder(lengths, batch=16, seed=3))
    plain = np.random.default_rng(3).permutation(40).tolist()
    assert sorted(order) == list(range(40))
    for first in range(0, 40, 16):
        step = order[first : first + 16]
        assert set(step) == set(plain[first : first + 16])
        assert [lengths[i] for i in step] == sorted(lengths[i] for i in step)


def test_every_epoch_has_a_shuffle_of_its_own_by_the_seed() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 40).tolist()

    def orders(seed: int) -> list[list[int]]:
        sampler, found = finetuning.StepOrder(lengths, batch=16, seed=seed), []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            found.append(list(sampler))
        return found

    assert len({tuple(order) for order in [*orders(3), *orders(4)]}) == 6
    assert orders(3) == orders(3)


class Seen:
    """The ids of the examples of every step, as the collator was given them."""

    def __init__(self, pad: int) -> None:
        self.plain, self.ids = finetuning.Collator(pad, 0.3), []

    def __call__(self, rows: list[dict]) -> dict:
        self.ids.append([row["input_ids"] for row in rows])
        return self.plain(rows)


def trainer_of(parent: Path, work: Path) -> tuple[finetuning.PromptWeighted, Seen]:
    """Three epochs of 10 steps, a resume point at every fourth step."""
    RECIPE.start()
    model, tokenizer = pretraining.load_model(parent)
    arguments = RECIPE.arguments(
        SFTConfig, work, num_train_epochs=3, save_steps=4, max_length=None, completion_only_loss=False
    )
    seen = Seen(tokenizer.pad_token_id)
    rows = [{**row, "prompt": "the cat" + " dog" * (i % 7)} for i, row in enumerate(EXAMPLES)]
    given = {"train_dataset": datasets.Dataset.from_list(rows), "processing_class": tokenizer}
    return finetuning.PromptWeighted(model, arguments, data_collator=seen, **given), seen


def test_fine_tuning_shuffles_anew_and_resumes_to_the_same_bytes(pico_llama: Path, tmp_path: Path) -> None:
    whole, seen = trainer_of(pico_llama, tmp_path / "work")
    whole.train()
    epochs = [seen.ids[first : first + 10] for first in (0, 10, 20)]
    assert len({str(epoch) for epoch in epochs}) == 3
    assert len({str(sorted(ids for step in epoch for ids in step)) for epoch in epochs}) == 1
    again, rest = trainer_of(pico_llama, tmp_path / "work")
    again.train(resume_from_checkpoint=str(tmp_path / "work" / "checkpoint-16"))  # amid the second epoch
    assert rest.ids[-14:] == seen.ids[16:]
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_example_that_fits_is_refused(pico_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no SFT example fits sft_max_len 2"):
        finetuning.fine_tune(
            pico_llama,
            EXAMPLES,
            tmp_path / "sft",
            recipe=RECIPE,
            epochs=1,
            prompt_weight=0,
            max_len=2,
        )
    assert not (tmp_path / "sft").exists()


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        pretraining.TrainingRecipe(lr=1, batch=1, device="cuda").on_cpu()


def test_several_visible_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretraining.TrainingArguments, "n_gpu", 2)
    with pytest.raises(UserError, match="2 GPUs are visible and one is used"):
        RECIPE.arguments(pretraining.TrainingArguments, tmp_path)


def test_the_cosine_ends_where_it_is_told(tmp_path: Path) -> None:
    for min_lr, end in ((0, 1e-4), (5e-4, 5e-4)):
        recipe = pretraining.TrainingRecipe(lr=1e-3, batch=4, schedule="cosine", min_lr=min_lr, device="cpu")
        arguments = recipe.arguments(pretraining.TrainingArguments, tmp_path, max_steps=10)
        trainer = pretraining.Trainer(pico_model(), arguments)
        trainer.create_optimizer_and_scheduler(10)
        for _ in range(10):
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(end)


def test_sft_may_stop_before_its_cosine_ends(pico_llama: Path, tmp_path: Path, monkeypatch) -> None:
    rates: list[float] = []

    def note(self, args, state, control, lr_scheduler=None, **kwargs) -> None:
        rates.extend(lr_scheduler.get_last_lr()[:1])

    monkeypatch.setattr(pretraining.Watch, "on_step_end", note)
    fine_tune(pico_llama, tmp_path / "short", horizon=10)  # five steps are taken
    middle = 1e-3 + (1e-2 - 1e-3) / 2
    assert len(rates) == 5 and rates[-1] == pytest.approx(middle)
    fine_tune(pico_llama, tmp_path / "whole")
    assert rates[-1] == pytest.approx(1e-3)
    with pytest.raises(UserError, match="sft_horizon 4: 5 steps are taken"):
        fine_tune(pico_llama, tmp_path / "less", horizon=4)


def test_lora_is_trained_resumed_and_written_dense(
    pico_llama: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = replace(RECIPE, adapter="lora", lora_rank=2, lora_modules=("q_proj", "up_proj"))
    pretrain(pico_llama, packed, tmp_path / "ct", recipe=lora)
    before, after = (load_file(d / "model.safetensors") for d in (pico_llama, tmp_path / "ct" / "768"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        step = after[name] - weight
        trained = name.endswith(("q_proj.weight", "up_proj.weight"))
        assert np.abs(step).max() > 1e-3 if trained else not step.any()
        assert not trained or np.linalg.matrix_rank(step, tol=1e-4) == 2
    shutil.rmtree(tmp_path / "ct" / "work" / "checkpoint-12")
    shutil.rmtree(tmp_path / "ct" / "768")
    pretrain(pico_llama, packed, tmp_path / "ct", recipe=lora)
    assert all(
        np.array_equal(after[k], v) for k, v in load_file(tmp_path / "ct/768/model.safetensors").items()
    )
    fine_tune(pico_llama, tmp_path / "sft", adapter="lora", lora_rank=2)
    tuned = load_file(tmp_path / "sft" / "model.safetensors")
    moved = {name for name, weight in before.items() if not np.array_equal(tuned[name], weight)}
    assert moved == {name for name in before if name.endswith("_proj.weight")}


def test_lora_of_layers_that_are_not_there_is_refused(pico_llama: Path) -> None:
    lora = replace(RECIPE, adapter="lora", lora_modules=("query",))
    with pytest.raises(UserError, match=r"lora_modules \['query'\]: no such layer .*q_proj"):
        lora.load(pico_llama)
    with pytest.raises(UserError, match="lora goes with sharding=none"):
        replace(lora, sharding="full").load(pico_llama)


def test_training_from_scratch_lowers_the_loss(packed: Path, tmp_path: Path) -> None:
    recipe = pretraining.TrainingRecipe(lr=1e-2, batch=4, schedule="cosine", device="cpu")
    model, tokenizer = pico_model(), pico_tokenizer()
    text = ["the cat sees the dog in the red house"]
    before = bits_per_byte.bits_per_byte(model, tokenizer, text)
    pretraining.train_scratch(model, tokenizer, packed, tmp_path / "base", recipe=recipe, tokens=64 * 30)
    assert bits_per_byte.bits_per_byte(pretraining.load_model(tmp_path / "base")[0], tokenizer, text) < before
    assert json.loads((tmp_path / "base" / "config.json").read_text())["model_type"] == "llama"
    shutil.rmtree(tmp_path / "base")
    assert save_pico(tmp_path / "base").is_dir()
