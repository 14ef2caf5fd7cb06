"""PEFT LoRA adapters as whole checkpoints: merged into their base in float32, kept in the cache folder.

Merging is peft's (https://huggingface.co/docs/peft); the cache is $LRNB_CACHE, ~/.cache/lrnb by default.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.openable import (
    openable,
    plain_config,
    quiet_transformers,
    refuse_absurd,
    refuse_partial,
    without_values,
)
from lrnb.checkpoints.reading import (
    EMBEDDINGS,
    SAFETENSORS,
    Checkpoint,
    Layout,
    check_finite,
    open_checkpoint,
    read_json,
    read_tensors,
)
from lrnb.checkpoints.small_files import CONFIG, GENERATION, PROCESSORS, TEMPLATES, TOKENIZER, small_files
from lrnb.checkpoints.torch_bin import BIN
from lrnb.checkpoints.writing import write_checkpoint
from lrnb.errors import UserError
from lrnb.study.files import LARGER_CACHE, TERMS, default_cache, digest, lock, need_space, sha256

ADAPTER = "adapter_config.json"
LORA = tuple(
    Layout(f"adapter_model.{end}", f"adapter_model.{end}.index.json", f"adapter_model*.{end}", layout.read)
    for end, layout in (("safetensors", SAFETENSORS), ("bin", BIN))
)
REFUSALS = (
    ValueError, RuntimeError, LookupError, TypeError, AttributeError, OSError, ImportError, Warning,
)  # what transformers and peft raise where adapter and base do not fit  # fmt: skip
WHOLE_TABLE = (
    r"\.(embed_tokens|wte|lm_head)(\.modules_to_save(\.\w+)?|\.base_layer|\.original_module)?\.weight$"
)
DENSIFIER = 2  # raise it when densifying changes: folders made before are then made again


def open_adapter(folder: Path, ground: Checkpoint | None) -> Checkpoint:
    """The adapter merged into its base, from the cache where nothing changed since; `files` are its own."""
    _check_settings(folder)
    weights = _adapter_weights(folder)
    if ground is None:
        raise UserError(f"{folder}: a PEFT adapter, which needs the base it was trained from. Give base too")
    files = [folder / ADAPTER, *weights.files]
    out = default_cache() / "adapters" / f"{folder.resolve().name}-{_key(folder, files, ground)}"
    with lock(out):
        try:
            dense = open_checkpoint(out)
        except UserError:
            _densify(folder, weights, ground, out)
            dense = open_checkpoint(out)
    return Checkpoint(dense.folder, dense, dense.config, files)


def _check_settings(folder: Path) -> None:
    settings = read_json(folder / ADAPTER)
    kind, task = settings.get("peft_type"), settings.get("task_type")
    if kind != "LORA" or task not in (None, "CAUSAL_LM"):
        raise UserError(
            f"{folder / ADAPTER}: an adapter of type {kind} for {task}; only LoRA adapters of causal "
            "language models are merged. Merge it into its base with its own library and give that folder"
        )
    if settings.get("megatron_config"):  # peft would import the module that megatron_core names
        raise UserError(f"{folder / ADAPTER}: megatron_config names code to import. Remove it from the file")


def _adapter_weights(folder: Path) -> Checkpoint:
    """The adapter's own tensors, safetensors before .bin, validated."""
    for layout in LORA:
        if any(folder.glob(layout.pattern)):
            tensors, files = read_tensors(folder, layout)
            check_finite(str(folder), tensors)
            return Checkpoint(folder, tensors, {}, files)
    raise UserError(f"{folder}: has {ADAPTER}, but no {LORA[0].single}. Copy the adapter's weights too")


def _key(folder: Path, files: list[Path], ground: Checkpoint) -> str:
    """16 hex digits that change with every file that the densified folder is made from."""
    given = {"adapter": [*files, *_texts(folder)], "base": [*ground.files, *_texts(ground.folder)]}
    facts: dict[str, Any] = {
        side: {path.name: sha256(path) for path in paths} for side, paths in given.items()
    }
    facts |= {"densifier": DENSIFIER, "peft": version("peft")}
    return digest(facts)[:16]


def _texts(folder: Path) -> list[Path]:
    names = (CONFIG, GENERATION, *TERMS, *TOKENIZER, *PROCESSORS, f"{TEMPLATES}/*.jinja")
    return [path for name in names for path in folder.glob(name) if path.is_file()]


def _densify(folder: Path, weights: Checkpoint, ground: Checkpoint, out: Path) -> None:
    """Write base + adapter, in float32, under the base's names and with its config."""
    need_space(out.parent, 4 * sum(x.size for x in ground.values()), LARGER_CACHE)
    tensors = _merged(folder, weights, ground, out.parent)
    own = folder if any(folder.glob("tokenizer*")) else None
    files = small_files(ground.folder, ground.folder, "float32", own)
    if rows := _table_rows(weights):
        files = files.with_rows(max(rows))
    write_checkpoint(out, tensors, like=files)


def _table_rows(weights: Checkpoint) -> set[int]:
    """The rows of the whole tables of embeddings and head that an adapter holds."""
    return {len(x) for name, x in weights.items() if re.search(WHOLE_TABLE, name)}


def _merged(folder: Path, weights: Checkpoint, ground: Checkpoint, scratch: Path) -> dict[str, np.ndarray]:
    """The base's tensors with the adapter added by peft, in float32; scratch: for temporary files."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            _check_config(ground)
            read: Any = AutoModelForCausalLM.from_pretrained(
                ground.folder, config=plain_config(ground.folder), dtype=torch.float32,
                output_loading_info=True, trust_remote_code=False, local_files_only=True,
            )  # fmt: skip
            model, found = read
            _check_modules(folder, weights, ground, model)
            if rows := _table_rows(weights) - {model.get_input_embeddings().num_embeddings}:
                model.resize_token_embeddings(max(rows), mean_resizing=False)  # the adapter has all of them
            warnings.filterwarnings("error", message=".*Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
            _check_all_used(folder, weights, adapted)
            whole = adapted.merge_and_unload(safe_merge=True)
            return _as_in_files(ground, whole, found, scratch)
    except REFUSALS as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(
            f"{folder}: cannot be merged into {ground.folder} ({reason}). Give the base it was trained from"
        ) from None


def _check_config(ground: Checkpoint) -> None:
    """UserError where config.json describes another model than the tensors: it may be one of any size."""
    shapes = {name: tensor.shape for name, tensor in ground.items()}
    refuse_absurd(ground.folder, ground.config, shapes)
    with openable(ground.folder):
        model, facts = without_values(ground.folder, shapes)
    refuse_partial(ground.folder, set(model.state_dict()), facts)


def _check_all_used(folder: Path, weights: Checkpoint, adapted: Any) -> None:
    """UserError for a tensor of the adapter that its adapter_config.json leaves no place for."""
    from peft import get_peft_model_state_dict

    used = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    left = sorted(name for name in set(weights) - set(used) if not re.search(WHOLE_TABLE, name))
    if left:
        raise UserError(
            f"{folder}: {left[0]!r} ({len(left)} such tensors) belongs to no module that {ADAPTER} names, so "
            "it would be left out. Give the adapter_config.json that was saved with these weights"
        )


def _as_in_files(ground: Checkpoint, model: Any, found: Any, scratch: Path) -> dict[str, np.ndarray]:
    """The model's weights under the names of the base's files, as transformers would save them.

    A mixture of experts lies in one tensor a layer once it is open, and in one an expert in the files.
    """
    state = model.state_dict()
    if not set(ground) - set(state) - set(found["unexpected_keys"]):
        _check_names(ground, state, found)
        return {name: state[name].numpy() if name in state else ground[name] for name in ground}
    need_space(scratch, 8 * sum(x.size for x in ground.values()), LARGER_CACHE)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".saved-") as place:
        model.save_pretrained(place)
        saved = dict(open_checkpoint(place))  # mapped, so that they outlive their files
    stored = set(ground) - set(found["unexpected_keys"]) - set(ground.aliases)
    if odd := stored ^ set(saved):
        raise _not_found(ground, odd)
    return {name: saved.get(ground.aliases.get(name, name), ground[name]) for name in ground}


def _not_found(ground: Checkpoint, odd: set[str]) -> UserError:
    once = f"M.from_pretrained('{ground.folder}', dtype='auto').save_pretrained('NEW')"
    return UserError(
        f"{ground.folder}: {min(odd)!r} is not as transformers {version('transformers')} names it, so no "
        'adapter is merged into it. Open and save it once: python -c "from transformers import '
        f'AutoModelForCausalLM as M; {once}", copy its tokenizer files, and give NEW as the base'
    )


def _check_modules(folder: Path, weights: Checkpoint, ground: Checkpoint, model: Any) -> None:
    """UserError where the adapter changes a module that the base lacks, or one of two tied modules."""
    modules = dict(model.named_modules())
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    shared = read_json(folder / ADAPTER).get("ensure_weight_tying", False)
    for name in weights:
        stem, *inner = re.split(
            r"\.(?=lora_|modules_to_save|original_module|base_layer|token_adapter)", name, maxsplit=1
        )
        module = (stem if inner else stem.rpartition(".")[0]).removeprefix("base_model.model.")
        if module not in modules:
            raise UserError(
                f"{folder}: changes the module {module!r}, which {ground.folder} does not have. "
                "Give the base it was trained from"
            )
        if not ground.tied or not any(modules[module] is x for x in tables):
            continue
        embeddings = [x for n, x in ground.items() if n.endswith(EMBEDDINGS)]
        if inner or not (shared or any(np.array_equal(weights[name], x) for x in embeddings)):
            raise UserError(
                f"{folder}: changes {module!r}, which is tied to the other embeddings in {ground.folder}: "
                "merged, it would change both. Use an adapter without it, or untie the base and train anew"
            )


def _check_names(ground: Checkpoint, state: dict[str, Any], found: dict[str, Any]) -> None:
    """UserError where transformers read the base otherwise than its files say."""
    homes = {state[name].data_ptr() for name in ground if name in state}
    odd = set(found["missing_keys"]) | (set(ground) - set(state) - set(found["unexpected_keys"]))
    odd |= {name for name in set(state) - set(ground) if state[name].data_ptr() not in homes}
    if odd:
        raise _not_found(ground, odd)
