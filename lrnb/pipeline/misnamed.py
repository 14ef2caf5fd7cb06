"""What lies below a data root and looks like a study's text or rows, under a name that nothing reads.

Only where what the study asks for is not there: else own rows would give way to the Hub's without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import regex

from lrnb.data import corpus
from lrnb.pipeline import supplies
from lrnb.study.languages import says_language
from lrnb.study.parameters import ENGLISH, Study
from lrnb.study.stages import RunPaths
from lrnb.tasks import rows
from lrnb.tasks.row_forms import SUFFIXES
from lrnb.tasks.task_file import TaskSpec, available, spec
from lrnb.tasks.vocabulary_texts import SPLIT

CALLED = {  # split -> what others call it
    "test": ("test", "testing", "devtest", "eval", "evaluation"),
    "dev": ("dev", "devel", "development", "val", "valid", "validation"),
    "train": ("train", "training"),
}


def misnamed(study: Study) -> list[str]:
    """A line for each file or folder that would be read by another name, and that name."""
    root = RunPaths(study).data_root
    found = [*_texts(study, root), *_folders(study, root), *_splits(study, root)]
    if study.trains:
        found += _english(study, root)
    return list(dict.fromkeys(f"{path}: is not read; {remedy}" for path, remedy in found))


Found = Iterator[tuple[Path, str]]


def _texts(study: Study, root: Path) -> Found:
    for lang in supplies.needed_text(study):
        paths = _entries(root / "corpus")
        if not any(path.name == f"{lang}{suffix}" for path in paths for suffix in corpus.SUFFIXES):
            for path in paths:
                if _says(path, lang, study):
                    yield path, _call(path, lang, corpus.SUFFIXES)


def _folders(study: Study, root: Path) -> Found:
    """Folders of a language that its tasks do not read, in the task's folder or in one that looks like it."""
    for _, task, lang in supplies.asked_tasks(study):
        own = root / "eval" / task.metadata.data
        if (own / lang).is_dir() or rows.local_file(task, lang, "test", root).is_file():
            continue
        others = [path for path in _entries(root / "eval") if _like(path, task)]
        for path in (path for folder in (own, *others) for path in _entries(folder)):
            if path.name == lang or _says(path, lang, study):
                called = own.relative_to(root) / lang
                yield path, f"call it {called}" if path.is_dir() else _call(path, f"{called}/test")


def _splits(study: Study, root: Path) -> Found:
    """Files in the folder of a task and language that are no split of it by their names."""
    for _, task, lang in supplies.asked_tasks(study):
        for split in supplies.SPLITS:
            if not (path := rows.local_file(task, lang, split, root)).is_file():
                for other in _entries(path.parent):
                    published = split == "test" and _says(other, lang, study)
                    if not _is_split(other) and (published or _words(other) & {*CALLED[split]}):
                        yield other, _call(other, split)


def _english(study: Study, root: Path) -> Found:
    """Files in sft/ that look like the rows of a task of `sft_mix`."""
    for task in map(spec, study.sft_mix):
        if not rows.sft_file(task, root).is_file():
            for path in (path for path in _entries(root / "sft") if _like(path, task)):
                yield path, _call(path, f"sft/{Path(task.name).name}")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*"))


def _call(path: Path, name: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """What to do to a file that is to have this name and one of these endings."""
    own = next((suffix for suffix in suffixes if path.name.casefold().endswith(suffix)), "")
    kinds = " or ".join(f"{name}{suffix}" for suffix in suffixes)
    return f"call it {name}{own}" if own and path.is_file() else f"make it {kinds}"


def _is_split(path: Path) -> bool:
    return path.suffix in SUFFIXES and bool(SPLIT.fullmatch(path.stem))


def _words(path: Path) -> set[str]:
    return {*regex.findall(r"\p{L}+", path.name.partition(".")[0].casefold())}


def _says(path: Path, lang: str, study: Study) -> bool:
    script, name = ("", "English") if lang == ENGLISH else (study.script, study.lang_name)
    return says_language(path.name, lang, script, name)


def _like(path: Path, task: TaskSpec) -> bool:
    """Whether a name holds that of the task or of its data set, and is not another task's own."""
    if (stem := path.name.partition(".")[0]) in _own_names():
        return False
    hub = task.metadata.hub.path.rpartition("/")[2] if task.metadata.hub else ""
    names = filter(None, map(_plain, (Path(task.name).stem, task.metadata.data, hub)))
    return any(name in _plain(stem) for name in names)


@functools.cache
def _own_names() -> set[str]:
    """Names of the packaged tasks and of the folders of their items."""
    return {name for task in map(spec, available()) for name in (task.name, task.metadata.data)}


def _plain(name: str) -> str:
    return regex.sub(r"[^\p{L}\d]", "", name.casefold())
