"""Training in several processes, one a device: how many there are, which one writes, how they wait.

torchrun tells a process its place by environment variables; without them it is the only one.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import PartialState

from lrnb.training.adapters import dense_state


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes the files: resume points, models, history."""
    return int(os.environ.get("RANK", "0")) == 0


def join(on_cpu: bool) -> None:
    """Meet the other processes: by gloo on CPUs, by NCCL on GPUs. Nothing where there is one."""
    if world() > 1:
        PartialState(cpu=on_cpu)


def wait() -> None:
    """Return when all processes are here."""
    if world() > 1:
        torch.distributed.barrier()


def whole_state(trainer: Any) -> dict[str, Any] | None:
    """All weights in the first process, None in the others; to be called in every one.

    None for a model that lies whole in each and has no LoRA: it has them.
    """
    if not getattr(trainer, "is_fsdp_enabled", False):
        return dense_state(trainer.model)
    state = trainer.accelerator.get_state_dict(trainer.model)
    tied = trainer.model.all_tied_weights_keys  # told by the tensors themselves where they lie whole
    return {name: tensor for name, tensor in state.items() if name not in tied} if is_first() else None


def mean_of_all(trainer: Any, value: float) -> float:
    """The mean of what every process gives."""
    if world() == 1:
        return value
    given = torch.tensor([value], dtype=torch.float64, device=trainer.args.device)
    return float(trainer.accelerator.gather(given).mean())
