"""One model under the names of another's files, where what wrote them put another prefix before each name.

torch.compile writes `_orig_mod.`, data parallel training `module.`, peft `base_model.model.`, and a language
model taken out of one with eyes lacks `language_model.`: the rest of a name, and its shape, tell which it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from lrnb.checkpoints.alignment import TABLES
from lrnb.checkpoints.reading import HEAD, Checkpoint

PREFIX = re.compile(r"^((base_model|language_model|model|module|transformer|_orig_mod)\.)+")
WRAPPERS = re.compile(r"^((_orig_mod|module|base_model\.model)\.)+")  # which no model of transformers has


def unwrapped(model: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], str]:
    """A model without what a wrapper put before all of its names, and a note on it."""
    if not isinstance(model, Checkpoint) or not all(map(WRAPPERS.match, model)):
        return model, ""
    names = {name: WRAPPERS.sub("", name) for name in model}
    return _renamed(model, names), _note(model, names)


def under_names_of(
    first: Mapping[str, np.ndarray], model: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, np.ndarray], str]:
    """`model` with its tensors named as in `first`, and a note; as it is where that is not certain."""
    if not isinstance(first, Checkpoint) or not isinstance(model, Checkpoint) or set(first) == set(model):
        return model, ""
    theirs, ours = bare_names(model), bare_names(first)
    apart = len(theirs) == len(model) and len(ours) == len(first)
    if not apart or (set(theirs) ^ set(ours)) - {HEAD}:
        return model, ""
    names = {name: ours.get(bare, name) for bare, name in theirs.items()}
    if not any(name != new for name, new in names.items()):
        return model, ""
    if not all(fits(first[new].shape, model[name].shape, new) for name, new in names.items() if new in first):
        return model, ""
    return _renamed(model, names), _note(model, names)


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """{name without its prefix: name}."""
    return {PREFIX.sub("", name): name for name in names}


def fits(ours: tuple[int, ...], theirs: tuple[int, ...], name: str) -> bool:
    return ours == theirs or (name.endswith(TABLES) and ours[1:] == theirs[1:])  # rows are matched by token


def _renamed(model: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    return Checkpoint(model.folder, {names[k]: x for k, x in model.items()}, model.config, model.files)


def _note(model: Checkpoint, names: Mapping[str, str]) -> str:
    old = min(name for name, new in names.items() if name != new)
    found = f"{old!r} is {names[old]!r}"
    return f"{model.folder}: its names have another prefix ({found}); matched by name and shape"
