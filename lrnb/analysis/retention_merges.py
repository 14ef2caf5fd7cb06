"""The merges with which retention is measured, at one CT budget: what each keeps of SFT's entries differs.

- A grid of TIES-SV over density, slack and SFT's weight beside CT's 1, with λ 1. Without slack it is TIES.
- Every candidate that the study tried on dev at that budget, by methods of which it is known what they keep.
- One merge of the grid's middle with SFT's entries of one module type, of one band of layers, or all of them
  left out: CT's stand there alone.

Merges are made in memory; a share kept is counted by the election that merging uses (`conflicts.counts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb.conflicts import counts
from lrnb.merging.methods import find
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.tuning import on_dev
from lrnb.tuning.search import settings

DENSITIES, SLACKS, WEIGHTS = (0.1, 0.2, 0.5, 0.8), (0.0, 0.3, 1.0), (0.5, 1.0, 2.0)  # the grid
MIDDLE = {"density": 0.5, "slack": 0.0, "weight": 1.0, "lam": 1.0}  # of which entries are left out
GRID, DEV, ABLATION = "grid", "dev", "left out"  # what a merge is here for
ELECTING, KEEPING = ("ties", "ties_sv"), ("average", "task_arithmetic")  # the latter drop no entry
EVERYTHING = "all"
BANDS = ("bottom", "middle", "top")  # thirds of the layers


class Retained(NamedTuple):
    """A merge: what it is here for, its method and options (`weight`: SFT's beside CT's 1), what is left out
    of SFT (`module q`, `layers bottom`, EVERYTHING), and whether the study tried it on dev.
    """

    kind: str
    method: str
    options: tuple[tuple[str, float], ...]
    left_out: str = ""
    on_dev: bool = False

    @property
    def name(self) -> str:
        """ "ties_sv density=0.5 slack=0.3 weight=1 lam=1, without module q" """
        told = " ".join([self.method, *(f"{name}={value:g}" for name, value in self.options)])
        return f"{told}, without {self.left_out}" if self.left_out else told


def elected_options(given: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """The options of a TIES or TIES-SV, all four of them: TIES is TIES-SV without slack."""
    usual = {"slack": 0.0, "weight": 1.0, "lam": 1.0} | dict(given)
    return tuple((name, float(usual[name])) for name in MIDDLE)


def retained_merges(study: Study, budget: int, tensors: Iterable[str]) -> list[Retained]:
    """All merges at a budget, each once: the grid, candidates on dev, entries left out."""
    tried = dict.fromkeys(_tried_on_dev(study, budget))
    axes = product(DENSITIES, SLACKS, WEIGHTS)
    grid = [Retained(GRID, "ties_sv", elected_options(_named(values))) for values in axes]
    same = {one.options for one in tried if one.method == "ties_sv"}
    grid = [one._replace(on_dev=one.options in same) for one in grid]
    inside = {one.options for one in grid}
    others = [one for one in tried if one.method != "ties_sv" or one.options not in inside]
    left = [
        Retained(ABLATION, "ties_sv", elected_options(MIDDLE), part)
        for part in [EVERYTHING, *parts_of(tensors)]
    ]
    return [*grid, *others, *left]


def _named(values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(("density", "slack", "weight"), values, strict=True))


def _tried_on_dev(study: Study, budget: int) -> list[Retained]:
    """The candidates of the study's methods of which it is known what they keep."""
    found = []
    for method in (name for name in study.methods if name in (*ELECTING, *KEEPING)):
        table = on_dev.read_choices(RunPaths(study), method)
        for row in table[table["ct_tokens"] == budget].to_dict("records"):
            own = {str(name): float(row[name]) for name in find(method).fields() if _number(row.get(name))}
            if method in ELECTING:
                found.append(Retained(DEV, "ties_sv", elected_options(own), on_dev=True))
            else:
                found.append(Retained(DEV, method, tuple(own.items()), on_dev=True))
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def parts_of(tensors: Iterable[str]) -> dict[str, list[str]]:
    """Part -> its tensors: every module type, and thirds of the layers where there are two layers or more."""
    tensors = list(tensors)
    places = {name: counts.place(name, 0) for name in tensors}
    modules = dict.fromkeys(f"module {place['module']}" for place in places.values())
    found = {part: [n for n in tensors if f"module {places[n]['module']}" == part] for part in modules}
    layers = max((place["layer"] for place in places.values()), default=-1) + 1
    bands = {name: _band(place["layer"], layers) for name, place in places.items()}
    there = [band for band in BANDS if band in bands.values()] if layers > 1 else []
    return found | {f"layers {band}": [n for n in tensors if bands[n] == band] for band in there}


def _band(layer: int, layers: int) -> str:
    """The third that a layer is in; of two layers they are bottom and top. "" outside of the layers."""
    if layer < 0:
        return ""
    return BANDS[2 * layer] if layers == 2 else BANDS[3 * layer // layers]


def state_of(one: Retained, vectors: TaskVectors, study: Study) -> dict[str, np.ndarray]:
    """The merge's weights, {name: float32 array}; `vectors` are of CT and SFT."""
    merged = merge_state(one.method, vectors, **given_options(study, one))
    if not one.left_out:
        return merged
    gone = set(vectors.names if one.left_out == EVERYTHING else parts_of(vectors.names)[one.left_out])
    alone = merge_state(
        one.method, vectors, **given_options(study, one) | {"weights": {"ct": 1.0, "sft": 0.0}}
    )
    return {name: (alone if vectors.aliases.get(name, name) in gone else merged)[name] for name in merged}


def given_options(study: Study, one: Retained) -> dict[str, Any]:
    """As the method takes them, with those of the study that nobody searches."""
    own: dict[str, Any] = dict(one.options)
    if "weight" in own:
        own["weights"] = {"ct": 1.0, "sft": own.pop("weight")}
    return settings(study, one.method) | own


def changed_entries(vectors: TaskVectors) -> dict[str, float]:
    """How many entries of a parent differ from the base: {"sft": n, "ct": n}."""
    everything = counts.shares(vectors, density=1.0).iloc[-1]
    return {parent: float(everything[f"{parent}_kept"]) for parent in ("sft", "ct")}


def kept_shares(
    one: Retained, vectors: TaskVectors, study: Study, changed: Mapping[str, float]
) -> dict[str, float]:
    """Shares of a parent's entries (`changed_entries`) that are in the merge: {"sft": x, "ct": x}."""
    if one.method in KEEPING:
        return {"sft": 1.0, "ct": 1.0}
    own = {name: value for name, value in given_options(study, one).items() if name != "lam"}
    table = counts.shares(vectors, **own)
    kept = {"sft": table["sft_kept"] - table["sft_discarded"] + table["reserved"]}
    kept["ct"] = table["ct_kept"] - table["ct_discarded"] - table["reserved"]
    gone = _rows_left_out(one, table)
    found = {parent: float(rows.iloc[-1]) for parent, rows in kept.items()}
    found["sft"] -= float(kept["sft"].iloc[:-1][gone].sum())
    return {parent: n / max(1.0, changed[parent]) for parent, n in found.items()}


def _rows_left_out(one: Retained, table: pd.DataFrame) -> np.ndarray:
    tensors = table["tensor"].iloc[:-1]  # the last row is the model's
    if one.left_out == EVERYTHING:
        return np.ones(len(tensors), bool)
    return tensors.isin(parts_of(tensors).get(one.left_out, [])).to_numpy()
