"""Work on a stream of documents by the study's threads, a few parts ahead of what is asked for.

What comes out is the same, in the same order, for every number of threads, errors of the stream included.
Threads do, since what takes the time holds no lock of Python: compiled loops (`text_loops`), tokenizers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

PART = 64  # documents that a thread takes at once
Given = TypeVar("Given")
Made = TypeVar("Made")


def parts(items: Iterable[Given], size: int = PART) -> Iterator[list[Given]]:
    """The items in lists of `size`; those before an error of their stream come before it."""
    part: list[Given] = []
    try:
        for item in items:
            part.append(item)
            if len(part) == size:
                yield part
                part = []
    except Exception:
        if part:
            yield part
        raise
    if part:
        yield part


def ahead(work: Callable[[Given], Made], items: Iterable[Given], threads: int) -> Iterator[Made]:
    """What `work` makes of each item, in their order, by `threads` that are one item ahead."""
    if threads == 1:
        yield from map(work, items)
        return
    stream, waiting = iter(items), deque[Future[Made]]()
    ended: Exception | None = None
    with ThreadPoolExecutor(threads, initializer=_alone) as pool:
        while waiting or ended is None:
            while ended is None and len(waiting) < threads + 2:
                try:
                    waiting.append(pool.submit(work, next(stream)))
                except Exception as error:
                    ended = error
            if waiting:
                yield waiting.popleft().result()
    if not isinstance(ended, StopIteration):
        raise ended


def _alone() -> None:
    """From here on this process's tokenizers start no threads of their own: they would wait for ours."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
