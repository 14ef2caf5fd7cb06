"""Where artefacts live, and how they get there: paths, manifests, atomic writes, locks.

A stage is done when its folder holds `manifest.json`; it is written last. Everything else in the folder
may be half-way after a crash, and the stage is then run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrnb.environment import device_name, versions
from lrnb.params import Study, UserError, budget_name
from lrnb.sweep import remove, sweep, unfinished

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class RunPaths:
    """The folders of one study: `<runs>/<preset>[-seed<k>]/{shared,<lang>}/...` (design, section 4)."""

    study: Study

    @property
    def root(self) -> Path:
        suffix = f"-seed{self.study.seed}" if self.study.seed else ""
        return Path(self.study.runs) / f"{self.study.preset}{suffix}"

    @property
    def shared(self) -> Path:
        return self.root / "shared"

    @property
    def world(self) -> Path:
        return self.shared / "world"

    @property
    def base(self) -> Path:
        return self.shared / "base"

    @property
    def sft(self) -> Path:
        return self.shared / "sft"

    @property
    def lang(self) -> Path:
        return self.root / self.study.lang

    @property
    def corpus(self) -> Path:
        return self.lang / "corpus"

    @property
    def scores(self) -> Path:
        return self.lang / "scores"

    @property
    def conflicts(self) -> Path:
        return self.lang / "conflicts"

    def atlas(self, budget: int) -> Path:
        return self.conflicts / budget_name(budget)

    @property
    def signs(self) -> Path:
        return self.lang / "signs"

    @property
    def saturation(self) -> Path:
        return self.lang / "saturation"

    def ct(self, budget: int | None = None) -> Path:
        return self._budget("ct", budget)

    def ct_then_sft(self, budget: int | None = None) -> Path:
        return self._budget("ct_then_sft", budget)

    def merge(self, method: str, budget: int | None = None) -> Path:
        return self._budget(f"merge/{method}", budget)

    def _budget(self, kind: str, budget: int | None) -> Path:
        return self.lang / kind / budget_name(budget) if budget else self.lang / kind

    @property
    def data_root(self) -> Path:
        """The folder with corpus/, eval/ and sft/. UserError where it is not given or not there."""
        if self.study.preset == "nano":
            return self.world
        given = self.study.data_root or os.environ.get("LRNB_DATA", "")
        if not given:
            raise UserError(
                "no data: give --set data_root=FOLDER (holding corpus/, eval/, sft/) or set LRNB_DATA"
            )
        if not Path(given, "eval").is_dir():
            raise UserError(
                f"data_root {given}: no folder eval/ in it; expected corpus/, eval/ and sft/ there"
            )
        return Path(given)


class Stage:
    """One stage's output folder. On clean exit its manifest is written, last and atomically.

    `inputs` are folders (their manifests are hashed) or files. After an exception there is no manifest.
    """

    def __init__(self, folder: Path, name: str, params: dict[str, Any], inputs: Iterable[Path] = ()) -> None:
        self.folder, self.name, self.params = Path(folder), name, params
        self.inputs = [require(path) for path in map(Path, inputs)]
        self.facts: dict[str, Any] = {}  # anything worth keeping beside the parameters

    def __enter__(self) -> Stage:
        make_folder(self.folder)
        sweep(self.folder)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self._start = time.time()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            write_text(self.folder / MANIFEST, json.dumps(self.manifest(), indent=1, default=str))

    def manifest(self) -> dict[str, Any]:
        """Input hashes, parameters, versions, output hashes, seconds, device."""
        return {
            "stage": self.name,
            "params": self.params,
            "facts": self.facts,
            "inputs": {os.path.relpath(p, self.folder): fingerprint(p) for p in self.inputs},
            "outputs": hashes(self.folder),
            "versions": versions(),
            "device": device_name(),
            "seconds": round(time.time() - self._start, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def require(path: Path, hint: str = "") -> Path:
    """`path`, a file or a finished stage's folder; UserError saying which notebook makes it otherwise."""
    path = Path(path)
    if path.is_file() or any((p / MANIFEST).is_file() for p in (path, path.parent) if path.is_dir()):
        return path
    state = "is unfinished" if path.is_dir() else "is missing"
    raise UserError(f"{path} {state}. {hint or _maker(path)}")


MAKERS = {
    "base": "01_ct/00_base",
    "world": "01_ct/00_base",
    "corpus": "01_ct/01_corpus",
    "ct": "01_ct/02_ct",
    "sft": "01_ct/03_sft",
    "ct_then_sft": "01_ct/03_sft",
    "average": "02_merge/01_average",
    "task_arithmetic": "02_merge/01_average",
    "ties": "02_merge/02_ties",
    "ties_sv": "02_merge/03_ties_sv",
    "parents": "02_merge/04_evaluate",
    "merged": "02_merge/04_evaluate",
    "scores": "03_analysis/01_scores",
    "conflicts": "03_analysis/02_discarded",
    "signs": "03_analysis/03_sign_conflicts",
    "saturation": "03_analysis/04_saturation",
    "failures": "03_analysis/05_failures",
}


def _maker(path: Path) -> str:
    for part in reversed(path.parts):
        if part in MAKERS:
            return (
                f"Run notebooks/{MAKERS[part]}.ipynb first, or the whole study: lrnb run params/<lang>.yaml"
            )
    return "Run the stage that makes it first: lrnb run params/<lang>.yaml"


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


def write_text(path: Path, text: str) -> None:
    """Write `path` atomically: a temporary file beside it, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends without an error."""
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
    """Hold `path`.lock; waits for `timeout` seconds (-1: for ever), then UserError."""
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    try:
        with FileLock(f"{path}.lock", timeout=timeout):
            yield
    except Timeout:
        message = f"{path} is in use by another run. Wait for it, or stop it, then start again"
        raise UserError(message) from None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """sha256 of a file, or of a stage folder's output hashes: timings in a manifest do not count."""
    if path.is_file():
        return sha256(path)
    manifest = path / MANIFEST
    outputs = read_manifest(path)["outputs"] if manifest.is_file() else hashes(path)
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of `visible_files`."""
    return {name: sha256(path) for name, path in visible_files(folder).items()}


def visible_files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` but manifests, hidden files and `work/` folders, by relative name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    named = {path.relative_to(folder).parts: path for path in files}
    hidden = {parts for parts in named if any(part.startswith(".") or part == "work" for part in parts)}
    return {"/".join(parts): path for parts, path in named.items() if parts not in hidden}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage."""
    return json.loads((require(Path(folder)) / MANIFEST).read_text(encoding="utf-8"))
