"""Example rows of `lrnb new`: they show what a file holds, and nothing may be made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lrnb.errors import UserError

MARK = "EXAMPLE of lrnb new, to be replaced: "  # how the first text of such a row begins


def example(text: str) -> str:
    """A text of an example row."""
    return MARK + text


def refuse_example(value: Any, where: str) -> None:
    """UserError where a text is still that of an example row."""
    if isinstance(value, str) and value.startswith(MARK):
        raise UserError(
            f"{where}: the rows are still the examples that lrnb new wrote; put your own in their "
            "place, and remove this file where yours has another name or ending"
        )


def holds_examples(path: Path) -> bool:
    """Whether the first lines of a file are still example rows."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(4096)


def own_values(values: Iterable[Any], where: str) -> Iterator[Any]:
    """The values; UserError at an example's."""
    for value in values:
        refuse_example(value, where)
        yield value
