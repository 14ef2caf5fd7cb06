"""The one error that a user sees: what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can mend; the message says what, where, and what to do next."""


def did_you_mean(name: str, known: Iterable[str], spell: Callable[[str], str] = repr) -> str:
    """The end of a message about an unknown name: the nearest known one, as `spell` writes it, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {spell(near[0])}?" if near else ""
