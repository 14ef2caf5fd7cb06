"""The evaluation items of a study, to be kept out of what it trains on (`lrnb.data.contamination`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from lrnb.data.contamination import Items
from lrnb.errors import UserError
from lrnb.study.parameters import ENGLISH, Study
from lrnb.tasks import loading, rows
from lrnb.tasks.hub import covers
from lrnb.tasks.row_files import item_texts
from lrnb.tasks.row_forms import SUFFIXES, any_rows
from lrnb.tasks.task_file import TaskSpec, spec

_log = logging.getLogger(__name__)
SPLITS = ("dev", "test")
Rows: TypeAlias = "list[dict[str, Any]]"


def items_of_study(study: Study, data_root: Path, hub: bool = True) -> Items:
    """Dev and test rows of a study's tasks in X, and in English, where they may be parallel.

    Rows that a study does not score itself, as English ones of a task that is scored in X alone, count where
    they are local, or on the Hub as those in X are. hub: also what is not in local files; else that is left
    out.

    None of the micro-world: there every pair of facts is of one part by its meaning, and the few words that
    it has make the same sentences in items and text, as they are meant to.
    """
    named = [*study.compared, *study.apart, *study.dev_tasks]
    texts: dict[str, list[str]] = {}
    for task, found in _found(named, study, data_root, hub) if study.preset != "nano" else ():
        texts.setdefault(task, []).extend(text for rows in found for text in item_texts(rows))
    return Items(texts)


def _found(names: Iterable[str], study: Study, root: Path, hub: bool) -> Iterator[tuple[str, list[Rows]]]:
    """Each task's own name and its rows, split by split; of the harness's own tasks the test rows."""
    scored = {spec(name).name for name in names if name.endswith("_en") and not loading.is_harness(name)}
    seen = set[str]()
    for name in loading.counted_tasks(names):
        if loading.is_harness(name):
            loaded = loading.load_tasks([name], study.lang, root, seed=study.seed) if hub else {}
            yield from ((kept, [[dict(doc) for doc in task.eval_docs]]) for kept, task in loaded.items())
            continue
        task = spec(name)
        if task.name in seen:  # by its English name too
            continue
        seen.add(task.name)
        yield task.name, list(_rows(task, study.lang, study, root, hub))
        beside = hub and task.name not in scored
        yield (
            task.name,
            _english_beside(task, study, root) if beside else list(_rows(task, ENGLISH, study, root, hub)),
        )


def _english_beside(task: TaskSpec, study: Study, root: Path) -> list[Rows]:
    """English rows of a task that is scored in X: local ones, or the Hub's where those in X are the Hub's.

    A study goes on without the Hub's, and says so.
    """
    hub = any(rows.from_hub(task, study.lang, split, root, study.script) for split in SPLITS)
    try:
        return list(_rows(task, ENGLISH, study, root, hub))
    except UserError as error:
        if not hub:
            raise
        _log.warning("English items of %r are not looked for in the English text: %s", task.name, error)
        return []


def english_items(study: Study, data_root: Path) -> Items:
    """Dev and test rows in English of all local tasks, and of those of `sft_mix` that the Hub has.

    The same for every language of a study, since SFT-en is trained once.
    """
    return _local_items(study, data_root, ENGLISH)


def items_in_x(study: Study, data_root: Path) -> Items:
    """`english_items` in X: what no row in X that SFT is trained on may hold."""
    return _local_items(study, data_root, study.lang)


def _local_items(study: Study, data_root: Path, lang: str) -> Items:
    if study.preset == "nano":
        return Items({})
    texts: dict[str, list[str]] = {}
    names = [f"{split}{suffix}" for split in SPLITS for suffix in SUFFIXES]
    for path in sorted(p for name in names for p in data_root.glob(f"eval/[!.]*/{lang}/{name}")):
        own = texts.setdefault(path.parents[1].name, [])
        own.extend(item_texts(any_rows(path)))
    for name in study.sft_mix:
        task = spec(name)
        if task.metadata.data not in texts:
            found = _rows(task, lang, study, data_root)
            texts[task.metadata.data] = [text for rows in found for text in item_texts(rows)]
    return Items(texts)


def _rows(task: TaskSpec, lang: str, study: Study, root: Path, hub: bool = True) -> Iterator[Rows]:
    """Dev rows and test rows: local ones; with `hub` the Hub's, where the language has neither locally."""
    local = [split for split in SPLITS if rows.local_file(task, lang, split, root).is_file()]
    for split in local or [split for split in SPLITS if hub and covers(task, lang, split, study.script)]:
        yield rows.split_rows(task, lang, split, root, study.seed, study.script)[0]
