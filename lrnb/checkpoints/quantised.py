"""Quantised weights, told by their names: a sum of codes is no sum of weights, so they are not merged."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lrnb.errors import UserError

SETTINGS = ("quantization_config", "compression_config")  # of config.json
ENDS = {  # of the tensors that a quantised weight comes with
    "bitsandbytes": (".SCB", ".absmax", ".quant_map", ".bitsandbytes__nf4", ".bitsandbytes__fp4"),
    "FP8": (".weight_scale_inv", ".weight_scale", ".input_scale"),
    "GPTQ": (".g_idx",),
    "AWQ or GPTQ": (".qweight", ".qzeros"),
    "compressed-tensors": (".weight_packed",),
    "MXFP4": ("_proj_blocks", "_proj_scales"),
}
METHODS = {name.lower(): name for name in ("GPTQ", "AWQ", "FP8", "MXFP4")}  # as transformers spells them
ANEW = {
    "bitsandbytes": "load it with transformers, call dequantize() of the model and save_pretrained",
    "FP8": "load it with transformers and FineGrainedFP8Config(dequantize=True), then save_pretrained",
    "MXFP4": "load it with transformers and Mxfp4Config(dequantize=True), then save_pretrained",
}


def quantised(where: Path, kind: str, name: str) -> UserError:
    """The refusal of weights of a kind, with the way out; name: the tensor that shows it."""
    way = f", or {ANEW[kind]}" if kind in ANEW else ""
    return UserError(
        f"{where}: quantised weights ({kind}; {name!r} shows it), which are not merged. Give the model in "
        f"bfloat16 or float16 that they were made from{way}"
    )


def refuse_quantised(
    folder: Path, config: Mapping[str, Any], names: Collection[str], codes: Collection[str]
) -> None:
    """UserError naming how the weights are quantised. names: of all tensors; codes: of tables of integers."""
    said = METHODS.get(_method(config), _method(config))
    for kind, ends in ENDS.items():
        if marks := sorted(name for name in names if name.endswith(ends)):
            raise quantised(folder, said or kind, marks[0])
    if said and codes:
        raise quantised(folder, said, min(codes))


def without_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without those of a quantisation, for weights that are not quantised (any more)."""
    kept = {key: value for key, value in config.items() if key not in SETTINGS}
    nested = config.get("text_config")
    return kept | ({"text_config": without_settings(nested)} if isinstance(nested, dict) else {})


def _method(config: Mapping[str, Any]) -> str:
    """What the configuration calls the quantisation; "" where it names none."""
    for place in (config, config.get("text_config") or {}):
        for key in SETTINGS:
            if isinstance(settings := place.get(key), dict):
                return str(settings.get("quant_method") or key)
    return ""
