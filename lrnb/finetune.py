"""Supervised fine-tuning on English tasks with TRL: loss on answers, prompt tokens at a chosen weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from trl import SFTConfig, SFTTrainer

from lrnb.params import UserError
from lrnb.progress import Progress
from lrnb.train import Recipe, Watch, load, save


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


def step_order(lengths: Sequence[int], batch: int, seed: int) -> list[int]:
    """A seeded shuffle, then by length inside each step of `batch`: micro-batches pad little."""
    order = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    steps = (order[first : first + batch] for first in range(0, len(order), batch))
    return [index for step in steps for index in sorted(step, key=lambda i: lengths[i])]


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
    recipe: Recipe,
    epochs: int,
    prompt_weight: float,
    max_len: int,
    name: str = "sft",
) -> dict[str, Any]:
    """Fine-tune `parent` on prompt/completion `examples` (shuffled by the seed) and write it to `out`.

    Examples longer than `max_len` tokens are left out and counted. Returns steps, tokens and last loss.
    Raises UserError where nothing is left.
    """
    import datasets

    recipe.start()
    model, tokenizer = load(parent)
    _check_special(tokenizer, parent)
    arguments = recipe.arguments(
        SFTConfig,
        out.parent / "work",
        num_train_epochs=epochs,
        save_strategy="no",
        logging_steps=5,
        max_length=None,
        completion_only_loss=False,
        train_sampling_strategy="sequential",
    )
    trainer = PromptWeighted(
        model,
        arguments,
        data_collator=Collator(tokenizer.pad_token_id, prompt_weight),
        train_dataset=datasets.Dataset.from_list(list(examples)),
        processing_class=tokenizer,
    )
    prepared: Any = trainer.train_dataset
    short = prepared.filter(lambda row: len(row["input_ids"]) <= max_len)
    lengths = [len(ids) for ids in short["input_ids"]]
    dropped = len(prepared) - len(short)
    trainer.train_dataset = short.select(step_order(lengths, recipe.batch, recipe.seed))
    if not len(short):
        raise UserError(f"no SFT example fits sft_max_len {max_len} tokens; raise it or check sft_mix")
    return _run(trainer, tokenizer, parent, out, epochs, name) | {
        "examples": len(short),
        "too_long": dropped,
    }


def _check_special(tokenizer: Any, parent: Path) -> None:
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise UserError(
            f"{parent}: the tokenizer has no end or padding token; set both in tokenizer_config.json"
        )


def _run(trainer: Any, tokenizer: Any, parent: Path, out: Path, epochs: int, name: str) -> dict[str, Any]:
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    a_step = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    steps = -(-len(trainer.train_dataset) // a_step) * epochs
    with Progress(name, tokens * epochs) as progress:
        trainer.add_callback(Watch(progress, tokens * epochs // max(steps, 1)))
        result = trainer.train()
    save(trainer.model, tokenizer, out, parent)
    return {"steps": result.global_step, "tokens": tokens * epochs, "loss": result.training_loss}
