"""Rows of data sets on the Hub, made into the rows of local task files by what a task file says.

`metadata.hub` of a task file says how (`task_file.Hub`); where a split has several names, `seed` picks one.
A folder <data root>/hub/<path> with the data set's own files is used instead of the Hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from jinja2.meta import find_undeclared_variables

from lrnb.data.hub_sets import NotOpened, open_set
from lrnb.errors import UserError
from lrnb.tasks.row_files import checked_row
from lrnb.tasks.task_file import JINJA, Hub, TaskSpec, inside
from lrnb.tasks.time_limit import time_limit


def covers(task: TaskSpec, lang: str, split: str, script: str = "") -> bool:
    """Whether the task's data set on the Hub has the language (in this script, if one is given) and split."""
    hub = task.metadata.hub
    return hub is not None and split in hub.splits and bool(hub.code_of(lang, script))


def hub_rows(
    task: TaskSpec, lang: str, split: str, data_root: str | Path, seed: int, script: str = ""
) -> list[dict[str, Any]]:
    """The rows of a split with `item`, their place in it. UserError where they cannot be had or made."""
    hub = task.metadata.hub
    assert hub is not None
    name = hub.splits[split][seed % len(hub.splits[split])]
    where = f"{hub.path} ({lang}, {name})"
    filled = {"code": hub.code_of(lang, script), "split": name}
    files = _files(hub, filled, task)
    try:
        table = _open(hub, files, filled, Path(data_root) / "hub" / hub.path)
        rows = [dict(row) for row in table]
    except Exception as error:
        there = f"<data root>/hub/{hub.path}"
        own = f", or rows of your own into <data root>/eval/{task.metadata.data}/{lang}/{split}.jsonl"
        raise cannot_be_had(f"data set {where} of task {task.name!r}", error, there, own) from None
    if not rows:
        raise UserError(f"data set {where} is empty; leave the task {task.name!r} out")
    fields = {key: _expression(text, task) for key, text in hub.columns.items()}
    return [{**_row(fields, row, f"{where} row {i}"), "item": i} for i, row in enumerate(rows)]


def from_published(task: TaskSpec, row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of a local file as the task's rows are, where it is written as the data set publishes it."""
    hub = task.metadata.hub
    if hub is None or all(row.get(key) is not None for key in hub.columns):
        return row
    fields = {key: str(text) for key, text in hub.columns.items()}
    needed = {
        name for text in fields.values() for name in find_undeclared_variables(JINJA.parse(f"{{{{{text}}}}}"))
    }
    if not needed <= row.keys():
        return row
    made = _row({key: _expression(text, task) for key, text in fields.items()}, row, where)
    return {**made, "item": row["item"]}


def cannot_be_had(what: str, error: Exception, files: str | Path, otherwise: str = "") -> UserError:
    """What to raise where a data set did not load; files: the folder that its own files may be put into."""
    reason = str(error).strip().splitlines()
    kind = "" if isinstance(error, NotOpened) else f"{type(error).__name__}: "
    return UserError(
        f"{what} cannot be had ({kind}{reason[0] if reason else ''}). Check the network "
        f"and the terms to accept on the Hub, or put the data set's files into {files}{otherwise}"
    )


def _files(hub: Hub, filled: dict[str, str], task: TaskSpec) -> list[str]:
    """Where the file may be in the data set, [] where it has configurations. UserError if it leads out."""
    try:
        return [inside(name.format(**filled)) for name in hub.files]
    except (LookupError, ValueError, AttributeError) as error:
        raise UserError(
            f"{task.path}: {hub.files!r} in metadata.hub cannot be filled in ({error}); "
            "it may hold {code} and {split}"
        ) from None


def _open(hub: Hub, files: list[str], filled: dict[str, str], mirror: Path) -> Any:
    there = mirror.is_dir()  # read as a stream, so that nothing is copied into the Hub's cache
    config = hub.config.format(**filled)
    return open_set(mirror if there else hub.path, config, filled["split"], files=files, streaming=there)


def _expression(text: str, task: TaskSpec) -> Any:
    try:
        return JINJA.compile_expression(str(text), undefined_to_none=False)
    except jinja2.TemplateError as error:
        raise UserError(f"{task.path}: {text!r} in metadata.hub is no valid expression ({error})") from None


def _row(fields: dict[str, Any], row: dict[str, Any], where: str) -> dict[str, Any]:
    made = {}
    for key, expression in fields.items():
        try:
            with time_limit(repr(key)):
                value = expression(**row)
        except Exception as error:  # an expression can raise anything that Python can
            raise UserError(
                f"{where}: {error}, needed for {key!r} in metadata.hub; it has {sorted(row)}"
            ) from None
        if isinstance(value, jinja2.Undefined):
            raise UserError(f"{where}: no such field for {key!r} in metadata.hub; the row has {sorted(row)}")
        made[key] = value
    return checked_row(made, where)
