"""The tasks of a study as the harness's objects: our task files, users' files, the harness's own tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.errors import UserError
from lrnb.study.parameters import Study
from lrnb.study.progress import Progress
from lrnb.tasks import rows
from lrnb.tasks.task_file import (
    METRICS,
    NORMALISATIONS,
    TaskSpec,
    asked_in,
    file_of,
    packaged,
    read_file,
    result_name,
    spec,
)

if TYPE_CHECKING:
    from lrnb.tasks.harness import KeptTask

_log = logging.getLogger(__name__)
PREFIX = "harness:"  # of the names of the harness's own tasks
CHOICES = {
    "split": ("test", "dev"),
    "prompts": ("english", "native"),
    "normalisation": ("task", *NORMALISATIONS),
}
STUDY = (
    "seed",
    "shots",
    "prompts",
    "normalisation",
    "script",
)  # parameters that `load_tasks` takes by these names
LEAST = {"limit": 1, "shots": 0, "seed": 0}


def load_tasks(
    names: Iterable[str],
    lang: str,
    data_root: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    shots: int = 0,
    prompts: str = "english",
    normalisation: str = "task",
    script: str = "",
) -> dict[str, KeptTask]:
    """The harness's task objects by name; "<task>_en" is the task's English version.

    names: tasks of the package, paths of task files, tasks of the harness ("harness:xcopa_ta", or the name
    alone where no own task has it); split: "test" or "dev"; limit: items per task, sampled by seed, and
    `limits` of single tasks over it; shots: solved examples before each item, in the language where the task
    has training rows there (`rows.solved`), never the item itself, and 0 leaves their number to the task
    file; prompts: "english" or "native"; normalisation: a key of NORMALISATIONS, or "task" for what the task
    file says; script: of the language, where the Hub has it in several. prompts and normalisation are of our
    tasks; the harness's own are scored as they say.
    Raises UserError (see `spec`, `data_file`).
    """
    limits = limits or {}
    require_known(limits)  # a misspelt one would be ignored
    given = {"split": split, "seed": seed, "shots": shots, "prompts": prompts, "normalisation": normalisation}
    _check({**given, "limit": limit})
    given["script"] = script
    loaded: dict[str, KeptTask] = {}
    for name in counted_tasks(names):
        task = _load_one(name, lang, Path(data_root), limits.get(name, limit), given)
        if task.task_name in loaded:
            raise UserError(
                f"two tasks are called {task.task_name!r}, the second is {name!r}; rename one (`task:`)"
            )
        _keep_examples_apart(task)
        loaded[task.task_name] = task
    return loaded


def counted_tasks(names: Iterable[str]) -> Iterator[str]:
    """Each name once, counted as the progress of reading items."""
    different = list(dict.fromkeys(names))
    with Progress("reading items", len(different), "tasks") as progress:
        yield from progress.through(different)


def load_study_tasks(study: Study, data_root: str | Path) -> tuple[dict[str, KeptTask], list[str]]:
    """The test tasks of a study by name, and the names of those that are in no mean (`Study.apart`).

    UserError for those of `refuse_misplaced`.
    """
    given: dict[str, Any] = {key: getattr(study, key) for key in STUDY}
    given |= {"limit": study.test_limit, "limits": study.test_limits}
    names = list(dict.fromkeys([*study.compared, *study.apart]))
    loaded = load_tasks(names, study.lang, data_root, **given)
    for name, task in zip(names, loaded.values(), strict=True):
        refuse_misplaced(study, name, task.task_name, writes=task.writes)
    return loaded, list(loaded)[len(set(study.compared)) :]


def refuse_misplaced(study: Study, name: str, called: str, *, writes: bool) -> None:
    """UserError for a task of `tasks_written` that has options, or one of `tasks_language` that has none."""
    if name not in study.apart:
        return
    if name in study.tasks_written and not writes:
        raise UserError(f"tasks_written: {called!r} has options to choose from; name it in tasks")
    if name in study.tasks_language and writes:
        raise UserError(f"tasks_language: answers to {called!r} are written out; name it in tasks_written")


def _check(given: dict[str, Any]) -> None:
    for key, known in CHOICES.items():
        if given[key] not in known:
            raise UserError(f"{key} {given[key]!r} is not known; it is one of {', '.join(known)}")
    for key, least in LEAST.items():
        if given[key] is not None and given[key] < least:
            raise UserError(f"{key} {given[key]} is out of range; it is at least {least}")


def _keep_examples_apart(task: KeptTask) -> None:
    """No item among its own examples; says how many stand there. UserError where that leaves too few."""
    if not (shots := task.config.num_fewshot):
        return
    task.keep_apart()
    there, twins = task.sampler.counts(task.eval_docs)
    if twins:
        _log.warning("task %r: %d of its %d items stand among its examples as well (the same text); none is "
                     "shown before itself", task.task_name, twins, len(task))  # fmt: skip
    if not 0 < shots <= there:
        besides = " that are not the item itself" if twins else ""
        raise UserError(
            f"shots {shots} is out of range for task {task.task_name!r}: it has 0 to {there}{besides}"
        )


def require_names(study: Study) -> None:
    """UserError for a name of a study that is no task, or is one of ours in the wrong list; reads no data."""
    named = [*study.compared, *study.apart, *study.dev_tasks, *study.sft_mix, *study.test_limits]
    _refuse_bare(study, named)
    require_known(named)
    for name in study.apart:
        if not is_harness(name):
            task = spec(name)
            refuse_misplaced(study, name, task.name, writes=task.kind == "generate_until")


def _refuse_bare(study: Study, names: Iterable[str]) -> None:
    """UserError for the bare name of a task that `tasks` has as a file: only the file's path is known."""
    files = [path for path in study.tasks if file_of(path) and not is_harness(path)]
    own = {spec(path).name: path for path in files}
    for name in names:
        bare = name.removesuffix("_en")
        if bare in own and not packaged(name):
            raise UserError(f"{name!r} is the task of {own[bare]}: name it by that path in every parameter")


def require_known(names: Iterable[str]) -> None:
    """UserError for a name that is no task, with the nearest one; reads no data."""
    for name in names:
        if not is_harness(name):
            spec(name)


def has_dev(name: str, lang: str, data_root: str | Path, script: str = "") -> bool:
    """Whether a task has dev items in the language; the harness's own tasks count as having none."""
    return not is_harness(name) and rows.has_split(spec(name), lang, "dev", data_root, script)


def is_local(name: str, lang: str, data_root: str | Path, split: str = "test", script: str = "") -> bool:
    """Whether a task's rows come from local files, or from nowhere: neither the Hub's nor the harness's."""
    if is_harness(name):
        return False
    task = spec(name)
    return not rows.from_hub(task, asked_in(name, task, lang), split, data_root, script)


def is_harness(name: str) -> bool:
    """Whether the harness builds it. UserError where nobody knows it."""
    if path := file_of(name):
        raw = read_file(path)
        return isinstance(raw, dict) and "include" in raw
    if packaged(name):
        return False
    from lrnb.tasks import harness

    if not harness.knows(name):
        harness.refuse_unknown(name)
    return True


def _load_one(name: str, lang: str, root: Path, limit: int | None, given: dict[str, Any]) -> KeptTask:
    if is_harness(name):
        return _harness(name, root, limit, given)
    from lrnb.tasks.harness import StudyTask

    task, seed, prompts, script = spec(name), given["seed"], given["prompts"], given["script"]
    lang, name = asked_in(name, task, lang), result_name(name, task)
    found, where = rows.split_rows(task, lang, given["split"], root, seed, script)
    common = {"lang": lang, "seed": seed, "prompts": prompts}
    splits = {"test": rows.documents_of(task, found, where, limit=limit, **common)}
    given = given | {"shots": given["shots"] or task.shots}
    if given["shots"]:
        splits["train"] = rows.solved(task, lang, root, seed, prompts, script)
        sets = sorted({doc["set"] for doc in splits["train"]})
        splits["test"] = [{**doc, "set": number} for doc in splits["test"] for number in sets]
    return StudyTask(_config(task, name, given), splits)


def _harness(name: str, root: Path, limit: int | None, given: dict[str, Any]) -> KeptTask:
    from lrnb.tasks import harness

    if given["split"] != "test":
        raise UserError(
            f"task {name!r} is the harness's own: only its test items are scored; choose on another"
        )
    options = {"mirrors": root / "hub", "limit": limit, "seed": given["seed"]}
    if path := file_of(name):
        return harness.load_file(path, given["shots"], english=name.endswith("_en"), **options)
    return harness.load_named(name, given["shots"], **options)


def _config(task: TaskSpec, name: str, given: dict[str, Any]) -> dict[str, Any]:
    meta, written = task.metadata, task.kind == "generate_until"
    metric = meta.metric
    if given["normalisation"] != "task" and not written:
        metric = NORMALISATIONS[given["normalisation"]]
    counted = [m for m in METRICS[task.kind] if m != "acc_tokens"]  # which the harness does not know
    config = {
        "task": name,
        "output_type": task.kind,
        "test_split": "test",
        "fewshot_split": "train" if given["shots"] else None,
        "num_fewshot": given["shots"],
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "fewshot_config": {"doc_to_target": "shown"} if written else None,
        "target_delimiter": task.delimiter,
        "fewshot_delimiter": task.fewshot_delimiter,
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in counted],
        "metadata": {"family": meta.family, "metric": metric, "seed": given["seed"], "number": meta.number},
    }
    if task.generation_kwargs and written:
        return config | {"generation_kwargs": {**task.generation_kwargs.model_dump(), "do_sample": False}}
    return config | {"doc_to_choice": "options"}
