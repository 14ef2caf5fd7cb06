"""Token ids that are on disk already, from which a corpus stage that was interrupted goes on.

Reading and cleaning are done again: by the documents that come, with their hashes, what lies there is known
to be theirs. Cutting, which takes a hundred times as long as looking it up, is not. A corpus of less than a
piece writes nothing.
"""

from __future__ import annotations

import hashlib
import zipfile
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.study.files import atomic_file, make_folder

ENOUGH = 1 << 22  # tokens of a piece: some 20 MB of text, 4 seconds of cutting


class Piece:
    """The ids of documents that follow each other, with a hash of each document."""

    def __init__(self) -> None:
        self.hashes, self.ends, self.ids = array("Q"), array("Q"), array("I")

    def add(self, own: int, ids: list[int]) -> None:
        """The ids of a document with the hash `own`."""
        self.hashes.append(own)
        self.ids.extend(ids)
        self.ends.append(len(self.ids))

    def documents(self) -> Iterator[tuple[int, list[int]]]:
        """Hash and ids of each document."""
        for start, end, own in zip([0, *self.ends], self.ends, self.hashes, strict=False):
            yield own, self.ids[start:end].tolist()

    def write(self, path: Path, key: str) -> None:
        """As a file that is there whole or not at all; `key`: what the ids depend on but the documents."""
        make_folder(path.parent)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = {name: np.array(part) for name, part in vars(self).items()}
            np.savez(file, key=np.array(key), **arrays)

    @classmethod
    def read(cls, path: Path, key: str) -> Piece | None:
        """The piece in a file; None where there is none, a damaged one or one of another key."""
        piece = cls()
        try:
            with np.load(path) as found:
                if str(found["key"]) != key:
                    return None
                for name, part in vars(piece).items():
                    part.frombytes(found[name].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return piece


def resumed(
    documents: Iterable[str], cut: Callable[[Iterable[str]], Iterator[list[int]]], folder: Path,
    key: Callable[[], str],
) -> Iterator[list[int]]:  # fmt: skip
    """What `cut` makes of the documents: from pieces in `folder` as far as they go, which then grow.

    key: what the ids depend on but the documents; asked for where there are pieces, or is text for one.
    """
    stream, piece = iter(documents), Piece()
    for number in count():
        path = folder / f"{number}.npz"
        if not (stored := Piece.read(path, key()) if path.is_file() else None):
            break
        piece, stream = yield from _taken(stored, stream)
        if len(piece.hashes) < len(stored.hashes):
            break
        piece = Piece()
    yield from _cut_on(stream, cut, piece, (folder / f"{n}.npz" for n in count(number)), key)


def _taken(stored: Piece, stream: Iterator[str]) -> Generator[list[int], None, tuple[Piece, Iterator[str]]]:
    """The stored ids of documents as long as they are those that come; returns these, and what comes then."""
    taken = Piece()
    for own, ids in stored.documents():
        if (text := next(stream, None)) is None:
            break
        if hash_of(text) != own:
            return taken, chain([text], stream)
        taken.add(own, ids)
        yield ids
    return taken, stream


def _cut_on(
    documents: Iterator[str], cut: Callable[[Iterable[str]], Iterator[list[int]]], piece: Piece,
    paths: Iterator[Path], key: Callable[[], str],
) -> Iterator[list[int]]:  # fmt: skip
    """What `cut` makes of documents, written to `paths` piece by piece; the first goes on with `piece`."""
    hashes = deque[int]()

    def noted() -> Iterator[str]:
        for text in documents:
            hashes.append(hash_of(text))
            yield text

    for ids in cut(noted()):
        piece.add(hashes.popleft(), ids)
        if len(piece.ids) >= ENOUGH:
            piece.write(next(paths), key())
            piece = Piece()
        yield ids


def hash_of(text: str) -> int:
    """64 bits of a text's hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
