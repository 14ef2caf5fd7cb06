"""Rows of data sets on the Hub, made into the rows of local task files by what a task file says.

`metadata.hub` of a task file holds: path (the data set), code (language -> its code there), splits (test,
dev, train -> the name there; a list of train names is several training sets, `seed` picks one), config or
files (a configuration or a file name, in which {code} and {split} are filled in), fields (our field -> a
Jinja expression over the row). A folder <data root>/hub/<path> with the data set's own files is used
instead of the Hub.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import jinja2

from lrnb.params import UserError
from lrnb.taskspec import JINJA, Spec, inside

KEYS = {"path", "code", "splits", "config", "files", "fields"}


def covers(task: Spec, lang: str, split: str) -> bool:
    """Whether the task's data set on the Hub has the language and the split."""
    hub = checked(task)
    return hub is not None and lang in hub["code"] and split in hub["splits"]


def checked(task: Spec) -> dict[str, Any] | None:
    """The task's `metadata.hub`. UserError for a missing or unknown key, or a wrong type."""
    hub = task.hub
    if hub is None:
        return None
    tables = ("code", "splits", "fields")
    good = isinstance(hub, dict) and isinstance(hub.get("path"), str) and not hub.keys() - KEYS
    texts = all(isinstance(hub.get(key, ""), str) for key in ("config", "files")) if good else False
    if not texts or not all(isinstance(hub.get(key), dict) and hub[key] for key in tables):
        raise UserError(
            f"{task.path}: metadata.hub needs path, code, splits, fields; it may have config or files, texts"
        )
    inside(hub["path"], task.path)
    _check_splits(hub["splits"], task)
    return hub


def _check_splits(splits: dict[str, Any], task: Spec) -> None:
    for split, name in splits.items():
        names = name if isinstance(name, list) else [name]
        if not names or not all(isinstance(one, str) and one for one in names):
            raise UserError(
                f"{task.path}: splits in metadata.hub: {split!r} is {name!r}; "
                "write the split's name on the Hub, or a list with one name or more"
            )


def read_hub(task: Spec, lang: str, split: str, data_root: str | Path, seed: int) -> list[dict[str, Any]]:
    """The rows of a split with `item`, their place in it. UserError where they cannot be had or made."""
    hub = checked(task)
    assert hub is not None
    name = hub["splits"][split]
    name = name[seed % len(name)] if isinstance(name, list) else name
    where = f"{hub['path']} ({lang}, {name})"
    filled = {"code": hub["code"][lang], "split": name}
    file = _inside_set(hub, filled, task)
    try:
        table = _open(hub, file, filled, Path(data_root) / "hub" / hub["path"])
        rows = [dict(row) for row in table]
    except Exception as error:
        files = f"<data root>/hub/{hub['path']}"
        own = f", or rows of your own into <data root>/eval/{task.data}/{lang}/{split}.jsonl"
        raise cannot_be_had(f"data set {where} of task {task.name!r}", error, files, own) from None
    if not rows:
        raise UserError(f"data set {where} is empty; leave the task {task.name!r} out")
    fields = {key: _expression(text, task) for key, text in hub["fields"].items()}
    return [{**_row(fields, row, f"{where} row {i}"), "item": i} for i, row in enumerate(rows)]


def cannot_be_had(what: str, error: Exception, files: str | Path, otherwise: str = "") -> UserError:
    """What to raise where a data set did not load; files: the folder that its own files may be put into."""
    reason = str(error).strip().splitlines()
    return UserError(
        f"{what} cannot be had ({type(error).__name__}: {reason[0] if reason else ''}). Check the network "
        f"and the terms to accept on the Hub, or put the data set's files into {files}{otherwise}"
    )


def _inside_set(hub: dict[str, Any], filled: dict[str, str], task: Spec) -> str:
    """The name of the file in the data set, "" where it has configurations. UserError if it leads out."""
    pattern = hub.get("files", "")
    try:
        return inside(str(pattern).format(**filled), task.path) if pattern else ""
    except (LookupError, ValueError, AttributeError):
        raise UserError(
            f"{task.path}: {pattern!r} in metadata.hub cannot be filled in; it may hold {{code}}, {{split}}"
        ) from None


def _open(hub: dict[str, Any], file: str, filled: dict[str, str], mirror: Path) -> Any:
    import datasets

    there = mirror.is_dir()  # read as a stream, so that nothing is copied into the Hub's cache
    if not file:
        config = str(hub.get("config", "{code}")).format(**filled)
        place = str(mirror) if there else hub["path"]
        return datasets.load_dataset(place, config, split=filled["split"], streaming=there)
    place = str(mirror / file) if there else f"hf://datasets/{hub['path']}/{file}"
    kind = {".tsv": "csv", ".csv": "csv", ".parquet": "parquet"}.get(Path(file).suffix, "json")
    options = {"delimiter": "\t"} if file.endswith(".tsv") else {}
    return datasets.load_dataset(kind, data_files=place, split="train", streaming=there, **options)


def _expression(text: str, task: Spec) -> Any:
    try:
        return JINJA.compile_expression(str(text), undefined_to_none=False)
    except jinja2.TemplateError as error:
        raise UserError(f"{task.path}: {text!r} in metadata.hub is no valid expression ({error})") from None


def _row(fields: dict[str, Any], row: dict[str, Any], where: str) -> dict[str, Any]:
    made = {}
    for key, expression in fields.items():
        try:
            value = expression(**row)
        except Exception as error:  # an expression can raise anything that Python can
            raise UserError(
                f"{where}: {error}, needed for {key!r} in metadata.hub; it has {sorted(row)}"
            ) from None
        if isinstance(value, jinja2.Undefined):
            raise UserError(f"{where}: no such field for {key!r} in metadata.hub; the row has {sorted(row)}")
        made[key] = _nfc(value)
    return made


def _nfc(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_nfc(part) for part in value]
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value
