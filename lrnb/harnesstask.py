"""Tasks of lm-evaluation-harness itself, by name, and user files that include one of its files.

A user's file may say where the data is and how many examples are shown; code comes from the harness only.
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import numpy as np
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lrnb.harness import KeptTask, choice, quiet, scored, written
from lrnb.hubrows import cannot_be_had
from lrnb.params import UserError
from lrnb.taskspec import NORMALISATIONS, available, read_file

OWN = Path(lm_eval.tasks.__file__).parent
PREFIX = "harness:"
KEYS = {  # of a user's file; the rest comes from the harness's file that it includes
    *("include", "task", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "metadata"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "num_fewshot"),
}


TYPES = {
    **dict.fromkeys(("task", "dataset_path", "dataset_name"), str),
    **dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split"), str),
    "dataset_kwargs": dict,
    "num_fewshot": int,
}
NOT_ENGLISH = (
    "the harness's tasks have no English version by _en; include the harness's English task in a file "
    "with a `task:` that ends with _en, and name that file"
)


class HarnessTask(KeptTask):
    """A task of the harness, scored as it says; `kept` are the rows of its test split that are scored.

    Where it reads answers in several ways (filters), the last one is reported, and of its metrics the first.
    """

    def __init__(self, config: dict[str, Any], *, mirrors: Path, limit: int | None, seed: int) -> None:
        self._mirrors = mirrors
        self.kept: list[int] = []
        super().__init__(config=config)
        if self.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
            raise UserError(
                f"task {config['task']!r} is {self.OUTPUT_TYPE}: only choices and written answers count"
            )
        self.set_fewshot_seed(seed=seed)
        docs = super().eval_docs
        order = np.random.default_rng(seed).permutation(len(docs))[:limit]
        self.kept = sorted(order.tolist())
        self._rows = [docs[i] for i in self.kept]
        self.family = str(config["metadata"].get("family", "harness"))
        self.metric = str(next(iter(self._metric_fn_list)))
        sizes = [] if self.writes else [len(self.doc_to_choice(doc)) for doc in self._rows]
        self.chance = float(np.mean([1 / n for n in sizes])) if sizes else 0.0

    @property
    def eval_docs(self) -> Any:
        """The rows that are scored (all of them while the harness sets itself up)."""
        return self._rows if self.kept else super().eval_docs

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """The task's data set from <data root>/hub/<its path> where that is there, else from the Hub."""
        mirror = self._mirrors / str(self.DATASET_PATH)
        path = str(mirror) if mirror.is_dir() else self.DATASET_PATH
        try:
            self.dataset = datasets.load_dataset(path=path, name=self.DATASET_NAME, **(dataset_kwargs or {}))
        except Exception as error:
            what = f"the data of harness task {self.config.task!r} ({self.DATASET_PATH})"
            raise cannot_be_had(what, error, mirror) from None

    def item(self, sample: dict[str, Any], scorer: Any) -> dict[str, Any]:
        doc = sample["doc"]
        head = {"item": self.kept[sample["doc_id"]], "context": str(self.doc_to_text(doc))}
        if self.writes:
            text, said = sample["resps"][0][0], str(sample["filtered_resps"][0])
            return head | written(text, str(self.doc_to_target(doc)), said, sample[self.metric])
        options = [str(option) for option in self.doc_to_choice(doc)]
        values = [float(pair[0]) for pair in sample["filtered_resps"]][: len(options)]
        known = self.metric if self.metric in NORMALISATIONS.values() else "acc"
        best = options[choice(values, options, known, sample["arguments"], scorer)]
        return head | scored(options, values, _gold(options, sample["target"]), best, sample[self.metric])


def _gold(options: list[str], target: Any) -> str:
    """The right option from what the harness calls the target: its index, also as text, or itself."""
    named = str(target) in options and not isinstance(target, int)
    return str(target) if named or not str(target).isdecimal() else options[int(target)]


@functools.cache
def manager() -> TaskManager:
    """The harness's list of its tasks; reading it takes some seconds."""
    return TaskManager()


def knows(name: str) -> bool:
    """Whether the harness has a task of this very name, with `harness:` before it or not."""
    return name.removeprefix(PREFIX) in manager().all_subtasks


def refuse_unknown(name: str) -> None:
    """UserError with the nearest name, or for a group with the names of its tasks."""
    bare = name.removeprefix(PREFIX)
    if bare in manager().task_index:
        inside = [n for n in manager().all_subtasks if n.startswith(bare)][:5]
        raise UserError(
            f"{name!r} is a group of the harness; name single tasks, for example {', '.join(inside)}"
        )
    if bare.removesuffix("_en") in manager().all_subtasks:
        raise UserError(f"unknown task {name!r}; {NOT_ENGLISH}")
    own = [] if name.startswith(PREFIX) else available()
    near = difflib.get_close_matches(bare, [*own, *manager().all_subtasks], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"unknown task {name!r}; {hint}Tasks of lrnb: {', '.join(available())} (with _en for English); "
        "or the path of a task file (.yaml), or a task of lm-evaluation-harness"
    )


def load_named(name: str, shots: int, **options: Any) -> HarnessTask:
    """The harness's task of this name; options: of `HarnessTask`. UserError for an unknown name."""
    if not knows(name):
        refuse_unknown(name)
    name = name.removeprefix(PREFIX)
    return _build(load_yaml(manager().task_index[name].yaml_path), name, shots, options)


def load_file(path: Path, shots: int, *, english: bool = False, **options: Any) -> HarnessTask:
    """A user's file that includes a file of the harness; english: it was asked for as an English task.

    UserError where it would bring code of its own, or is asked for as English and not named so.
    """
    _check_file(path)
    config = load_yaml(path)
    _check_types(config, path)
    name = str(config.get("task", path.stem))
    if english and not name.endswith("_en"):
        raise UserError(f"{path}: its rows are not known to be English; {NOT_ENGLISH}")
    return _build(config, name, shots, options)


def _check_file(path: Path, above: tuple[Path, ...] = ()) -> None:
    """UserError for code, and for what cannot be read; above: the files that include this one."""
    path = path.resolve()
    if path.is_relative_to(OWN):
        return
    if path in above:
        raise UserError(f"{path} includes itself; include one of the harness's files, in {OWN}")
    raw = read_file(path)
    if not isinstance(raw, dict) or raw.keys() - KEYS:
        found = sorted(raw.keys() - KEYS) if isinstance(raw, dict) else ["no mapping"]
        raise UserError(f"{path}: {found[0]!r} is not allowed beside 'include'; allowed: {sorted(KEYS)}")
    given = raw.get("include", [])
    for part in given if isinstance(given, list) else [given]:
        if not isinstance(part, str) or not (path.parent / part).is_file():
            raise UserError(f"{path}: include {str(part)!r} does not exist; the harness's files are in {OWN}")
        _check_file(path.parent / part, (*above, path))


def _check_types(config: dict[str, Any], path: Path) -> None:
    """UserError for a value that is not of its key's type."""
    for key, kind in TYPES.items():
        if config.get(key) is not None and not isinstance(config[key], kind):
            wanted = {str: "a text", dict: "a mapping", int: "a whole number"}[kind]
            raise UserError(f"{path}: {key} must be {wanted}, not {config[key]!r}")


def _build(config: dict[str, Any], name: str, shots: int, options: dict[str, Any]) -> HarnessTask:
    if "class" in config:
        raise UserError(
            f"harness task {name!r} is a Python class; only tasks written in YAML can be scored here"
        )
    config = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list")}
    meta = config.get("metadata")
    config |= {"task": name, "metadata": meta if isinstance(meta, dict) else {}}
    try:
        with quiet():
            return HarnessTask(config | ({"num_fewshot": shots} if shots else {}), **options)
    except KeyError as error:
        raise UserError(f"the data of harness task {name!r} lack {error}; the task file names it") from None
