"""How far a stage is: a bar where a person looks, a small JSON file where the batch runner looks."""

from __future__ import annotations

import json
import os
import time
from typing import Any

EVERY = 0.5  # seconds between writes


class Progress:
    """Counts `unit`s of one stage. Headless (LRNB_PROGRESS names a file): JSON there; else a tqdm bar."""

    def __init__(self, stage: str, total: int, unit: str = "tokens") -> None:
        self.stage, self.total, self.unit, self.done = stage, int(total), unit, 0
        self.started = self._written = time.time()
        self._path = os.environ.get("LRNB_PROGRESS")
        self._bar = None if self._path else _bar(stage, total, unit)
        self._write()

    def update(self, more: int = 1) -> None:
        """`more` units are done."""
        self.done += int(more)
        if self._bar is not None:
            self._bar.update(int(more))
        elif time.time() - self._written > EVERY:
            self._write()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._write()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self) -> dict[str, Any]:
        """What the JSON file holds; `rate` in units a second, times in seconds since the epoch."""
        now = time.time()
        rate = self.done / max(now - self.started, 1e-9)
        keys = ("stage", "done", "total", "unit", "started")
        return {key: getattr(self, key) for key in keys} | {"rate": rate, "updated": now}

    def _write(self) -> None:
        if not self._path:
            return
        self._written = time.time()
        temporary = f"{self._path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.state(), file)
        os.replace(temporary, self._path)


def _bar(stage: str, total: int, unit: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=stage, unit=f" {unit}", unit_scale=True, mininterval=EVERY)
