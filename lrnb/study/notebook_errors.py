"""A mistake that the user can mend, as a notebook shows it: the sentence first, the traceback folded."""

from __future__ import annotations

import os
import re
from html import escape
from types import TracebackType
from typing import Any

from lrnb.errors import UserError

ANSI_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LOOK = "border-left:4px solid var(--jp-error-color1,#b00);padding:6px 12px;white-space:pre-wrap"


def fold_tracebacks() -> None:
    """From now on a UserError of this kernel shows its sentence, and the traceback at a click.

    Nothing changes outside IPython, and in headless runs (LRNB_HEADLESS is set), whose runner tells errors
    itself. The cell has failed all the same: Run All stops there.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and not os.environ.get("LRNB_HEADLESS"):
        shell.set_custom_exc((UserError,), _shown_folded)


def _shown_folded(
    shell: Any, kind: type, error: UserError, trace: TracebackType, tb_offset: int | None = None
) -> list[str]:
    lines = shell.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=tb_offset)
    page = folded(str(error), ANSI_COLOURS.sub("", "\n".join(lines)))
    shell.display_pub.publish({"text/html": page, "text/plain": str(error)})
    return lines


def folded(sentence: str, trace: str) -> str:
    """The sentence as HTML, and the traceback in a part that opens at a click."""
    return (
        f'<div class="lrnb-failed" role="alert" style="{LOOK}">{escape(sentence)}</div>'
        f"<details><summary>Where it happened</summary><pre>{escape(trace)}</pre></details>"
    )
