"""Opening a checkpoint folder for scoring, and exchanging the weights of an open model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from lrnb.checkpoints.openable import openable, quiet_transformers, refuse_partial
from lrnb.errors import UserError
from lrnb.study.environment import resolved_device

_log = logging.getLogger(__name__)
SAVED_BY = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def device_and_precision(device: str, precision: str) -> tuple[str, str]:
    """(`resolved_device`, fp32 or bf16) with `auto` resolved: bf16 on a GPU of NVIDIA alone."""
    found = resolved_device(device)
    if precision == "auto":
        precision = "bf16" if found == "cuda" else "fp32"
    return found, precision


def open_model(folder: str | Path, device: str, precision: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder, without network or remote code; see `device_and_precision`.

    UserError where transformers cannot open it, and where a weight is missing or has no place in the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_folder(Path(folder))
    device, precision = device_and_precision(device, precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers(), openable(folder):
        opened: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True,
            ignore_mismatched_sizes=True, **local
        )  # fmt: skip  # what does not match is refused below, by name
        model, facts = opened
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
    if odd := refuse_partial(folder, set(model.state_dict()), facts):
        _log.warning(
            "%s: %d weights have no place in the model and are not used, %r first", folder, len(odd), odd[0]
        )
    return model.to(device), tokenizer


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no checkpoint folder (no config.json); give one that is")


def copy_state(model: Any, state: Mapping[str, Any]) -> None:
    """Replaces a model's weights in place. state: name -> numpy array or tensor.

    Names that are absent must be tied to one that is there. Raises UserError for a name that the
    model does not have, a weight that would be left unset, and for a wrong shape; after the last
    the model is unusable.
    """
    own = live_state(model, state)
    with torch.no_grad():
        for name in state:
            _copy(own, name, state[name])


def live_state(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """The model's own tensors of these names: what is written there, the model computes with.

    UserError for a name that the model does not have, or a weight that none of the names covers.
    """
    own, names = model.state_dict(), list(names)
    if unknown := [name for name in names if name not in own]:
        raise UserError(f"the model has no weight {unknown[0]!r}; give weights of the same architecture")
    done = {own[name].data_ptr() for name in names}
    if unset := [name for name in own if own[name].data_ptr() not in done]:
        raise UserError(f"weights lack {unset[0]!r} ({len(unset)} in all); give every tensor")
    return {name: own[name] for name in names}


def _copy(own: dict[str, Any], name: str, value: Any) -> None:
    if not torch.is_tensor(value):
        value = torch.from_numpy(np.asarray(value).astype(np.float32))  # numpy's bfloat16 is foreign
    if value.shape != own[name].shape:
        shapes = f"{tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
        raise UserError(f"weight {name!r} is {shapes}; give weights of the same architecture")
    own[name].copy_(value)


def exchange_key(folder: Path) -> tuple[str, str]:
    """Architecture and tokenizer of a folder: equal for models whose weights can be exchanged."""
    _check_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in SAVED_BY}
    tokenizer = folder / "tokenizer.json"
    words = tokenizer.read_bytes() if tokenizer.is_file() else str(folder).encode()
    return json.dumps(kept, sort_keys=True), hashlib.sha256(words).hexdigest()


def read_weights(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no .safetensors file; convert the checkpoint first")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
