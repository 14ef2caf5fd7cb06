"""Where a tensor stands in a model: in which layer, and of how many."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

LAYER = re.compile(r"(?P<stack>(?:.*?\.)?)(?:layers?|h|blocks?)\.(?P<layer>\d+)\.")
BEFORE = re.compile(r"embed|(?:^|\.)w[tp]e\.")


class Place(NamedTuple):
    """layer: from 0; -1 of what comes before all layers, `layers` of what comes after. layers: how many its
    stack has (of several, as in a model with an eye, each by itself)."""

    layer: int
    layers: int

    @property
    def depth(self) -> float:
        """From 0, the first layer and what comes before it, to 1, the last and what comes after it."""
        if self.layers < 2:
            return 0.0 if self.layer < 0 else 1.0
        return min(max(self.layer / (self.layers - 1), 0.0), 1.0)


def layer_of(name: str) -> int:
    """Number of the layer a tensor belongs to, -1 for none."""
    found = LAYER.match(name)
    return int(found["layer"]) if found else -1


def places_of(names: Iterable[str]) -> dict[str, Place]:
    """The place of every tensor of a model; those outside layers belong to the deepest stack."""
    found = {name: LAYER.match(name) for name in names}
    deep: dict[str, int] = {}
    for match in filter(None, found.values()):
        deep[match["stack"]] = max(deep.get(match["stack"], 0), int(match["layer"]) + 1)
    deepest = max(deep.values(), default=0)
    return {
        name: Place(int(match["layer"]), deep[match["stack"]])
        if match
        else Place(-1 if BEFORE.search(name) else deepest, deepest)
        for name, match in found.items()
    }


def no_layers(names: Iterable[str]) -> str:
    """The complaint about a model without any layers, or ""."""
    if any(map(LAYER.match, names)):
        return ""
    return "goes by layers, and no tensor is called like layers.0.NAME; use a method that does not"


def is_embedding(name: str) -> bool:
    """Whether a tensor is a table of embeddings, which stands before the first layer."""
    return layer_of(name) < 0 and BEFORE.search(name) is not None
