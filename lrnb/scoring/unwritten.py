"""A model that is on no disk: its weights are made when they are asked for, all else is a folder's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lrnb.study.files import digest, sha256

State = Mapping[str, np.ndarray]
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
PAPERS = (".", "manifest.json", "README")  # how names begin of files that no model is read from


@dataclass(eq=False)
class Unwritten:
    """like: a folder with its architecture and tokenizer. make: gives the weights that a `Scorer` takes."""

    like: Path
    make: Callable[[], State]
    _made: State | None = field(default=None, repr=False)

    def state(self) -> State:
        """The weights; they are held until `forget`."""
        if self._made is None:
            self._made = self.make()
        return self._made

    def forget(self) -> None:
        """Let go of the weights; asked for again they are made again."""
        self._made = None

    @cached_property
    def mark(self) -> str:
        """A hash of the weights, and of what is read of the folder beside its own weights."""
        beside = {path.name: sha256(path) for path in model_files(self.like) if not _is_weights(path)}
        return digest([beside, {name: _hash(array) for name, array in sorted(self.state().items())}])


def model_files(folder: Path) -> list[Path]:
    """The files that decide what a folder's model answers."""
    return [path for path in folder.glob("*") if path.is_file() and not path.name.startswith(PAPERS)]


def _is_weights(path: Path) -> bool:
    return path.name.endswith(WEIGHTS)


def _hash(array: np.ndarray) -> str:
    values = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    return f"{array.dtype} {array.shape} {values}"
