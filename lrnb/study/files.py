"""Files written whole or not at all: atomic files and folders, locks, hashes, room on the disk."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lrnb.errors import TryAgain, UserError

MANIFEST = "manifest.json"


TERMS = ("NOTICE*", "LICENSE*", "*TERMS*")  # files that must travel with a model's weights


def copy_terms(parent: Path, folder: Path) -> None:
    """Copy the licence and notice files of a model folder to a model made from it."""
    for path in sorted({p for pattern in TERMS for p in Path(parent).glob(pattern) if p.is_file()}):
        shutil.copyfile(path, Path(folder) / path.name)


def make_folder(folder: Path) -> Path:
    """Create `folder`; UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        remedy = "Free space, mend the rights, or --set runs=OTHER"
        raise UserError(f"{folder}: cannot write here ({error.strerror}). {remedy}") from None


def from_home(path: str) -> str:
    """A path with its `~/` expanded: a shell leaves that of NAME=~/x. UserError without a home folder."""
    if path != "~" and not path.startswith("~/"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise UserError(f"{path}: there is no home folder (HOME); give the whole path") from None


def write_text(path: Path, text: str) -> None:
    """Write `path` atomically: a temporary file beside it, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends without an error."""
    sweep(path)
    temporary = path.with_name(f"{unfinished(path)}{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder that replaces `path` when the block ends without an error."""
    path = Path(path)
    make_folder(path.parent)
    sweep(path)
    own = f"{unfinished(path)}{os.getpid()}."
    temporary = path.with_name(f"{own}{os.urandom(4).hex()}.tmp")
    try:  # from here on, so that an interrupt finds it
        temporary.mkdir()
        yield temporary
        old = path.with_name(f"{own}old")
        if path.exists() or path.is_symlink():
            os.replace(path, old)
        os.replace(temporary, path)
        remove(old)
        sweep(path)  # an older one that a killed process had moved away
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold `path` by a hidden file beside it; waits for `timeout` seconds (-1: for ever), then TryAgain."""
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    try:
        held = FileLock(path.with_name(f".{path.name}.lock")).acquire(timeout=timeout)
    except Timeout:
        message = f"{path} is in use by another run. Wait for it, or stop it, then start again"
        raise TryAgain(message) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise UserError(
            f"{path.parent}: its file system has no locks ({error}), without which two runs could write the "
            "same files. Use another: --set runs=FOLDER (LRNB_CACHE for the cache), or mount it with locks"
        ) from None
    with held:
        yield


def digest(value: object) -> str:
    """sha256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of `visible_files`."""
    return {name: sha256(path) for name, path in visible_files(folder).items()}


def visible_files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` but manifests, hidden files and `work/` folders, by relative name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    named = {path.relative_to(folder).parts: path for path in files}
    hidden = {parts for parts in named if any(part.startswith(".") or part == "work" for part in parts)}
    return {"/".join(parts): path for parts, path in named.items() if parts not in hidden}


UNFINISHED = re.compile(r"(?P<machine>.+)-(?P<pid>\d+)\.(\w+\.)?\w+")  # what follows a name and a dot


def unfinished(path: Path) -> str:
    """Start of the names of `path` in the making; a process number of this machine follows, then a dot."""
    return f".{path.name}.{platform.node()}-"


def sweep(path: Path, *, everywhere: bool = False) -> None:
    """Remove what killed processes of this machine left beside `path` while they made it.

    An older `path` that was moved away (.old) goes only where a new one is in place. `everywhere`: of other
    machines too, and of living processes; for who holds the lock of what `path` is made under.
    """
    import psutil

    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if not (made := UNFINISHED.fullmatch(left.name.removeprefix(f".{path.name}."))):
            continue
        gone = made["machine"] == platform.node() and not psutil.pid_exists(int(made["pid"]))
        if (everywhere or gone) and (left.suffix != ".old" or path.exists()):
            remove(left)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


LARGER_CACHE = "set LRNB_CACHE to a folder on a larger disk"


def default_cache() -> Path:
    """$LRNB_CACHE, else ~/.cache/lrnb."""
    return Path(os.environ.get("LRNB_CACHE") or Path.home() / ".cache" / "lrnb")


def remembered(name: str, key: str, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, as JSON in the cache's file `name` under `key`: computed at the first call only.

    A file that cannot be read or written makes it compute again.
    """
    path = default_cache() / name
    if key not in (known := json_object(path)):
        known[key] = compute()
        with contextlib.suppress(OSError, UserError), lock(make_folder(path.parent) / name):
            write_text(path, json.dumps(json_object(path) | known, indent=1))
    return known[key]


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # a pipe never ends
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def free_space(place: Path) -> int:
    """Bytes free where `place` is, or will be."""
    place = place.absolute()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.is_dir())).free


def need_space(place: Path, size: int, otherwise: str) -> None:
    """UserError where less than `size` bytes are free for `place`; `otherwise`: what to do but free some."""
    if (free := free_space(place)) < size:
        raise UserError(
            f"{place}: needs {size:,} bytes, the disk has {free:,} free. Free space, or {otherwise}"
        )


@contextlib.contextmanager
def full_disk_message(folder: Path) -> Iterator[None]:
    """Turns "no space left", from Python or from safetensors, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise full_disk(folder) from None


def is_full_disk(error: BaseException) -> bool:
    """Whether the error says that no space is left (or no quota), as Python, safetensors or a log says it."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def full_disk(folder: Path) -> UserError:
    return UserError(
        f"{folder}: the disk is full ({free_space(folder):,} bytes free); nothing half-written stays. Free "
        "space, or use another disk (--set runs=FOLDER), then run the same command again"
    )
