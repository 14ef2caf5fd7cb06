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
from lrnb.study.progress import Progress
from lrnb.training.pretraining import TrainingRecipe, Watch, load_model, save_model


class PromptWeighted(SFTTrainer):
    """An SFTTrainer whose loss is the weighted mean over tokens: answers 1, prompts `loss_weights` < 1."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights = inputs["loss_weights"][:, 1:]
        logits, targets = counted_logits(model, inputs)
        nll = functional.cross_entropy(logits.float(), targets, reduction="none")
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (nll * weights[weights > 0]).sum() / total
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """The sum of weights over the micro-batches of a step, so that accumulating them changes nothing."""
        return torch.stack([batch["loss_weights"][:, 1:].sum() for batch in batch_samples]).sum().to(device)

    def _get_train_sampler(self, train_dataset: Any = None) -> StepOrder:
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]  # type: ignore[index]
        return StepOrder(lengths, _examples_a_step(self.args), self.args.seed)


def counted_logits(model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, targets) at the N tokens that count in the loss: (N, vocabulary) and (N,).

    The output layer runs there only: with a large vocabulary and answers of a few tokens it is most of
    the work otherwise.
    """
    ids, counted = inputs["input_ids"], inputs["loss_weights"][:, 1:] > 0
    bare = getattr(model, "module", model)
    out = bare.base_model(ids, attention_mask=inputs["attention_mask"], use_cache=False)
    logits = bare.get_output_embeddings()(out.last_hidden_state[:, :-1][counted])
    cap = getattr(bare.config, "final_logit_softcapping", None)
    return (cap * torch.tanh(logits / cap) if cap else logits), ids[:, 1:][counted]


class StepOrder(torch.utils.data.Sampler):
    """A shuffle for each epoch, then by length inside each step of `batch`: micro-batches pad little.

    Seed and epoch alone decide it, so training that is resumed goes on in the same order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer when an epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self)).tolist()
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
    model, tokenizer = load_model(parent)
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
    trainer = PromptWeighted(
        model,
        arguments,
        data_collator=Collator(pad, prompt_weight),
        train_dataset=datasets.Dataset.from_list(list(examples)),
        processing_class=tokenizer,
    )
    prepared: Any = trainer.train_dataset.map(_ended_once, fn_kwargs={"end": tokenizer.eos_token_id})  # type: ignore[union-attr]
    short = trainer.train_dataset = prepared.filter(lambda row: len(row["input_ids"]) <= max_len)
    if not len(short):
        raise UserError(f"no SFT example fits sft_max_len {max_len} tokens; raise it or check sft_mix")
    facts = {"examples": len(short), "too_long": len(prepared) - len(short)}
    return _run(trainer, tokenizer, parent, out, epochs, name) | facts


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
    return arguments.train_batch_size * arguments.gradient_accumulation_steps


def _run(trainer: Any, tokenizer: Any, parent: Path, out: Path, epochs: int, name: str) -> dict[str, Any]:
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    steps = math.ceil(len(trainer.train_dataset) / _examples_a_step(trainer.args)) * epochs
    with Progress(name, tokens * epochs) as progress:
        trainer.add_callback(Watch(progress, tokens * epochs // max(steps, 1)))
        result = trainer.train()
    save_model(trainer.model, tokenizer, out, parent)
    return {"steps": result.global_step, "tokens": tokens * epochs, "loss": result.training_loss}
