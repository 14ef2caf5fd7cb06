"""Where artefacts live, and how they get there: paths, manifests, drafts, locks.

How a stage stays safe: it is written into a hidden draft beside its folder. When all is there, the manifest
is written into the draft, last and atomically; from then on the draft is whole, and two renames put it in the
place of the old folder. So old results stay until new ones are whole, whatever raises, and a process killed
with `kill -9` at any moment leaves the old folder, or a whole draft that the next reader or writer puts in
place. A stage made again to the same results leaves its folder as it is. A lock file keeps two processes
apart. Manifests hold hashes of inputs and outputs, so that results
whose inputs have changed since are found (`stale`) and not computed on (`current`).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from lrnb.errors import UserError
from lrnb.study.environment import device_name, instruction_set, processor_name, versions
from lrnb.study.files import (
    MANIFEST,
    digest,
    full_disk_message,
    hashes,
    is_full_disk,
    json_object,
    lock,
    make_folder,
    remove,
    sha256,
    write_text,
)
from lrnb.study.parameters import PRESETS, SFT_X, SYNTHETIC, Study, budget_name, read_yaml, validate
from lrnb.study.recipe import RECIPE

TIMINGS = ("device", "processor", "isa", "seconds", "finished")  # of a manifest: how it was made, not what


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
        return (self.arm if self.rows else self.shared) / "sft"

    @property
    def lang(self) -> Path:
        return self.root / self.study.lang

    @property
    def rows(self) -> str:
        """`sft_x_name`; "", so English, in a notebook that does not declare it."""
        return self.study.sft_x_name if "sft_x_name" in self.study.model_fields_set else ""

    @property
    def arm(self) -> Path:
        """Where CT-then-SFT and merges lie; those of `sft_x_name` beside the others, with their SFT."""
        return self.lang / f"{SFT_X}{self.rows}" if self.rows else self.lang

    def of_rows(self, name: str) -> RunPaths:
        """The folders of the same study with SFT on the rows that `sft_x` calls `name`; "" English ones."""
        return RunPaths(self.study.model_copy(update={"sft_x_name": name}))

    @property
    def corpus(self) -> Path:
        return self.lang / "corpus"

    @property
    def extended(self) -> Path:
        """The base with tokens of X, where `extend_vocabulary` asks for them."""
        return self.lang / "extended"

    @property
    def start(self) -> Path:
        """What CT starts from."""
        return self.extended if self.study.extend_vocabulary else self.base

    @property
    def scores(self) -> Path:
        return self.lang / "scores"

    @property
    def importance(self) -> Path:
        """Scores of entries that merges read, a folder a kind."""
        return self.arm / "importance"

    def scored(self, group: str) -> Path:
        """Scores of `parents` or `merged`, which the stage `scores` reads, or of what `sft_x_name` made."""
        return self.arm / "scored" / group

    @property
    def conflicts(self) -> Path:
        return self.lang / "conflicts"

    def atlas(self, budget: int) -> Path:
        return self.conflicts / budget_name(budget)

    @property
    def signs(self) -> Path:
        return self.lang / "signs"

    @property
    def rows_in_x(self) -> Path:
        """What SFT on rows in X does beside SFT on English ones, where there is `sft_x`."""
        return self.lang / "rows_in_x"

    @property
    def saturation(self) -> Path:
        return self.lang / "saturation"

    @property
    def retention(self) -> Path:
        return self.lang / "retention"

    def ct(self, budget: int | None = None) -> Path:
        return self.lang / "ct" / budget_name(budget) if budget else self.lang / "ct"

    def ct_then_sft(self, budget: int | None = None) -> Path:
        return self._budget("ct_then_sft", budget)

    def merge(self, method: str, budget: int | None = None) -> Path:
        return self._budget(f"merge/{method}", budget)

    def together(self, langs: Iterable[str]) -> Path:
        """Of merges of the CT of several languages with one SFT, beside the languages."""
        return self.root / "+".join(langs)

    @property
    def sets(self) -> Path:
        """What merges of sets of languages keep, beside the languages."""
        return self.root / "sets" / "kept"

    def _budget(self, kind: str, budget: int | None) -> Path:
        return self.arm / kind / budget_name(budget) if budget else self.arm / kind

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
    """One stage's output. What the block writes into `draft` takes the place of `folder` when it ends well.

    `inputs` are folders of finished stages, or files; UserError where one is missing, or was itself made
    from something that has changed since. After an error `folder` is as it was, and the draft is gone;
    that of a stage that `resumes` stays, so that it can go on from the resume points in its `work/`. They go
    when it is whole, unless it `leaves_work`.
    UserError where another process is at the same stage.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        params: dict[str, Any],
        inputs: Iterable[Path] = (),
        *,
        resumes: bool = False,
        leaves_work: bool = False,
    ) -> None:
        self.folder, self.name, self.params, self.resumes = Path(folder), name, params, resumes
        self.leaves_work = leaves_work
        self.inputs = [current(path) for path in map(Path, inputs)]
        self.draft = _beside(self.folder, "draft")
        self.facts: dict[str, Any] = {}  # anything worth keeping beside the parameters

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock(_place(self.folder), timeout=0))
            _publish(self.folder)
            if not self.resumes:
                remove(self.draft)
            make_folder(self.draft)
            self._held = stack.pop_all()
        self._start = time.time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        with self._held, full_disk_message(self.folder):
            try:
                if kind is None:
                    self._finish(json.dumps(self.manifest(), indent=1, default=str))
            finally:
                if not (self.draft / MANIFEST).is_file() and not self._to_resume():
                    remove(self.draft)
            if error is not None and is_full_disk(error):
                raise error

    def _to_resume(self) -> bool:
        return self.resumes and self.draft.is_dir() and any(self.draft.iterdir())

    def _finish(self, manifest: str) -> None:
        if _stands(self.folder, self.draft, json.loads(manifest)):
            # left as it is, the run it belongs to stays finished
            remove(self.draft)
        else:
            write_text(self.draft / MANIFEST, manifest)
            _publish(self.folder)

    def manifest(self) -> dict[str, Any]:
        """Input hashes, parameters, recipe, versions, output hashes, seconds, device, instruction set."""
        return {
            "stage": self.name,
            "params": self.params,
            "facts": self.facts,
            "inputs": {os.path.relpath(p, self.folder): fingerprint(p) for p in self.inputs},
            "outputs": hashes(self.draft),
            "recipe": RECIPE,
            "versions": versions(),
            "device": device_name(self.params.get("device", "auto")),
            "processor": processor_name(),
            "isa": instruction_set(),
            "seconds": round(time.time() - self._start, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **({"leaves_work": True} if self.leaves_work else {}),
        }


def _stands(folder: Path, draft: Path, manifest: dict[str, Any]) -> bool:
    """Whether `folder` holds, whole, what `draft` and its `manifest` do, made from the same: only times may
    differ.
    """
    below = [path.relative_to(draft) for path in draft.rglob(MANIFEST)]  # of the models in a stage
    pairs = [(json_object(folder / MANIFEST), manifest)]
    pairs += [(json_object(folder / path), json_object(draft / path)) for path in below]
    same = all(old.get(key) == new[key] for old, new in pairs for key in new.keys() - {*TIMINGS})
    return same and hashes(folder).items() >= manifest["outputs"].items()


def _place(folder: Path) -> Path:
    """A stage's folder, where it is a link the one behind it: renames stay on its disk."""
    return Path(os.path.realpath(folder))


def _beside(folder: Path, kind: str) -> Path:
    """The hidden sibling of a stage's folder that holds its draft, or what was there before."""
    return _place(folder).with_name(f".{_place(folder).name}.{kind}")


def _publish(folder: Path) -> None:
    """Put a whole draft in the place of `folder`, if there is one; ends what a kill broke off."""
    place, draft, old = _place(folder), _beside(folder, "draft"), _beside(folder, "old")
    if (draft / MANIFEST).is_file():
        if not _read(draft).get("leaves_work"):
            remove(draft / "work")
        if place.exists():
            remove(old)
            os.replace(place, old)
        os.replace(draft, place)
    if place.exists():
        remove(old)


def _settle(folder: Path) -> None:
    """End what a killed process began; nothing where a living one is at it."""
    if any(_beside(folder, kind).exists() for kind in ("draft", "old")):
        with contextlib.suppress(UserError), lock(_place(folder), timeout=0):
            _publish(folder)


def require(path: Path, hint: str = "") -> Path:
    """`path`, a file or a finished stage's folder; UserError saying which notebook makes it otherwise."""
    for folder in (path := Path(path), path.parent):
        _settle(folder)
    if path.is_file() or _home(path):
        return path
    state = "is unfinished" if path.is_dir() else "is missing"
    raise UserError(f"{path} {state}. {hint or _remedy(path)}")


def current(path: Path, hint: str = "") -> Path:
    """`require`, and UserError where it was made from something that has changed since."""
    for change in stale(require(path, hint)):
        raise UserError(str(change))
    return Path(path)


class Stale(NamedTuple):
    """A stage whose input is not what it was when the stage was made."""

    stage: Path
    source: Path

    def __str__(self) -> str:
        what = f"{self.stage} was made from {self.source}, which has changed since"
        return f"{what}. {_remedy(self.stage, 'again')}"


def stale(*paths: Path) -> list[Stale]:
    """Wherever one of `paths`, or what it was made from, was made from something else than is there now.

    Inputs first, compared by the hashes in the manifests; inputs that are no longer there are passed over.
    """
    seen: set[Path] = set()
    found: dict[Stale, None] = {}
    for path in paths:
        _collect(path, seen, found)
    return list(found)


def _collect(path: Path, seen: set[Path], found: dict[Stale, None]) -> None:
    home = _home(path)
    if home is None or home in seen:
        return
    seen.add(home)
    for name, then in _read(home).get("inputs", {}).items():
        source = Path(os.path.normpath(home / name))
        if isinstance(then, str) and source.exists():
            _collect(source, seen, found)
            if fingerprint(source) != then:
                found[Stale(home, source)] = None


def _home(path: Path) -> Path | None:
    """The folder of the finished stage that made the folder `path`: itself, or the one around it."""
    made = [home for home in (path, path.parent) if path.is_dir() and (home / MANIFEST).is_file()]
    return next((home for home in made if "finished" in _read(home)), made[0] if made else None)


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
    "merge": "02_merge/any_method",  # of a method that has no notebook of its own
    "importance": "02_merge/00_importance",
    "parents": "02_merge/04_evaluate",
    "merged": "02_merge/04_evaluate",
    "sft_x": "02_merge/04_evaluate",
    "rows_in_x": "03_analysis/09_rows_in_x",
    "scores": "03_analysis/01_scores",
    "conflicts": "03_analysis/02_discarded",
    "signs": "03_analysis/03_sign_conflicts",
    "saturation": "03_analysis/04_saturation",
    "failures": "03_analysis/05_failures",
    "retention": "03_analysis/08_retention",
    "kept": "03_analysis/10_sets",
}


def _remedy(path: Path, when: str = "first") -> str:
    """What to run to have the stage whose folder is `path`, or is around it."""
    known = next((MAKERS[part] for part in reversed(path.parts) if part in MAKERS), None)
    one = f"Run notebooks/{known}.ipynb {when}, or all that is" if known else "Run what is"
    return f"{one} not up to date: {_command(path)}"


def _command(path: Path) -> str:
    """The command that brings the run around `path` up to date; of a shared folder, a run beside it."""
    around = path.absolute().parents
    root = next((p for p in around if p.name.partition("-seed")[0] in PRESETS), None)
    runs = [p / "params.yaml" for p in around] + (sorted(root.glob("*/params.yaml")) if root else [])
    if found := next((params for params in runs if params.is_file()), None):
        return _again(found)
    if root is None:
        return f"lrnb run params/{SYNTHETIC[0]}.yaml"
    preset, _, seed = root.name.partition("-seed")
    options = [f"--preset {preset}", *([f"--seed {seed}"] if seed else []), *_elsewhere("runs", root.parent)]
    return " ".join([f"lrnb run params/{_language(path.absolute(), root)}.yaml", *options])


def _language(path: Path, root: Path) -> str:
    """The language whose folder `path` is in; where languages share it, nano's first one or a placeholder."""
    lang = path.relative_to(root).parts[0]
    return lang if lang != "shared" else SYNTHETIC[0] if root.name.startswith("nano") else "LANG"


def _again(params: Path) -> str:
    """The command for a run folder with its own parameters, wherever it was moved to."""
    home, command = params.parent, f"lrnb run {quote(str(params))} --preset"
    try:
        study = validate(read_yaml(params), str(params))
    except UserError:  # which the command says, too
        return f"{command} {home.parent.name.partition('-seed')[0]}"
    place = RunPaths(study).lang
    if place.parts[-2:] != home.parts[-2:]:
        home = home.parent.joinpath(*place.parts[-2:])
        command = (
            f"first move {params.parent} to {home}, then lrnb run {quote(f'{home}/params.yaml')} --preset"
        )
    return " ".join([f"{command} {study.preset}", *_elsewhere(study.runs, home.parents[1])])


def _elsewhere(runs: str, folder: Path) -> list[str]:
    """The option for runs in `folder`, where the parameter `runs` names another."""
    here = Path(runs).resolve() == folder.resolve()
    return [] if here else [f"--set {quote(f'runs={folder}')}"]


def fingerprint(path: Path) -> str:
    """sha256 of a file, or of the output hashes of a stage's folder or of a folder in it.

    Timings in a manifest do not count.
    """
    if path.is_file():
        return sha256(path)
    if (path / MANIFEST).is_file():
        return digest(_read(path)["outputs"])
    prefix = f"{path.name}/"
    around = _read(path.parent)["outputs"] if (path.parent / MANIFEST).is_file() else {}
    within = {name.removeprefix(prefix): found for name, found in around.items() if name.startswith(prefix)}
    return digest(within or hashes(path))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage."""
    return _read(require(Path(folder)))


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
