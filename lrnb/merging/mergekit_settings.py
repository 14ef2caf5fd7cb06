"""Values of a mergekit configuration at one tensor: along the layers, by a part of the name, by slice.

Source: mergekit 0.1.5, config.py (`evaluate_setting`, `ConfigReader.parameter`) and plan.py. A value is
looked for in a slice's source, then in the slice, then at the top; conditions are tried in their order, and
where none matches the next place is looked at. Along a slice of n layers t goes from 0 to 1 (1 where n is 1);
what comes before the layers belongs to the first slice, what comes after them to the last, both with t = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any, NamedTuple

from lrnb.errors import UserError
from lrnb.merging.layers import Place
from lrnb.merging.registry import Option


class Condition(NamedTuple):
    """points: values spread evenly over the layers, with straight lines between them; one for all layers.
    part: only of tensors that have it in their name; "" of all."""

    points: tuple[float, ...]
    part: str = ""

    def at(self, t: float) -> float:
        scaled = t * (len(self.points) - 1)
        i = int(scaled)
        after, rest = self.points[min(i + 1, len(self.points) - 1)], scaled - i
        return (1 - rest) * self.points[i] + rest * after


Setting = float | bool | str | tuple[Condition, ...]
Settings = Mapping[str, Setting]


def read_setting(where: str, spec: Option, value: Any) -> Setting:
    """A number, [numbers] along the layers, or [{value: one of these, filter: part of a name}, ...].

    UserError for anything else, and for a number out of its range.
    """
    if not isinstance(value, list | dict):
        return spec.read(where, value)
    if spec.kind != "number":
        raise UserError(f"{where}: one value for the whole model is supported, got {short(value)}")
    if not value:
        raise UserError(f"{where}: no value in {short(value)}; give a number or a list of numbers")
    blocks = [value] if isinstance(value, dict) else value
    if not any(isinstance(x, dict) for x in blocks):
        return (Condition(_points(where, spec, blocks)),)
    return tuple(_condition(f"{where}[{i}]", spec, block) for i, block in enumerate(blocks))


def _condition(where: str, spec: Option, block: Any) -> Condition:
    if not isinstance(block, dict) or "value" not in block or set(block) - {"value", "filter"}:
        raise UserError(f"{where}: expected `value: ...` and perhaps `filter: ...`, got {short(block)}")
    part, value = block.get("filter"), block["value"]
    if not (part is None or isinstance(part, str)):
        raise UserError(f"{where}.filter: expected a part of tensors' names such as mlp, got {short(part)}")
    points = _points(f"{where}.value", spec, value if isinstance(value, list) else [value])
    return Condition(points, "" if part in (None, "*") else str(part))


def _points(where: str, spec: Option, values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(spec.read(where, value) for value in values)


def evaluate(setting: Setting | None, name: str, t: float) -> Any:
    """The value at a tensor; None where no condition matches it."""
    if not isinstance(setting, tuple):
        return setting
    return next((condition.at(t) for condition in setting if condition.part in name), None)


@dataclass(frozen=True)
class Slice:
    """The models of some layers [start, stop), with their parameters; `layers` None: of all of them."""

    sources: Mapping[str, Settings]
    own: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None

    def t(self, place: Place) -> float:
        """How far along the slice a tensor stands, from 0 to 1; 0 outside the layers, after them too."""
        if not 0 <= place.layer < place.layers:
            return 0.0
        start, stop = self.layers or (0, place.layers)
        return (place.layer - start) / (stop - start - 1) if stop - start > 1 else 1.0

    def value(self, key: str, top: Settings, name: str, place: Place, source: str = "") -> Any:
        """A parameter at a tensor, of a source or of all; None where it is given nowhere."""
        levels = (self.sources.get(source, {}), self.own, top)
        found = (evaluate(level.get(key), name, self.t(place)) for level in levels)
        return next((value for value in found if value is not None), None)


@dataclass(frozen=True)
class Sliced:
    """All slices of a configuration, in order, and the parameters at the top."""

    slices: Sequence[Slice]
    top: Settings

    def at(self, place: Place) -> Slice:
        """The slice that a tensor belongs to."""
        ends = (x for x in self.slices if x.layers is None or place.layer < x.layers[1])
        return next(ends, self.slices[-1])

    @property
    def layers(self) -> int | None:
        """How many layers all slices have together; None where none is cut."""
        last = self.slices[-1].layers if self.slices else None
        return last[1] if last else None

    def varied(self) -> bool:
        """Whether any value depends on the tensor."""
        levels = [self.top, *(level for x in self.slices for level in (x.own, *x.sources.values()))]
        return len(self.slices) > 1 or any(isinstance(x, tuple) for level in levels for x in level.values())
