"""Data sets of the Hub, or of a folder with their files, opened in the ways they can be opened.

`datasets` runs no loading scripts any more. Where a data set has one, its files are named, or the Hub's own
conversion is read: parquet on the branch refs/convert/parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

BUILDERS = {".tsv": "csv", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
CONVERTED = "refs/convert/parquet"  # the branch; in a folder too, where a snapshot of it may lie


class NotOpened(Exception):
    """None of the ways worked; the message says which were tried, and why the first failed."""


def open_set(
    path: str | Path, config: str, split: str, *, files: Sequence[str] = (), streaming: bool = False
) -> Any:
    """The rows of a split. path: of a data set on the Hub, or of a folder that holds its files.

    files: where they may be in it, tried in this order; without any the data set's own configuration, and
    where it cannot be had so, its conversion to parquet. Raises NotOpened.
    """
    ways = _by_file(path, files, streaming) if files else _by_config(path, config, split, streaming)
    tried, first = list[str](), None
    for name, way in ways:
        try:
            return way()
        except Exception as error:  # data sets, the Hub and the network raise anything
            tried.append(name)
            first = first or error
    assert first is not None
    lines = str(first).strip().splitlines() or [""]
    raise NotOpened(f"{type(first).__name__}: {lines[0]}; tried: {', '.join(tried)}") from first


Way = tuple[str, Callable[[], Any]]


def _by_file(path: str | Path, files: Sequence[str], streaming: bool) -> Iterator[Way]:
    """Each file by its name; in a folder only those that are there, or the first for its error."""
    folder = Path(path)
    if folder.is_dir():
        there = [name for name in files if any(folder.glob(name))] or files[:1]
        places = [str(folder / name) for name in there]
    else:
        places = [f"hf://datasets/{path}/{name}" for name in files]
    return ((place, lambda place=place: _builder(place, streaming)) for place in places)  # type: ignore[misc]


def _by_config(path: str | Path, config: str, split: str, streaming: bool) -> Iterator[Way]:
    """The configuration as the data set declares it, then its conversion."""
    import datasets

    yield (
        f"{path} {config}".strip(),
        lambda: datasets.load_dataset(str(path), config or None, split=split, streaming=streaming),
    )
    shards = f"{config or 'default'}/{split}/*.parquet"
    if not Path(path).is_dir():
        place = f"hf://datasets/{path}@{CONVERTED}/{shards}"
        yield place, lambda: _builder(place, streaming)
        return
    for folder in (Path(path) / CONVERTED, Path(path)):
        if any(folder.glob(shards)):
            yield str(folder / shards), lambda found=str(folder / shards): _builder(found, streaming)  # type: ignore[misc]


def _builder(place: str, streaming: bool) -> Any:
    import datasets

    kind = BUILDERS.get(Path(place).suffix, "json")
    options = {"delimiter": "\t"} if place.endswith(".tsv") else {}
    return datasets.load_dataset(kind, data_files=place, split="train", streaming=streaming, **options)
