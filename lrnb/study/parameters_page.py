"""docs/parameters.md, made from the fields of `Study` and what is written beside them.

`python -m lrnb.study.parameters_page > docs/parameters.md` (`make parameters`) writes it anew.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lrnb.study import parameters
from lrnb.study.parameters import PRESETS, ROOT, Study, read_yaml

HEAD = """\
# Parameters

Every parameter of a study, with unit and range. A value comes from the default below, from the preset
(`params/preset/`), from the language's file (`params/<lang>.yaml`; a section named like a preset counts for
that preset only) or from `--set key=value`; later ones win. A misspelt name is refused. Made from
`lrnb/study/parameters.py` by `make parameters`.
"""
INDENT = 4  # of the comments that head a group of fields
KINDS = {
    str: "text",
    bool: "true, false",
    int: "whole number",
    float: "number",
    list: "list",
    dict: "mapping",
}
SIGNS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def page() -> str:
    """The whole page."""
    sections = "".join(
        f"\n## {title[0].upper()}{title[1:]}\n\n{_table(names)}" for title, names in _sections()
    )
    return HEAD + sections


def _table(names: list[str]) -> str:
    rows = [_row(name, Study.model_fields[name]) for name in names]
    lines = ["| parameter | default | may be | presets | |", "|---|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    given = [(preset, _presets()[preset][name]) for preset in PRESETS if name in _presets()[preset]]
    presets = ", ".join(f"{preset} {_value(value)}" for preset, value in given)
    cells = (f"`{name}`", _value(field.default), _range(field), presets, _comments()[name])
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value >= 10_000 else str(value)
    return f"`{value}`" if value != "" else "empty"


def _range(field: FieldInfo) -> str:
    return " ".join([_kind(field.annotation), *_bounds(field.metadata)])


def _kind(annotation: Any) -> str:
    """A type in words: its choices, or what kind of value it is."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if origin is Annotated:
        return " ".join([_kind(parts[0]), *_bounds(parts[1:])])
    if origin in (Union, UnionType):
        return " or ".join(map(_kind, parts))
    return KINDS[origin or annotation]


def _bounds(rules: Iterable[Any]) -> Iterator[str]:
    for rule in rules:
        for name, text in SIGNS.items():
            if (bound := getattr(rule, name, None)) is not None:
                yield text.format(f"{bound:g}")


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    return {preset: read_yaml(ROOT / "params" / "preset" / f"{preset}.yaml") for preset in PRESETS}


# what stands beside the fields


@functools.cache
def _comments() -> dict[str, str]:
    notes = _notes()
    return {
        name: " ".join(notes[line][1] for line in range(first, last + 1) if line in notes)
        for name, first, last in _fields()
    }


def _sections() -> list[tuple[str, list[str]]]:
    """The headings among the fields, each with the names below it."""
    heads = {line: text for line, (column, text) in _notes().items() if column == INDENT}
    found: dict[str, list[str]] = {}
    for name, first, _ in _fields():
        found.setdefault(heads[max(line for line in heads if line < first)], []).append(name)
    return [*found.items()]


def _fields() -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of each field."""
    (study,) = (
        node for node in ast.walk(ast.parse(_source())) if getattr(node, "name", "") == Study.__name__
    )
    for node in ast.iter_child_nodes(study):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno, node.end_lineno or node.lineno


def _notes() -> dict[int, tuple[int, str]]:
    """Line -> column and words of a comment."""
    found = tokenize.generate_tokens(io.StringIO(_source()).readline)
    return {t.start[0]: (t.start[1], t.string.lstrip("# ")) for t in found if t.type == tokenize.COMMENT}


def _source() -> str:
    return Path(parameters.__file__).read_text(encoding="utf-8")


if __name__ == "__main__":
    print(page(), end="")
