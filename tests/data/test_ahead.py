"""Work by several threads: the same results in the same order, and errors where the stream has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lrnb.data.ahead import ahead, parts


def broken(items: int) -> Iterator[int]:
    yield from range(items)
    raise ValueError("the file ends here")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_stands_before_an_error_comes_before_it(threads: int) -> None:
    found: list[int] = []
    with pytest.raises(ValueError, match="the file ends here"):
        for part in ahead(sum, parts(broken(100), 7), threads):
            found.append(part)
    assert found == [sum(range(start, min(start + 7, 100))) for start in range(0, 100, 7)]


@pytest.mark.parametrize("threads", [2, 3])
def test_as_many_threads_work_at_once_and_few_parts_are_read_ahead(threads: int) -> None:
    """Each part waits until as many are at work: with fewer threads this would never end."""
    together, read = threading.Barrier(threads, timeout=30), []
    stream = ahead(lambda _: together.wait() >= 0, map(read.append, range(6 * threads)), threads)
    assert next(stream) and len(read) <= threads + 2
    assert all(stream) and len(read) == 6 * threads


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_work_is_raised_in_its_turn(threads: int) -> None:
    found: list[float] = []
    with pytest.raises(ZeroDivisionError):
        found.extend(ahead(lambda x: 6 / x, [3, 2, 1, 0, 1], threads))
    assert found == [2, 3, 6]
