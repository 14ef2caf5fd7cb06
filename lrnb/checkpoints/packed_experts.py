"""A mixture of experts whose experts are packed into one tensor a layer, beside one with a tensor an expert.

transformers packs experts once a model is open (`gate_up_proj`: experts × 2 intermediate × hidden) and writes
them one by one again, but not with `save_original_format=False`, as some trainers save. Its own table for the
kind of model says what is packed into what; the parts are views, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrnb.checkpoints.layouts import fits
from lrnb.checkpoints.reading import HEAD, Checkpoint

Rule = tuple[str, list[str]]  # the end of a packed tensor's name; those of its parts, * for the expert
Tensors = Mapping[str, np.ndarray]


def unpacked(model: Tensors, others: Sequence[Tensors]) -> tuple[Tensors, str]:
    """`model` with a tensor an expert where another model has these, and a note; else as it is."""
    if not isinstance(model, Checkpoint) or all(set(model) == set(other) for other in others):
        return model, ""
    rules, renamed = _table(str(model.config.get("model_type", "")))
    packed = {name: rule for name in model for rule in rules if name.endswith(rule[0])}
    parts = dict(part for name in model for part in _parts(name, model[name], packed.get(name), renamed))
    if not packed or not any(_alike(parts, other) for other in others):
        return model, ""
    made = Checkpoint(model.folder, parts, model.config, model.files)
    return (
        made,
        f"{model.folder}: its experts are packed ({min(packed)!r}); read one by one, as the others' are",
    )


def _parts(
    name: str, array: np.ndarray, rule: Rule | None, renamed: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, np.ndarray]]:
    """A tensor under its name in the files; of a packed one, experts × rows × columns, all parts."""
    for here, there in renamed:
        name = name.replace(here, there)
    if rule is None or array.ndim != 3 or array.shape[1] % len(rule[1]):
        yield name, array
        return
    for here, there in renamed:
        rule = rule[0].replace(here, there), rule[1]
    stem = name.removesuffix(rule[0])
    for number, expert in enumerate(array):
        halves = np.split(expert, len(rule[1]))
        yield from (
            (stem + part.replace("*", str(number)), x) for part, x in zip(rule[1], halves, strict=True)
        )


def _alike(parts: Tensors, other: Tensors) -> bool:
    """Whether names and shapes are those of another model; a tied head may stand in one of them alone."""
    common = set(parts) & set(other)
    return not (set(parts) ^ set(other)) - {HEAD} and all(
        fits(other[name].shape, parts[name].shape, name) for name in common
    )


def _table(kind: str) -> tuple[list[Rule], list[tuple[str, str]]]:
    """What transformers packs of this kind of model, and what it changes in names: (its own, the files')."""
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping as table
    except ImportError:  # transformers 4 packs nothing
        return [], []
    rules, renamed = list[Rule](), list[tuple[str, str]]()
    for entry in table(kind) or ():
        sources, targets, steps = (
            entry.source_patterns,
            entry.target_patterns,
            getattr(entry, "operations", []),
        )
        if not steps and len(sources) == len(targets) == 1:
            renamed.append((targets[0], sources[0]))
        elif _stacks(steps, len(sources)) and len(targets) == 1:
            rules.append((targets[0], sources))
    return rules, renamed


def _stacks(steps: Sequence[Any], sources: int) -> bool:
    """Whether experts are laid one below the other, and parts of each after it: what `_parts` undoes."""
    found = [(type(step).__name__, getattr(step, "dim", None)) for step in steps]
    return found == [("MergeModulelist", 0), *([("Concatenate", 1)] if sources > 1 else [])]
