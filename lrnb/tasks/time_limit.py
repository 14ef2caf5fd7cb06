"""A limit on what somebody else's template or regular expression may take, for one item."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lrnb.errors import UserError

SECONDS = 60.0  # of an item; templates and expressions that end take milliseconds


@contextmanager
def time_limit(what: str, seconds: float = SECONDS) -> Iterator[None]:
    """UserError where the block takes longer. `what` is the start of its sentence: "task 'x': its filter".

    Python looks at signals in loops and in `re`, so both are cut off; only the main thread gets them, and
    elsewhere, or where a system has no timers, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise UserError(f"{what} runs for more than {seconds:g} s; correct its template or expression")

    handler, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    (left, again) = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        left = max(left - (time.monotonic() - start), 1e-3) if left else 0.0  # of a timer that was there
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, again)
