"""What killed processes leave behind: names of files in the making, and their removal."""

from __future__ import annotations

import glob
import platform
import shutil
from pathlib import Path


def unfinished(path: Path) -> str:
    """Start of the names of `path` in the making; a process number of this machine follows, then a dot."""
    return f".{path.name}.{platform.node()}-"


def sweep(path: Path) -> None:
    """Remove what killed processes of this machine left beside `path` while they made it.

    An older `path` that was moved away (.old) goes only where a new one is in place.
    """
    import psutil

    start = unfinished(path)
    for left in path.parent.glob(f"{glob.escape(start)}*"):
        pid = left.name.removeprefix(start).partition(".")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)) and (left.suffix == ".tmp" or path.exists()):
            remove(left)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
