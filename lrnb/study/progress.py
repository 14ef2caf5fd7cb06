"""How far a stage is: a bar where a person looks, a small JSON file where the batch runner looks."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

EVERY = 0.5  # seconds between writes
DELAY = 1.0  # seconds before a bar is shown: what is done by then needs none
SAY = 10.0  # seconds between lines of a log
T = TypeVar("T")
_PART = ContextVar("part", default=(0, 1))


@contextlib.contextmanager
def part(place: int, of: int) -> Iterator[None]:
    """What is counted in the block is one of `of` equal parts of the stage, `place` (from 0) of them done."""
    before = _PART.set((place, of))
    try:
        yield
    finally:
        _PART.reset(before)


class Progress:
    """Counts `unit`s of one stage. Headless (LRNB_PROGRESS names a file): JSON there; else a tqdm bar.

    total 0: nobody knows how many there will be; what is done and its rate are shown. Of several processes
    that train together (torchrun's RANK), only the first tells.
    """

    def __init__(self, stage: str, total: int, unit: str = "tokens") -> None:
        self.stage, self.total, self.unit, self.done = stage, int(total), unit, 0
        self.started, self._begun = time.time(), time.monotonic()
        self._part = _PART.get()
        told = os.environ.get("RANK", "0") == "0"
        self._path = os.environ.get("LRNB_PROGRESS") if told else None
        self._bar = _bar(stage, total, f" {unit}") if told and not self._path else None
        self.write()

    def update(self, more: int = 1) -> None:
        """`more` units are done."""
        self.done += int(more)
        if self._bar is not None:
            self._bar.update(int(more))
        elif time.monotonic() - self._written > EVERY:
            self.write()

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """The items as they come, each counted when the next is asked for."""
        for item in items:
            yield item
            self.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self.write()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What ended well is shown whole: totals are estimates, and a bar that falls short turns red."""
        if kind is None and self._bar is not None:
            self._bar.update(max(self.total - self._bar.n, 0))
        self.close()

    def state(self) -> dict[str, Any]:
        """What the JSON file holds, of the whole stage: `rate` in units a second, times in seconds since the
        epoch.
        """
        place, of = self._part
        rate = self.done / max(time.monotonic() - self._begun, 1e-9)  # clocks are set back
        whole = {"done": self.done + place * self.total, "total": of * self.total}
        keys = ("stage", "unit", "started")
        return whole | {key: getattr(self, key) for key in keys} | {"rate": rate, "updated": time.time()}

    def write(self, rate: float | None = None) -> None:
        """The JSON file anew; rate: in the place of the mean one, where it is known better."""
        self._written = time.monotonic()
        if not self._path:
            return
        temporary = f"{self._path}.{os.getpid()}.{threading.get_native_id()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.state() | ({} if rate is None else {"rate": rate}), file)
        os.replace(temporary, self._path)


class Meter:
    """Bytes gone through: a bar on a terminal or in a notebook with a person; else a line now and then.

    Headless runs, logs and papermill get a line every `SAY` seconds and one at the end, none if it is
    over sooner. `update` may be called by several threads.
    """

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done, self._lock = label, max(int(total), 1), 0.0, threading.Lock()
        self.started = self._said = time.monotonic()
        self._bar = _bar(label, self.total, "B") if _watched() else None

    def update(self, more: float) -> None:
        """`more` bytes are done."""
        with self._lock:
            self.done += more
            if self._bar is not None:
                self._bar.update(more)
            elif time.monotonic() - self._said > SAY:
                self._say()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._said > self.started:
            self._say()

    def line(self) -> str:
        """label, share, bytes, rate, time left."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        left = max(self.total - self.done, 0) / rate if rate else 0
        return (
            f"{self.label}: {min(self.done / self.total, 1):.0%}, "
            f"{self.done / 1e9:.1f} of {self.total / 1e9:.1f} GB, {rate / 1e9:.2f} GB/s, "
            f"{int(left) // 60}:{int(left) % 60:02} left"
        )

    def _say(self) -> None:
        self._said = time.monotonic()
        print(self.line(), file=sys.stderr, flush=True)


def _watched() -> bool:
    """Whether somebody sees a bar move: a terminal, or a notebook outside the batch runner."""
    return not os.environ.get("LRNB_PROGRESS") and (sys.stderr.isatty() or "ipykernel" in sys.modules)


def _bar(label: str, total: int, unit: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total or None, desc=label, unit=unit, unit_scale=True, mininterval=EVERY, delay=DELAY)
