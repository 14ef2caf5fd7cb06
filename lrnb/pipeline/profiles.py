"""Snakemake profiles: where the steps of a run work, and which of Snakemake's options a profile gives."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrnb.errors import UserError
from lrnb.study.parameters import ROOT, read_yaml

BUILT_IN = ("local", "dryrun", "touch")  # executors that come with Snakemake
SUBMITS = {"slurm": "sbatch"}  # executor -> the command that it submits with


@dataclass(frozen=True)
class Profile:
    """A profile's folder, None without one, and the options in its config.yaml, spelt with dashes."""

    folder: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def executor(self) -> str:
        return str(self.options.get("executor", "local"))

    @property
    def is_local(self) -> bool:
        """Whether steps are processes of this machine."""
        return self.executor in BUILT_IN

    def requests(self, own: Mapping[str, Any], classes: Iterable[str]) -> dict[str, Any]:
        """What a job asks for: default-resources, its `own` over them, and set-resources of its classes."""
        asked = _resources(self.options.get("default-resources")) | dict(own)
        given = self.options.get("set-resources") or {}
        for name in classes:
            asked |= _resources(given.get(name) if isinstance(given, Mapping) else _of_class(name, given))
        return asked

    def arguments(self, usual: Mapping[str, object], typed: Container[str] = ()) -> list[str]:
        """Snakemake's arguments for the options of `usual` that the profile does not give; `typed` all the
        same."""
        given = {*self.options, *(["cores"] if "jobs" in self.options else [])}  # here they say the same
        own = {key: value for key, value in usual.items() if key in typed or key not in given}
        return [part for key, value in own.items() for part in (f"--{key}", str(value))]


def _resources(given: Any) -> dict[str, Any]:
    """{"mem_mb": 16000}, however Snakemake lets it be spelt: so, or "mem_mb=16000" in a list or a line."""
    if isinstance(given, Mapping):
        return dict(given)
    parts = given.split() if isinstance(given, str) else given or []
    return {name: value for name, _, value in (str(part).partition("=") for part in parts)}


def _of_class(name: str, given: str | Iterable[str]) -> list[str]:
    """The requests of one class in a list of "ct:runtime=5760"."""
    parts = given.split() if isinstance(given, str) else given
    return [part.removeprefix(f"{name}:") for part in parts if part.startswith(f"{name}:")]


def find_profile(name: str) -> Profile:
    """The profile of a folder below profiles/, or of a path; none for "".

    UserError for another name, for a config.yaml that holds no options, and where the executor cannot work
    here.
    """
    refuse_unusable(profile := read_profile(name))
    return profile


def read_profile(name: str) -> Profile:
    """`find_profile`, whether or not it can work here."""
    if not name:
        return Profile()
    for folder in (ROOT / "profiles" / name, Path(name)):
        if (folder / "config.yaml").is_file():
            options = read_yaml(folder / "config.yaml")
            return Profile(folder, {str(key).replace("_", "-"): value for key, value in options.items()})
    known = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
    raise UserError(f"profile {name!r}: no config.yaml in it; known profiles are {', '.join(known)}")


def refuse_unusable(profile: Profile) -> None:
    """UserError where the executor's package or the command it submits with is not there."""
    name = profile.executor
    package = f"snakemake-executor-plugin-{name}"
    if name not in BUILT_IN and find_spec(package.replace("-", "_")) is None:
        raise UserError(
            f"{profile.folder}: executor {name!r} needs {package}, which is not installed. "
            f"Install it: {sys.executable} -m pip install {package}"
        )
    if name in SUBMITS and shutil.which(SUBMITS[name]) is None:
        raise UserError(
            f"{profile.folder}: there is no {SUBMITS[name]} on this machine. "
            "Start lrnb run where jobs are submitted, on a login node"
        )
