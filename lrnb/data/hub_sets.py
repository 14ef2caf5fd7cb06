"""Data sets of the Hub, or of a folder with their files, opened in the ways they can be opened.

`datasets` runs no loading scripts any more. Where a data set has one, its files are named, or the Hub's own
conversion is read: parquet on the branch refs/convert/parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypeAlias

from lrnb.data.lines import BOM
from lrnb.errors import UserError

BUILDERS = {
    **{".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"},
    **{".parquet": "parquet", ".txt": "text"},
}
CONVERTED = "refs/convert/parquet"  # the branch, and where a folder may hold a copy of it
SCRIPT = "scripts are no longer supported"  # what `datasets` says then
LOOKED_AT = 10_000  # lines of a plain text, for blank ones
PARTED = 0.002  # share of blank lines from which on they part documents; a line astray does not
Place: TypeAlias = "Path | str"  # a data set as it is, or files of one


class NotOpened(Exception):
    """None of the ways worked; the message says why the first failed, and what was tried."""


def open_set(
    path: str | Path, config: str, split: str, *, files: Sequence[str] = (), streaming: bool = False,
    builder: str = "",
) -> Any:  # fmt: skip
    """The rows of a split. path: of a data set on the Hub, or of a folder that holds its files.

    files: names or patterns in it, tried in this order, all of whose rows are the split; without any the data
    set's own configuration is opened, and where that cannot be had, its conversion. builder: of `datasets`,
    by default that of the file's name. Raises NotOpened.
    """
    ways = _by_file(path, files) if files else _by_config(path, config, split)
    tried, first = list[str](), None
    for place in ways:
        try:
            return _load(place, config, split, streaming, builder)
        except Exception as error:  # data sets, the Hub and the network raise anything
            tried.append(str(place))
            first = first or error
    assert first is not None
    reason = (str(first).strip() or "no reason given").splitlines()[0]
    raise NotOpened(f"{type(first).__name__}: {reason}; tried: {', '.join(tried)}") from first


def open_splits(path: str | Path, config: str | None, **options: Any) -> Any:
    """All splits by name; of a data set with a loading script those of its conversion. Raises NotOpened."""
    try:
        return _loaded(str(path), config, **options)
    except RuntimeError as error:
        files = {} if SCRIPT not in str(error) else _converted_splits(path, config or "default")
        if not files:
            tried = f"{path}, {_conversion(path)}" if SCRIPT in str(error) else path
            raise NotOpened(f"RuntimeError: {error}; tried: {tried}") from error
    return _loaded("parquet", data_files=files)


def _loaded(*path_and_config: str | None, **options: Any) -> Any:
    """What `datasets.load_dataset` gives, which tells how far it is."""
    import datasets

    from lrnb.study.library_bars import told_for_libraries

    with told_for_libraries():
        return datasets.load_dataset(*path_and_config, **options)


def _conversion(path: str | Path) -> str:
    """Where the parquet files of a data set's conversion are."""
    return str(Path(path) / CONVERTED) if Path(path).is_dir() else f"hf://datasets/{path}@{CONVERTED}"


def _converted_splits(path: str | Path, config: str) -> dict[str, str]:
    """Split -> the pattern of its files in the conversion; {} where there are none, or no network."""
    from huggingface_hub import HfFileSystem

    place = f"{_conversion(path)}/{config}"
    try:
        found = (
            Path(place).glob("*/*.parquet") if Path(path).is_dir() else HfFileSystem().glob(f"{place}/*/*")
        )
        return {
            name: f"{place}/{name}/*.parquet" for name in sorted({Path(file).parent.name for file in found})
        }
    except Exception:  # the Hub and the network raise anything; the first error is the one to tell
        return {}


def open_text(path: str | Path, config: str, split: str, files: str) -> Iterable[dict[str, Any]]:
    """Rows of running text, streamed: documents, or of plain text the lines up to a blank one joined.

    Of JSON lines only what is asked for is looked at: other fields may be of another kind in every file.
    Raises NotOpened; UserError on the way for a line that is no JSON object.
    """
    if ".jsonl" in files:
        lines = open_set(path, config, split, files=[files], streaming=True, builder="text")
        return _objects(lines, f"{path}, {files}")
    rows = open_set(path, config, split, files=[files] if files else (), streaming=True)
    return _paragraphs(rows) if rows.info.builder_name == "text" else rows


def _objects(lines: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    for number, text in ((n, row["text"]) for n, row in enumerate(lines, 1) if row["text"].strip()):
        try:
            found = json.loads(text.removeprefix(BOM))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{where}: line {number} cannot be read as a JSON object; fetch the file anew")
        yield found


def _by_file(path: str | Path, files: Sequence[str]) -> list[Place]:
    """Each file by its name; in a folder only those that are there, or the first for its error."""
    if not (folder := Path(path)).is_dir():
        return [f"hf://datasets/{path}/{name}" for name in files]
    return [str(folder / name) for name in files if any(folder.glob(name))] or [str(folder / files[0])]


def _by_config(path: str | Path, config: str, split: str) -> list[Place]:
    """The data set as it declares itself, then its conversion, or in a folder a copy of that."""
    shards = f"{config or 'default'}/{split}/*.parquet"
    if not Path(path).is_dir():
        return [Path(path), f"{_conversion(path)}/{shards}"]
    copies = [Path(path) / CONVERTED, Path(path)]
    return [Path(path), *(str(folder / shards) for folder in copies if any(folder.glob(shards)))]


def _load(place: Place, config: str, split: str, streaming: bool, builder: str) -> Any:
    if isinstance(place, Path):
        return _loaded(str(place), config or None, split=split, streaming=streaming)
    options = {"delimiter": "\t"} if place.endswith(".tsv") else {}
    return _loaded(builder or _kind(place), data_files=place, split="train", streaming=streaming, **options)


def _kind(name: str) -> str:
    """The builder for a file of this name. ValueError where the name does not say it."""
    suffix = Path(name.removesuffix(".gz").removesuffix(".zst")).suffix
    if suffix not in BUILDERS:
        raise ValueError(f"{name}: a name or pattern must end with one of {', '.join(BUILDERS)}")
    return BUILDERS[suffix]


def _paragraphs(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Lines joined up to a blank one; each for itself where hardly one of the first LOOKED_AT is blank."""
    lines = (str(row["text"]) for row in rows)
    head = list(islice(lines, LOOKED_AT))
    if sum(not line.strip() for line in head) < max(PARTED * len(head), 1):
        yield from ({"text": line} for line in chain(head, lines) if line.strip())
        return
    for blank, part in groupby(chain(head, lines), key=lambda line: not line.strip()):
        if not blank:
            yield {"text": "\n".join(part)}
