"""FSDP2: parameters, gradients and Adam's moments cut over the devices, by accelerate and PyTorch.

Weights stay float32 and gradients are summed in float32; in bf16 the arithmetic alone is rounded. Resume
points are sharded too (torch.distributed.checkpoint): every process writes and reads its own part.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

FULL: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
    },
}  # of TrainingArguments


class Sharding(Trainer):
    """A Trainer that shards where its arguments say so, in processes on CPUs too."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if not self.args.fsdp:
            return
        state = self.accelerator.state
        if state.distributed_type == DistributedType.MULTI_CPU:  # accelerate shards on GPUs alone
            state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True
        if self.args.bf16:
            policy: Any = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            state.fsdp_plugin.mixed_precision_policy = policy
