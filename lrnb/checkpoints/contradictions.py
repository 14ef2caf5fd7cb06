"""A parent's config.json that contradicts its own tensors: they may fit those of the base all the same.

What transformers opens with the base's configuration (`openable.try_opening`) is opened once more with every
number in which the parent's differs. One that decides no shape changes nothing; any other is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrnb.checkpoints.alignment import TABLES
from lrnb.checkpoints.configurations import settings_of
from lrnb.checkpoints.openable import (
    Shapes,
    causal_kind,
    completed_config,
    openable,
    quiet_transformers,
    refuse_absurd,
    refuse_partial,
    weightless,
)
from lrnb.errors import UserError

ROWS = "vocab_size"
NO_SIZES = ("_id", "_ids", "_index")  # how numbers that count nothing end


def refuse_contradictions(
    folder: Path, shapes: Shapes, models: Mapping[str, Mapping[str, Any]], homes: Mapping[str, str]
) -> None:
    """UserError naming file, key, what it says and what the tensors say, for the first number that is wrong.

    folder: holds the configuration that `shapes` ({name: shape}) fit; models: {label: {"config": its own,
    "rows": of its embeddings, None where it has none}}, whose tensors have these shapes, rows aside; homes:
    {label: its folder}.
    """
    with quiet_transformers():
        for label, model in models.items():
            own = _with_rows(shapes, model["rows"])
            refuse_absurd(Path(homes[label]), model["config"], own)
            _refuse_wrong_sizes(folder, own, model, Path(homes[label]) / "config.json")


def _refuse_wrong_sizes(folder: Path, shapes: Shapes, model: Mapping[str, Any], file: Path) -> None:
    kind, config = causal_kind(folder)
    ours = _numbers(config.to_dict()) | ({} if model["rows"] is None else {ROWS: model["rows"]})
    theirs = _named(model["config"], config.get_text_config().attribute_map)
    odd = {key: theirs[key] for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    fitting = {ROWS: ours[ROWS]} if ROWS in ours else {}
    if not odd or not _refusal(kind, config, fitting | odd, shapes, ""):
        return
    for some in [*({key: odd[key]} for key in sorted(odd)), odd]:  # one that is wrong, or all together
        said = ", ".join(
            f"{key} is {value}, by the tensors it must be {ours[key]}" for key, value in some.items()
        )
        if told := _refusal(kind, config, fitting | some, shapes, f"{file}: {said}"):
            raise UserError(told)


def _refusal(kind: Any, config: Any, sizes: Mapping[str, Any], shapes: Shapes, where: str) -> str:
    """Why weights of these shapes do not fit the configuration with these sizes; "" where they do."""
    try:
        with openable(where):
            model, facts = weightless(kind, _with_sizes(config, sizes), shapes)
        refuse_partial(where, set(model.state_dict()), facts)
    except UserError as error:
        return str(error)
    return ""


def _with_sizes(config: Any, sizes: Mapping[str, Any]) -> Any:
    """The configuration anew, each size where the other one has it: a nested one of the language model."""
    found = config.to_dict()
    nested = found.get("text_config")
    for key, value in sizes.items():
        home = nested if isinstance(nested, dict) and key in nested else found
        home[key] = value
    return type(config).from_dict(found)


def _with_rows(shapes: Shapes, rows: int | None) -> Shapes:
    """The shapes with so many rows of embeddings and head."""
    tables = [name for name in shapes if name.endswith(TABLES)]
    if rows is None or not tables:
        return shapes
    written = shapes[tables[0]][0]
    own = {name: (rows, *shapes[name][1:]) for name in tables if shapes[name][0] == written}
    return {**shapes, **own}


def _named(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The numbers that a configuration names itself; names: {another name: the one that its kind has}."""
    own = {names.get(key, key) for key in settings_of(config)}
    return {key: value for key, value in _numbers(completed_config(config)).items() if key in own}


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The whole numbers, and lists of them with one a layer, that are no ids."""
    return {
        key: value
        for key, value in settings_of(config).items()
        if not key.endswith(NO_SIZES)
        and all(type(x) is int for x in (value if isinstance(value, list) else [value]))
    }
