"""Options that are not the same for all tensors: given as a function, settled for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrnb.errors import UserError
from lrnb.merging.layers import Place, places_of
from lrnb.merging.registry import Method, Options
from lrnb.merging.task_vectors import TaskVectors

BY_TENSOR = "by_tensor"  # in a report's recipe
ByTensor = Callable[[str, Place], Mapping[str, Any]]  # a tensor's name and place: its options


def options_by_tensor(
    method: Method, vectors: TaskVectors, given: Mapping[str, Any], by_tensor: ByTensor
) -> dict[str, Options]:
    """The options of every float tensor: `given` for all, and over them what `by_tensor` says of it.

    UserError where those of a tensor are wrong, or something is settled over the whole model at once.
    """
    where, made = places_of(vectors.names), dict[str, Options]()
    found = dict[str, Options]()
    for name in vectors.names:
        values = {**given, **by_tensor(name, where[name])}
        key = repr(sorted(values.items()))
        if key not in made:
            made[key] = method.settle(vectors.parents, values, who=f"{method.name}, {name}")
            _refuse_shared(method, made[key])
        found[name] = made[key]
    return found


def _refuse_shared(method: Method, options: Options) -> None:
    if options.scope() == "model" and options.passes() > 1:
        raise UserError(
            f"{method.name}: options that differ between tensors need a threshold for each; "
            "give --trim-scope tensor (trim_scope='tensor')"
        )


def spoken_groups(options: Mapping[str, Options], parents: Sequence[str]) -> dict[str, Any]:
    """{"by_tensor": [options and the "tensors" that have them, ...]}, in the order of the first tensors."""
    found: dict[Options, list[str]] = {}
    for name, own in options.items():
        found.setdefault(own, []).append(name)
    return {BY_TENSOR: [own.recipe(parents) | {"tensors": names} for own, names in found.items()]}


def refuse_other_depth(method: str, names: list[str], layers: int | None) -> None:
    """UserError where a recipe's slices end before or after the model's last layer."""
    deepest = max((place.layers for place in places_of(names).values()), default=0)
    if layers is not None and deepest != layers:
        raise UserError(
            f"{method}: the slices have {layers} layers and the models {deepest}; "
            "every layer is merged, so let the last slice end there"
        )
