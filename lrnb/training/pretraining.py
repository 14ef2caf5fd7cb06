"""Training: the base from scratch, continual pre-training to token budgets, fine-tuning on English tasks.

Everything goes through transformers' Trainer or TRL's SFTTrainer; here stands only what the study adds:
token budgets on one trajectory, packed rows without leaks, a weight on prompt tokens, exact resume.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from lrnb.errors import UserError
from lrnb.study.environment import keep_freed_memory, resolved_device
from lrnb.study.files import atomic_folder, copy_terms, make_folder, write_text
from lrnb.study.parameters import batch_shares, budget_name, whole_steps
from lrnb.study.progress import Progress
from lrnb.training.adapters import with_lora
from lrnb.training.bits_per_byte import bits_per_byte
from lrnb.training.launching import on_devices
from lrnb.training.processes import is_first, join, wait, whole_state, world
from lrnb.training.sharding import FULL, Sharding
from lrnb.training.watching import log_places, refuse_missing_extras

COMPLETE = "complete"  # written into a resume point when all of it is on disk
IN_ORDER = "sequential"  # the Trainer's word: a token budget means the same rows always
HISTORY = ["tokens", "loss", "learning_rate", "bits_per_byte_x", "bits_per_byte_en"]


OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_torch_8bit"}  # in transformers
LOGS = 100  # of the loss in a training, beside those at budgets and resume points


@dataclass(frozen=True)
class TrainingRecipe:
    """How to take steps. `batch` sequences a step over all devices, `micro_batch` of them at once on one.

    micro_batch 0: a device's whole share of the batch.
    """

    lr: float
    batch: int
    schedule: str = "constant"  # constant | cosine
    min_lr: float = 0  # where the cosine ends; 0: a tenth of lr
    micro_batch: int = 0
    precision: str = "fp32"
    _: KW_ONLY
    device: str = "auto"
    seed: int = 0
    threads: int = 1
    devices: int | str = 1  # processes on a node, one a device; auto: as many as there are GPUs
    nodes: int = 1
    sharding: str = "none"  # none: every device has all weights (DDP) | full: each has a part (FSDP2)
    activation_checkpointing: bool = False  # layers are computed again in the backward pass, not kept
    optimizer: str = "adamw"  # adamw | adamw_8bit: moments in 8 bits
    log_to: str = "none"  # none | tensorboard | wandb
    log_dir: str = ""  # the folder for it, whose last two names are the run's
    adapter: str = "none"  # none: all weights are trained | lora
    lora_rank: int = 64
    lora_modules: tuple[str, ...] = ()  # names of linear layers; none: all but the head
    horizon: int = 0  # steps of SFT's cosine, of which the first are taken; 0: those taken

    def arguments(self, cls: type[TrainingArguments], folder: Path, **more: Any) -> Any:
        """TrainingArguments (or SFTConfig) for this recipe."""
        refuse_missing_extras(self.optimizer, self.log_to)
        micro, accumulated = self.shares(world())
        cosine = {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": self.min_lr or self.lr / 10},
        }
        schedule = cosine if self.schedule == "cosine" else {"lr_scheduler_type": "constant"}
        arguments = cls(
            output_dir=str(folder),
            learning_rate=self.lr,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulated,
            bf16=self.precision == "bf16",
            optim=OPTIMIZERS[self.optimizer],
            use_cpu=self.on_cpu(),
            seed=self.seed,
            data_seed=self.seed,
            report_to=[] if self.log_to == "none" else [self.log_to],
            run_name="/".join(Path(self.log_dir).parts[-2:]) or None,
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
            activation_checkpointing=self.activation_checkpointing,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            **schedule,
            **(FULL if self.sharding == "full" and world() > 1 else {}),
            **more,
        )
        if arguments.n_gpu > 1:
            raise UserError(
                f"{arguments.n_gpu} GPUs are visible and one is used: give --set devices=auto to train on "
                "all of them, or set CUDA_VISIBLE_DEVICES to one"
            )
        return arguments

    def count(self) -> int:
        """How many processes train on a node."""
        if self.devices != "auto":
            return int(self.devices)
        return 1 if self.on_cpu() else max(1, torch.cuda.device_count())

    def shares(self, devices: int) -> tuple[int, int]:
        """`batch_shares` of this recipe."""
        return batch_shares(self.batch, self.micro_batch, devices)

    def load(self, folder: Path) -> tuple[Any, Any]:
        """`load_model`, with an adapter where it is asked for. UserError with sharding, which has none."""
        model, tokenizer = load_model(folder)
        if self.adapter == "none":
            return model, tokenizer
        if self.sharding == "full":
            raise UserError("adapter lora goes with sharding=none: its gradients and moments are small")
        return with_lora(model, self.lora_rank, self.lora_modules), tokenizer

    def on_cpu(self) -> bool:
        """Whether training runs on the CPU; UserError where a GPU is asked for and there is none."""
        return resolved_device(self.device) == "cpu"

    def start(self) -> None:
        """Seed, thread count, quiet libraries, processes that met: the same start for every training run."""
        keep_freed_memory()
        join(self.on_cpu())
        os.environ |= log_places(self.log_dir)
        transformers_logging.set_verbosity_error()
        datasets.disable_progress_bars()
        torch.set_num_threads(self.threads)
        set_seed(self.seed)


def silenced(trainer: Trainer) -> Trainer:
    """The trainer without the lines that it prints at every log; the bar and history.csv say the same."""
    trainer.remove_callback(PrinterCallback)
    return trainer


def load_model(folder: Path) -> tuple[Any, Any]:
    """(model in float32 with SDPA attention, tokenizer) of a Hugging Face folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return model, AutoTokenizer.from_pretrained(folder)


def save_model(
    model: Any, tokenizer: Any, folder: Path, parent: Path | None = None, state: dict[str, Any] | None = None
) -> None:
    """Write a complete Hugging Face folder, all of it or nothing, with the parent's terms of use.

    state: the weights, where the model itself has only a part of them.
    """
    with atomic_folder(folder) as temporary:
        if parent is not None:
            copy_terms(parent, temporary)
        model.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)


def save_trained(trainer: Trainer, tokenizer: Any, folder: Path, parent: Path | None = None) -> None:
    """`save_model` of what a trainer trains, by the first process; the others wait."""
    state = whole_state(trainer)
    if is_first():
        save_model(trainer.model, tokenizer, folder, parent, state)
    wait()


def packed_rows(path: Path) -> Any:
    """The packed corpus as a memory-mapped `datasets.Dataset` of input_ids and position_ids."""
    return datasets.Dataset.from_file(str(path)).with_format("numpy")


def collate_packed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """(batch, seq_len) ids, positions and labels.

    No attention mask and no cache: either would silently switch the isolation of documents off.
    """
    ids = torch.stack([torch.as_tensor(row["input_ids"]).long() for row in rows])
    positions = torch.stack([torch.as_tensor(row["position_ids"]).long() for row in rows])
    labels = ids.masked_fill(positions == 0, -100)  # a document's first token has nothing to follow from
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "use_cache": False}


class Watch(TrainerCallback):
    """Progress in tokens; marks a resume point as complete once the Trainer has written all of it.

    At a resume point the loss is logged: it is a mean since the last log, of which a run that resumes there
    knows nothing.
    """

    def __init__(self, progress: Progress, step_tokens: int) -> None:
        self.progress, self.step_tokens = progress, step_tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(state.global_step * self.step_tokens - self.progress.done)
        control.should_log |= control.should_save

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wait()  # every process writes a part
        if is_first():
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, "")


class Budgets(TrainerCallback):
    """Writes the model whenever a token budget is reached, and logs bits per byte there and at the start."""

    def __init__(
        self, out: Path, base: Path, steps: dict[int, int], heldout: dict[str, list[str]], tokenizer: Any
    ) -> None:
        self.out, self.base, self.steps = out, base, steps
        self.heldout, self.tokenizer = heldout, tokenizer
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._measure(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            self._measure(model)
            control.should_log = True  # the log of bits per byte stands beside that of the loss
            folder = self.out / budget_name(self.steps[state.global_step])
            save_trained(self.trainer, self.tokenizer, folder, self.base)

    def _measure(self, model: Any) -> None:
        logs = {
            f"bits_per_byte_{k}": bits_per_byte(model, self.tokenizer, v)
            for k, v in self.heldout.items()
            if v
        }
        if logs:
            self.trainer.log(logs)


def train_scratch(
    model: Any, tokenizer: Any, packed: Path, out: Path, *, recipe: TrainingRecipe, tokens: int
) -> None:
    """Train `model` from its random start on `tokens` packed tokens and write it to `out`."""
    recipe.start()
    rows = packed_rows(packed)
    step_tokens = recipe.batch * len(rows[0]["input_ids"])
    steps = _enough(tokens // step_tokens, len(rows) // recipe.batch, step_tokens, "base_tokens")
    options = {"max_steps": steps, "save_strategy": "no", "train_sampling_strategy": IN_ORDER}
    arguments = recipe.arguments(TrainingArguments, out.parent / "work", **options)
    with Progress("base", steps * step_tokens) as progress:
        trainer = Trainer(model, arguments, collate_packed, rows, callbacks=[Watch(progress, step_tokens)])
        silenced(trainer).train()
    save_model(model, tokenizer, out)


@on_devices
def continual_pretrain(
    base: Path,
    packed: Path,
    out: Path,
    *,
    budgets: Sequence[int],
    recipe: TrainingRecipe,
    save_tokens: int,
    heldout: dict[str, list[str]],
    fingerprint: dict[str, Any],
) -> list[dict[str, Any]]:
    """Continue training `base` on packed rows; one folder `out/<budget>` for each token budget.

    A budget is rounded up to whole steps. Killed at any moment and called again with the same
    `fingerprint`, it goes on from the last complete resume point in `out/work` and ends with the same
    weights; with another fingerprint it starts afresh. Returns the history, also in `out/history.csv`.
    """
    recipe.start()
    rows = packed_rows(packed)
    step_tokens = recipe.batch * len(rows[0]["input_ids"])
    steps = {whole_steps(budget, step_tokens): budget for budget in budgets}
    last = _enough(max(steps), len(rows) // recipe.batch, step_tokens, "ct_budgets")
    if len(steps) < len(budgets):
        raise UserError(
            f"ct_budgets {list(budgets)}: a step is {step_tokens:,} tokens; budgets must differ by one step"
        )
    model, tokenizer = recipe.load(base)
    work = out / "work"
    if is_first():
        point = resume_point(work, fingerprint)
        for stale in (path for path in out.iterdir() if path.is_dir() and path != work and point is None):
            shutil.rmtree(stale)
    wait()
    arguments = recipe.arguments(
        TrainingArguments,
        work,
        max_steps=last,
        train_sampling_strategy=IN_ORDER,
        logging_steps=max(1, last // LOGS),
        save_steps=max(1, save_tokens // step_tokens),
        save_total_limit=2,
    )
    with Progress("ct", last * step_tokens) as progress:
        budget_saver = Budgets(out, base, steps, heldout, tokenizer)
        watch = Watch(progress, step_tokens)
        trainer = Sharding(model, arguments, collate_packed, rows, callbacks=[watch, budget_saver])
        budget_saver.trainer = trainer
        silenced(trainer).train(resume_from_checkpoint=newest_point(work))
    history = [{"tokens": row["step"] * step_tokens, **row} for row in trainer.state.log_history]
    if is_first():
        write_history(out / "history.csv", history)
    return history


def _enough(wanted: int, available: int, step_tokens: int, name: str) -> int:
    if wanted > available:
        raise UserError(
            f"{name}: {wanted * step_tokens:,} tokens are asked for, the packed corpus holds "
            f"{available * step_tokens:,}. Lower {name} or add text"
        )
    return wanted


def resume_point(work: Path, fingerprint: dict[str, Any]) -> str | None:
    """`newest_point` of a work folder that holds nothing else; one of other parameters is emptied."""
    note = work / "fingerprint.json"
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    if not note.is_file() or note.read_text(encoding="utf-8") != text:
        shutil.rmtree(work, ignore_errors=True)
        write_text(note, text)
    for stale in set(work.glob("checkpoint-*")) - set(_complete(work)):
        shutil.rmtree(stale)
    return newest_point(make_folder(work))


def newest_point(work: Path) -> str | None:
    """The newest complete checkpoint in a work folder."""
    newest = max(_complete(work), key=lambda path: int(path.name.split("-")[1]), default=None)
    return str(newest) if newest else None


def _complete(work: Path) -> list[Path]:
    return [path.parent for path in work.glob(f"checkpoint-*/{COMPLETE}")]


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """The training log as CSV: tokens, loss (nats a token), learning rate, bits per byte."""
    rows = [row for row in history if "loss" in row or "bits_per_byte_x" in row]
    write_text(path, pd.DataFrame(rows, columns=HISTORY).to_csv(index=False))
