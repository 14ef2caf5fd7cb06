"""Methods of mergekit that are one of ours with other parameters.

passthrough takes every layer from one model, times `scale`: a sum with the share 0 for all others. NuSlerp
without a base is slerp with the second weight's share (mergekit 0.1.5, merge_methods/nuslerp.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lrnb.merging.methods import average, nuslerp, slerp
from lrnb.merging.registry import Mergekit, Method, Option, Options


def _one_model(given: dict[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    return {"weights": given["scale"], "normalize": False}


def _share_of_second(given: dict[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    """Half where the weights cancel, as there."""
    first, second = (*given["weight"].values(), 1.0, 1.0)[:2]
    return {"t": second / (first + second) if abs(first + second) > 1e-6 else 0.5}


PASSTHROUGH = replace(
    average.METHOD,
    options=Options,
    parents=(1, 1),
    mergekit=Mergekit(
        "passthrough",
        base="aside",
        extra={"scale": Option("factor on the model", 1.0, per_parent=True)},
        translate=_one_model,
    ),
)
assert nuslerp.METHOD.mergekit
KIT: Mergekit = nuslerp.METHOD.mergekit
ALONE = replace(
    slerp.METHOD,
    options=Options,
    mergekit=Mergekit(
        KIT.name,
        base="first",
        fixed=KIT.fixed,
        extra={"weight": Option("a model's weight", 1.0, low=0, per_parent=True)},
        translate=_share_of_second,
    ),
)


def stand_in_for(name: str, has_base: bool) -> Method | None:
    """Ours with the parameters of mergekit's method `name`; None where that is no method here by itself."""
    if name == "passthrough":
        return PASSTHROUGH
    return ALONE if name == KIT.name and not has_base else None
