"""What a template may print of a row: texts and numbers. Anything else would be seen as Python writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from lrnb.data.unicode_form import is_blank

REMEDY = "give it a text, or remove the row"


class Null(jinja2.StrictUndefined):
    """A null of a row, or a text of nothing that is seen: false in a condition, an error where shown."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


class _NoText:
    """Raises where Python's own spelling of a value is asked for."""

    field, kind = "", ""

    def __str__(self) -> str:
        raise TypeError(f"{self.field!r} is {self.kind}, not a text: {REMEDY}")

    __repr__ = __str__

    def __format__(self, _: str) -> str:
        return str(self)


class _List(_NoText, list):  # type: ignore[type-arg]
    kind = "a list"


class _Flag(_NoText, int):
    kind = "true or false"


class _Object(_NoText, dict):  # type: ignore[type-arg]
    kind = "an object"


def is_flag(value: Any) -> bool:
    """Whether a value is true or false, of a row or of the template."""
    return isinstance(value, bool | _Flag)


def printable(value: Any) -> Any:
    """What `{{ ... }}` prints. TypeError for all that is neither text nor a finite number."""
    if isinstance(value, str | jinja2.Undefined):
        return value
    if isinstance(value, _NoText):
        return str(value)  # raises
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError(f"{value!r} is no text: {REMEDY}, or change the template")
    return value


def guarded(row: Mapping[str, Any], texts: set[str]) -> dict[str, Any]:
    """A row for a template. `texts`: fields that are text in other rows, in which a number is a mistake."""
    return {
        key: Null(f"{key!r} is empty: {REMEDY}")
        if isinstance(value, str) and is_blank(value)
        else _guarded(value, key, key in texts)
        for key, value in row.items()
    }


def _guarded(value: Any, field: str, text: bool = False) -> Any:
    if value is None:
        return Null(f"{field!r} is null: {REMEDY}")
    if text and isinstance(value, int | float):
        return jinja2.StrictUndefined(f"{field!r} is a number here and a text in other rows: {REMEDY}")
    if isinstance(value, dict):
        found: Any = _Object({key: _guarded(part, field) for key, part in value.items()})
    elif isinstance(value, list):
        found = _List(_guarded(part, field) for part in value)
    elif isinstance(value, bool):
        found = _Flag(value)  # `~` and filters ask for its text without `printable`
    else:
        return value
    found.field = field
    return found
