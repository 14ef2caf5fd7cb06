"""Configurations of base and parents compared: models of equal shapes may still compute different things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrnb.checkpoints.reading import Checkpoint
from lrnb.errors import UserError

KIND = "model_type"
HEADS = (
    ("num_attention_heads", "n_head"),
    ("num_key_value_heads",),
    ("head_dim",),
)  # each: names of one thing
WARNED = (
    ("max_position_embeddings", "n_positions"),
    ("hidden_act", "hidden_activation", "activation_function"),
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    ("sliding_window",),
    ("layer_types",),
    ("num_experts_per_tok",),
    ("attn_logit_softcapping",),
    ("final_logit_softcapping",),
    ("query_pre_attn_scalar",),
    ("rope_local_base_freq",),
)
Config = Mapping[str, Any]


def compare_configs(method: str, models: Mapping[str, Checkpoint], first: str = "base") -> list[str]:
    """A warning for every setting in which a model's configuration is not that of `first`, whose is written.

    UserError where kind or numbers of heads differ: equal shapes mean other things then. A setting that only
    one of the two names is not compared here: `left_to_defaults`.
    """
    found, ours = [], settings_of(models[first].config)
    for label, theirs in {k: settings_of(x.config) for k, x in models.items() if k != first}.items():
        for names in ((KIND,), *HEADS):
            _refuse_other(method, names, first, ours, label, theirs)
        found += [_told(label, first, *difference) for difference in _differing(ours, theirs)]
    return found


def left_to_defaults(
    first: str, config: Config, models: Mapping[str, Config], whole: Callable[[Config], Config]
) -> list[str]:
    """As `compare_configs`, for settings that one of two configurations leaves to its kind's default.

    models: {label: its configuration}; whole: fills the defaults in.
    """
    found = []
    for label, own in models.items():
        said = {what for what, _, _ in _differing(settings_of(config), settings_of(own))}
        every = _differing(settings_of(whole(config)), settings_of(whole(own)))
        found += [_told(label, first, *one) for one in every if one[0] not in said]
    return found


def _told(label: str, first: str, what: str, one: Any, other: Any) -> str:
    return (
        f"{label}: {what} is {other} in its config.json and {one} in that of {first}; the merged "
        f"model computes with that of {first}, its weights were trained with both"
    )


def settings_of(config: Config) -> dict[str, Any]:
    """The settings of the language model, those of a nested text_config where there is one."""
    nested = config.get("text_config")
    return {**config, **(nested if isinstance(nested, Mapping) else {})}


def _refuse_other(
    method: str, names: Sequence[str], first: str, ours: Config, label: str, theirs: Config
) -> None:
    one, other = _setting(ours, names), _setting(theirs, names)
    if one is not None and other is not None and one != other:
        raise UserError(
            f"{method}: {names[0]} is {one!r} in config.json of {first} but {other!r} in that of {label}: "
            "equal shapes mean other things there. Give models of one architecture, or correct the wrong "
            "config.json"
        )


def _differing(ours: Config, theirs: Config) -> list[tuple[str, Any, Any]]:
    pairs = [(names[0], _setting(ours, names), _setting(theirs, names)) for names in WARNED]
    one, other = rope_of(ours), rope_of(theirs)
    pairs += [(f"rope, {key},", one.get(key), other.get(key)) for key in sorted({*one, *other})]
    return [(what, a, b) for what, a, b in pairs if None not in (a, b) and a != b]


def _setting(config: Config, names: Sequence[str]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def rope_of(config: Config) -> dict[str, Any]:
    """The rotary settings, however a release of transformers spells them: {name: value}, flat.

    Releases before 5 have rope_theta and rope_scaling, newer ones rope_parameters, per type of layer where
    these differ.
    """
    table = config.get("rope_parameters") or {}
    if not isinstance(table, Mapping):
        return {}
    parts = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    whole = parts.get("full_attention", table)
    scaling = config.get("rope_scaling")
    old = dict(scaling) if isinstance(scaling, Mapping) else {}
    found = {"theta": config.get("rope_theta")} | old | {"rope_type": old.get("rope_type", old.get("type"))}
    found |= {"theta" if key == "rope_theta" else key: value for key, value in whole.items()}
    found["rope_type"] = found.get("rope_type") or "default"
    found.pop("type", None)
    return {key: value for key, value in found.items() if not isinstance(value, Mapping)}
