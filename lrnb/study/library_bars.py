"""Bars of transformers, datasets and huggingface_hub: the study's own progress, where no person looks."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from tqdm.std import tqdm

from lrnb.study.progress import EVERY, Progress

BARS = ("huggingface_hub.utils.tqdm", "datasets.utils.tqdm")  # modules, each with a `tqdm` of its own
UNITS = {"B": "bytes", "it": "items"}


@contextlib.contextmanager
def told_for_libraries() -> Iterator[None]:
    """In the block the bars of those libraries that are imported are `LibraryBar`s where it is headless.

    Downloads, preparing data sets, loading and saving weights; elsewhere their bars stay as they are.
    """
    with contextlib.ExitStack() as stack:
        if os.environ.get("LRNB_PROGRESS"):
            for module in (sys.modules[name] for name in BARS if name in sys.modules):
                stack.enter_context(_made_into_ours(module.tqdm))
            if transformers := sys.modules.get("transformers.utils.logging"):
                stack.callback(transformers.set_tqdm_hook, transformers.set_tqdm_hook(_hook))
        yield


class LibraryBar(tqdm):
    """A tqdm that writes a `Progress` in the place of a line."""

    monitor_interval = 0  # no thread of tqdm's that draws it anew

    def __init__(self, *given: Any, **how: Any) -> None:
        how.pop("name", None)  # of huggingface_hub, which switches bars off by it
        ours = {
            "disable": bool(how.get("disable")),
            "mininterval": EVERY,
            "miniters": 1,
            "file": io.StringIO(),
        }
        super().__init__(*given, **how | ours)

    @cached_property
    def told(self) -> Progress:
        unit = self.unit.strip()
        return Progress(self._stage(), int(self.total or 0), UNITS.get(unit, unit))

    def _stage(self) -> str:
        return self.desc.strip(": ").lower()

    def display(self, *_: Any, **__: Any) -> None:
        """Writes how far it is, with tqdm's rate: what was there when a download went on is no part of it."""
        self.told.stage, self.told.total, self.told.done = self._stage(), int(self.total or 0), int(self.n)
        now = self.format_dict
        self.told.write(now["rate"] or (self.n - self.initial) / max(now["elapsed"], 1e-9))

    def __del__(self) -> None:
        """Whoever leaves a bar open has nothing more to tell."""


LibraryBar.set_lock(threading.RLock())  # tqdm's own is one of several processes


def _hook(_: Any, given: tuple[Any, ...], how: dict[str, Any]) -> LibraryBar:
    """What transformers asks for a bar: of tensors, where it does not say of what."""
    return LibraryBar(*given, **{"unit": "tensors"} | how)


@contextlib.contextmanager
def _made_into_ours(kind: Any) -> Iterator[None]:
    """In the block a call of the class `kind` gives a `LibraryBar`, under whatever name it was imported."""
    before = vars(kind).get("__new__")
    kind.__new__ = lambda _, *given, **how: LibraryBar(*given, **how)
    try:
        yield
    finally:
        if before:
            kind.__new__ = before
        else:
            del kind.__new__
