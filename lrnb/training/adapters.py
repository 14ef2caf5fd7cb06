"""LoRA in place of whole weights, as people with one GPU train; models are written dense, to be merged.

W + s B A for each linear layer W (out, in), with A (rank, in) and B (out, rank) trained, the rest frozen, and
s = 2 (alpha is twice the rank). Source: Hu et al. 2021, arXiv 2106.09685; layers by peft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from lrnb.errors import UserError

SCALE, NAME = 2, "default"


def with_lora(model: Any, rank: int, modules: Sequence[str] = ()) -> Any:
    """`model` with LoRA on the linear layers whose names end in one of `modules` (none: all but the head).

    Everything else is frozen. UserError where no layer has such a name.
    """
    targets: Any = list(modules) or "all-linear"
    config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=targets, lora_dropout=0.0)
    try:
        return inject_adapter_in_model(config, model)
    except ValueError as error:
        linear = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)})
        raise UserError(
            f"lora_modules {list(modules)}: no such layer ({str(error).splitlines()[0]}); linear layers are "
            f"{', '.join(linear)}"
        ) from None


def dense_state(model: Any) -> dict[str, Any] | None:
    """The weights with LoRA added, under the names that they have without it; None where there is no LoRA."""
    layers: dict[str, Any] = {
        name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)
    }
    if not layers:
        return None
    state = {k: v for k, v in model.state_dict().items() if ".lora_" not in k}
    for name, layer in layers.items():
        weight = f"{name}.base_layer.weight"
        state[weight] = state[weight] + layer.get_delta_weight(NAME).to(state[weight].dtype)
    return {name.replace(".base_layer.", "."): tensor.detach() for name, tensor in state.items()}


def _is_linear(part: Any) -> bool:
    return type(part).__name__ == "Linear"
