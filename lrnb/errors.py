"""The one error that a user sees: what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can mend; the message says what, where, and what to do next."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message)))


class TryAgain(UserError):
    """What another attempt may not meet, as a cluster makes it by itself: a killed process, a lock in use."""


def shortened(text: str, lines: int = 20, letters: int = 2000) -> str:
    """A message with its middle left out where it is too long to read, whatever names a file puts into it."""
    if len(text) > letters:
        text = f"{text[: letters // 2]} ... {text[-letters // 2 :]}"
    parts = text.splitlines()
    if len(parts) <= lines:
        return text
    return "\n".join([*parts[: lines // 2], "...", *parts[len(parts) - lines // 2 + 1 :]])


def did_you_mean(name: str, known: Iterable[str], spell: Callable[[str], str] = repr) -> str:
    """The end of a message about an unknown name: the nearest known one, as `spell` writes it, or nothing."""
    names = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), [*names], n=1)
    return f"; did you mean {spell(names[near[0]])}?" if near else ""
