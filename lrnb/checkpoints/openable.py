"""What transformers makes of a folder: refused where it does not open it, or makes another model of it.

transformers fills weights that a folder lacks with random numbers, passes over those that it has no place
for, and believes every number of config.json.
"""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lrnb.checkpoints.configurations import left_to_defaults
from lrnb.checkpoints.quantised import SETTINGS
from lrnb.errors import UserError
from lrnb.study.files import json_object

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "n_embd", "num_attention_heads", "n_head")
WINDOW = "max_position_embeddings"
ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")
NUMBER = re.compile(r"\d+")
OTHER_SENSES = re.compile(r"image|audio|video|vision|soft_token|unused|reserved", re.IGNORECASE)
Shapes = Mapping[str, Sequence[int]]


def refuse_absurd(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Layers beyond the weights would be built for hours, or beyond all memory, before they are compared."""
    weights, tensors = sum(map(math.prod, shapes.values())), len(shapes)
    allowed = dict.fromkeys(LAYERS, tensors) | dict.fromkeys(SIZES, weights) | {WINDOW: sys.maxsize}
    for name, value in (dict(config) | (config.get("text_config") or {})).items():
        if not possible_number(value, allowed.get(name)):
            raise UserError(
                f"{folder / 'config.json'}: {name} is {value!r}, and the folder holds "
                f"{tensors:,} tensors of {weights:,} weights. Copy the model's own config.json again"
            )


def possible_number(value: Any, most: int | None) -> bool:
    """Whether a number is possible; some models have a list, a number a layer, which transformers checks."""
    left_alone = most is None or value is None or isinstance(value, list)
    return left_alone or (isinstance(value, int) and 1 <= value <= (most or 0))


def refuse_partial(folder: str | Path, names: Collection[str], facts: Mapping[str, Any]) -> list[str]:
    """The weights that have no place in a model; UserError where others are missing or do not fit.

    names: of the opened model's weights; facts: what transformers says of loading it.
    """
    if wrong := sorted(facts["mismatched_keys"]):
        name, there, wanted = wrong[0]
        raise UserError(
            f"{folder}: {name!r} is {tuple(there)}, and its config.json describes {tuple(wanted)} "
            f"({len(wrong)} weights in all). Copy the model's own config.json again"
        )
    if missing := sorted(facts["missing_keys"]):
        raise UserError(
            f"{folder}: its weights lack {missing[0]!r} ({len(missing)} in all) of the model that its "
            "config.json describes; they would be random. Give a whole causal language model"
        )
    shapes = {NUMBER.sub("#", name) for name in names}
    odd = sorted(facts["unexpected_keys"])
    if deeper := [name for name in odd if NUMBER.sub("#", name) in shapes]:
        raise UserError(
            f"{folder}: its config.json leaves no place for {deeper[0]!r} ({len(deeper)} weights in all). "
            "Copy the model's own config.json again"
        )
    return odd


@contextmanager
def openable(folder: str | Path, tried: str | Path = "") -> Iterator[None]:
    """UserError for whatever transformers raises about a folder that is wrong: it has no class for that.

    tried: the folder that it reads in the place of `folder`, which messages name.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error).replace(str(tried), str(folder)) if tried else str(error)
        lines = [line.strip() for line in text.strip().splitlines()] or [type(error).__name__]
        if "trust_remote_code" in text:
            raise UserError(
                f"{folder} needs code of its own, which is not run here; give a model that transformers knows"
            ) from None
        raise UserError(
            f"{folder}: transformers cannot open it ({type(error).__name__}: {' '.join(lines[:2])[:300]}). "
            "Compare its config.json and tokenizer files with the model's own; --debug shows where it failed"
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without bars, advice to programmers and warnings of transformers."""
    from transformers.utils import logging as log

    shown, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()


def try_opening(
    folder: Path, shapes: Shapes, home: str | Path, owner: str | Path, first: str = "base",
    others: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[str]:  # fmt: skip
    """Opens what lies beside the weights, and weights of these shapes without values; notes on what it found.

    shapes: {name: shape}, as the files have them. home and owner: how messages call the folders that
    configuration and tokenizer come from; first: the model of that configuration, which those of `others`
    ({label: {"config": its own}}) are compared with. No code of the folder runs. UserError where transformers
    does not open it, where a weight is missing, left over or of another shape, and for ids beyond the rows.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    refuse_absurd(Path(home), config, shapes)
    roles = {name: json_object(folder / name) for name in ("config.json", "generation_config.json")}
    with quiet_transformers():
        with openable(home, folder):
            model, facts = without_values(folder, shapes)
        odd = refuse_partial(home, set(model.state_dict()), facts)
        configs = {label: other["config"] for label, other in others.items()}
        unlike = left_to_defaults(first, config, configs, completed_config)
        notes = [f"{len(odd)} weights have no place in the model, {odd[0]!r} first"] if odd else []
        rows = len(model.get_input_embeddings().weight)
        with openable(owner, folder):
            ids = _ids(folder, owner)
    refuse_roles_beyond(owner, roles, rows)
    return unlike + notes + refuse_ids_beyond(owner, ids, rows)


def completed_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration as transformers completes it; as it is where transformers does not know the kind."""
    from transformers import AutoConfig

    kept = {key: value for key, value in config.items() if key not in ("model_type", *SETTINGS)}
    with suppress(Exception):  # whatever a wrong setting makes it raise: the one that is written is refused
        return AutoConfig.for_model(str(config["model_type"]), **kept).to_dict()
    return config


def plain_config(folder: Path) -> Any:
    """transformers' configuration of a folder whose weights are not quantised, or not any more."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.__dict__.pop("quantization_config", None)
    return config


def without_values(folder: Path, shapes: Shapes) -> tuple[Any, Mapping[str, Any]]:
    """The model as `AutoModelForCausalLM.from_pretrained` would load it, on the meta device; `weightless`."""
    from transformers import GenerationConfig

    kind, config = causal_kind(folder)
    if (folder / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(folder, local_files_only=True)
    return weightless(kind, config, shapes)


def causal_kind(folder: Path) -> tuple[Any, Any]:
    """(class, configuration) of what `AutoModelForCausalLM.from_pretrained` would load."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = plain_config(folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model")
    kinds: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    several = kinds if isinstance(kinds, list | tuple) else [kinds]
    known = [kind for kind in several if kind.__name__ in (config.architectures or ())]
    kind = (known or several)[0]
    if config.sub_configs.get("text_config") in (kind.config_class,):
        config = config.get_text_config()
    return kind, config


def weightless(kind: Any, config: Any, shapes: Shapes) -> tuple[Any, Mapping[str, Any]]:
    """(model on the meta device, what transformers says of loading weights of these shapes into it)."""
    import torch

    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return kind.from_pretrained(
        None, config=config, state_dict=weights, device_map="meta", output_loading_info=True,
        ignore_mismatched_sizes=True,
    )  # fmt: skip  # what does not match is refused by name


def _ids(folder: Path, owner: str | Path) -> dict[str, int]:
    """{token: id} of the tokenizer, special ones too; {} where the folder has none.

    UserError for a chat template that is no template.
    """
    from transformers import AutoTokenizer

    if not any(folder.glob("*token*")) and not any(folder.glob("vocab*")) and not any(folder.glob("*.model")):
        return {}
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _refuse_broken_templates(owner, tokenizer.chat_template or {})
    return dict(tokenizer.get_vocab())


def _refuse_broken_templates(owner: str | Path, given: Any) -> None:
    """given: a template, or {name: template}; each is compiled as transformers does it, none is rendered."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    for name, text in (given if isinstance(given, Mapping) else {"default": given}).items():
        try:
            _compile_jinja_template(text)
        except Exception as error:  # jinja2's own, and what it raises for a text that is none
            raise UserError(
                f"{owner}: its chat template {name!r} fails ({str(error)[:200]}): a chat would end in an "
                "error. Copy the model's own again, or take another model's (--tokenizer NAME)"
            ) from None


def refuse_roles_beyond(owner: str | Path, files: Mapping[str, Mapping[str, Any]], rows: int) -> None:
    """UserError where an id that begins, ends or pads a text has no row. files: {name: its settings}."""
    for name, settings in files.items():
        for key in (key for key in ROLES if key in settings):
            value = settings[key]
            if odd := [x for x in (value if isinstance(value, list) else [value]) if _number(x) >= rows]:
                raise UserError(
                    f"{owner}: {key} of its {name} is {odd[0]}, beyond the {rows:,} rows of the embeddings. "
                    "Give the id that its tokenizer has, or take another model's tokenizer (--tokenizer NAME)"
                )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def refuse_ids_beyond(owner: str | Path, ids: Mapping[str, int], rows: int) -> list[str]:
    """UserError where a tokenizer gives ids that the model has no row for; a note on marks of images.

    Those stand in tokenizers that models with and without eyes share (Gemma 3), and no text has them.
    """
    beyond = sorted((number, token) for token, number in ids.items() if number >= rows)
    spoken = [token for _, token in beyond if not OTHER_SENSES.search(token)]
    if spoken:
        shown = ", ".join(map(repr, spoken[:5]))
        raise UserError(
            f"{owner}: its tokenizer has {len(beyond)} tokens beyond the {rows:,} rows of the embeddings "
            f"({shown}): any text with one would end in an error. Take another model's tokenizer "
            "(--tokenizer NAME), or resize this one's embeddings (resize_token_embeddings) and train them"
        )
    return (
        [f"tokens without a row of embeddings: {', '.join(token for _, token in beyond[:5])}"]
        if beyond
        else []
    )
