"""What is no file of its own, before it is read: a pipe or a device has no end, a pointer only says where."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lrnb.errors import UserError

AGAIN = "Copy or download the file again."
POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_odd_file(path: Path) -> None:
    """UserError for what is not there or no file, and for a pointer of Git LFS."""
    if not path.is_file():
        raise UserError(f"{path}: {_kind(path)}. {AGAIN}")
    refuse_pointer(path)


def refuse_pointer(path: Path) -> None:
    """UserError for a file that says where another one is. OSError where it cannot be read."""
    with open(path, "rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise UserError(f"{path}: a Git LFS pointer, not the file itself. Get it by `git lfs pull`")


def refuse_odd_files_of(folder: Path, patterns: tuple[str, ...]) -> None:
    """`refuse_odd_file` for what a folder has under these names, be it used or not.

    Folders, links to nothing and what may not be read pass: who uses them is told.
    """
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        if path.exists() and not path.is_dir():
            with contextlib.suppress(OSError):
                refuse_odd_file(path)


def _kind(path: Path) -> str:
    if path.is_fifo() or path.is_socket():
        return "not a file, but a pipe"
    if path.is_dir():
        return "not a file, but a folder"
    if path.exists():
        return "not a file, but a device"
    return "a link to nothing" if path.is_symlink() else "this file is missing"
