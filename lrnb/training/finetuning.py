"""Supervised fine-tuning on English tasks with TRL: loss on answers, prompt tokens at a chosen weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn import functional
from trl import SFTConfig, SFTTrainer

from lrnb.errors import UserError
from lrnb.study.library_bars import told_for_libraries
from lrnb.study.progress import Progress
from lrnb.training.launching import on_devices
from lrnb.training.pretraining import TrainingRecipe, Watch, save_trained, silenced
from lrnb.training.processes import mean_of_all, world
from lrnb.training.sharding import Sharding


class PromptWeighted(Sharding, SFTTrainer):
    """An SFTTrainer whose loss is the weighted mean over tokens: answers 1, prompts `loss_weights` < 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        calls_counted(self.model)
        self.horizon = 0  # steps of the schedule; 0: those that are taken

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        return super().create_scheduler(self.horizon or num_training_steps, optimizer)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights = inputs["loss_weights"][:, 1:]
        logits, targets = model(**inputs)
        nll = functional.cross_entropy(logits.float(), targets, reduction="none")
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch / world()
        loss = (nll * weights[weights > 0]).sum() / total  # gradients are averaged over the processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """The sum of weights over all micro-batches of a step, so that neither how they are accumulated nor
        how many devices share them changes anything.
        """
        here = torch.stack([batch["loss_weights"][:, 1:].sum() for batch in batch_samples]).sum().to(device)
        return here if world() == 1 else self.accelerator.gather(here).sum()

    def _get_train_sampler(self, train_dataset: Any = None) -> StepOrder:
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]  # type: ignore[index]
        return StepOrder(lengths, _examples_a_step(self.args), self.args.seed, world())


def calls_counted(model: Any) -> Any:
    """`model`, whose call gives its `counted_logits`: what wraps it for several devices sees the call."""
    model.forward = lambda **inputs: counted_logits(model, inputs)
    return model


def counted_logits(model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, targets) at the N tokens that count in the loss: (N, vocabulary) and (N,).

    The output layer runs there only: with a large vocabulary and answers of a few tokens it is most of
    the work otherwise.
    """
    ids, counted = inputs["input_ids"], inputs["loss_weights"][:, 1:] > 0
    out = model.base_model(ids, attention_mask=inputs["attention_mask"], use_cache=False)
    logits = model.get_output_embeddings()(out.last_hidden_state[:, :-1][counted])
    cap = getattr(model.config, "final_logit_softcapping", None)
    return (cap * torch.tanh(logits / cap) if cap else logits), ids[:, 1:][counted]


class StepOrder(torch.utils.data.Sampler):
    """A shuffle for each epoch, then by length inside each step of `batch`: micro-batches pad little.

    Seed and epoch alone decide it, so training that is resumed goes on in the same order. `devices`, where
    there are several, must have as many micro-batches each: rows without a target, which is what the last
    row is then, fill up the last step of an epoch.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, devices: int = 1) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0
        self.rows = len(lengths) - (devices > 1)
        self.fill = [self.rows] * (-self.rows % batch) if devices > 1 else []

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer when an epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows + len(self.fill)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows).tolist() + self.fill
        for first in range(0, len(order), self.batch):
            yield from sorted(order[first : first + self.batch], key=self.lengths.__getitem__)


class Collator:
    """Pads token rows to (batch, longest) on the right and gives each token its weight in the loss."""

    def __init__(self, pad: int, prompt_weight: float) -> None:
        self.pad, self.prompt_weight = pad, prompt_weight

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = self._stack([torch.tensor(row["input_ids"]) for row in rows], self.pad)
        mask = self._stack([torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], 0)
        answers = self._stack([torch.tensor(row["completion_mask"]) for row in rows], 0).float()
        weights = torch.where(answers > 0, 1.0, self.prompt_weight) * mask
        return {"input_ids": ids, "attention_mask": mask, "loss_weights": weights}

    @staticmethod
    def _stack(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


@on_devices
def fine_tune(
    parent: Path,
    examples: Sequence[dict[str, str]],
    out: Path,
    *,
    recipe: TrainingRecipe,
    epochs: int,
    prompt_weight: float,
    max_len: int,
    name: str = "sft",
) -> dict[str, Any]:
    """Fine-tune `parent` on prompt/completion `examples` (see `StepOrder`) and write it to `out`.

    Examples longer than `max_len` tokens are left out and counted. Returns steps, tokens and last loss.
    Raises UserError where nothing is left.
    """
    recipe.start()
    model, tokenizer = recipe.load(parent)
    pad = _padding(tokenizer, parent)
    arguments = recipe.arguments(
        SFTConfig,
        out.parent / "work",
        num_train_epochs=epochs,
        save_strategy="no",
        logging_steps=5,
        max_length=None,
        completion_only_loss=False,
    )
    with told_for_libraries():  # which tokenize
        trainer = PromptWeighted(
            model,
            arguments,
            data_collator=Collator(pad, prompt_weight),
            train_dataset=datasets.Dataset.from_list(list(examples)),
            processing_class=tokenizer,
        )
        given: Any = trainer.train_dataset
        prepared = given.map(_ended_once, fn_kwargs={"end": tokenizer.eos_token_id}, desc="ending answers")
        short = prepared.filter(lambda row: len(row["input_ids"]) <= max_len, desc="measuring examples")
    if not len(short):
        raise UserError(f"no SFT example fits sft_max_len {max_len} tokens; raise it or check sft_mix")
    tokens = epochs * sum(map(len, short["input_ids"]))
    trainer.train_dataset = short if world() == 1 else _with_filler(short, pad)
    facts = {"examples": len(short), "too_long": len(prepared) - len(short)}
    steps = epochs * math.ceil(len(short) / recipe.batch)
    trainer.horizon = _horizon(recipe.horizon, steps)
    with Progress(name, tokens) as progress:
        trainer.add_callback(Watch(progress, tokens // max(steps, 1)))
        result = silenced(trainer).train()
    save_trained(trainer, tokenizer, out, parent)
    loss = mean_of_all(trainer, result.training_loss)
    return {"steps": result.global_step, "tokens": tokens, "loss": loss} | facts


def _horizon(asked: int, steps: int) -> int:
    if 0 < asked < steps:
        raise UserError(
            f"sft_horizon {asked}: {steps} steps are taken, and the learning rate would rise again after it; "
            f"give {steps} or more, or 0"
        )
    return asked


def _with_filler(rows: Any, pad: int) -> Any:
    """The rows and, as `StepOrder` wants it, one of a single token, which nothing predicts."""
    filler = {"input_ids": [pad], "completion_mask": [0]}
    return datasets.Dataset.from_list([*rows.select_columns([*filler]).to_list(), filler])


def _padding(tokenizer: Any, parent: Path) -> int:
    """What fills rows up: any token does, as the loss leaves it out; UserError without an end token."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{parent}: the tokenizer has no end token, so answers would not end; set eos_token in its "
            "tokenizer_config.json"
        )
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _ended_once(row: dict[str, Any], end: int) -> dict[str, Any]:
    """TRL ends each answer; where the tokenizer does so too, the second end token goes."""
    double = row["input_ids"][-2:] == [end, end]
    return {key: row[key][:-1] if double else row[key] for key in ("input_ids", "completion_mask")}


def _examples_a_step(arguments: Any) -> int:
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * world()
