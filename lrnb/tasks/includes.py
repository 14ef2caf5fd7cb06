"""Task files of the user's own that include a file of the harness, and what they include on the way there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrnb.errors import UserError
from lrnb.tasks.task_file import Names, Strict, checked, read_file


def _harness_folder() -> Path:
    """Where the harness's own files are; it takes seconds to import, so it is only looked for."""
    found = find_spec("lm_eval")
    return Path(found.submodule_search_locations[0], "tasks").resolve()  # type: ignore[union-attr, index]


OWN = _harness_folder()


class Included(Strict):
    """A user's file; the rest comes from the harness's file that it includes."""

    include: Names = []
    task: str = ""
    dataset_path: str = ""
    dataset_name: str = ""
    dataset_kwargs: dict[str, Any] = {}
    training_split: str = ""
    validation_split: str = ""
    test_split: str = ""
    fewshot_split: str = ""
    num_fewshot: int = 0
    tag: Any = None
    metadata: Any = None


def users_files(path: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """`path` and every file of the user's that it includes; above: the files that include this one.

    UserError for code, and for what cannot be read.
    """
    path = path.resolve()
    if path.is_relative_to(OWN):
        return []
    if path in above:
        raise UserError(f"{path} includes itself; include one of the harness's files, in {OWN}")
    found = [path]
    for part in checked(Included, read_file(path), path).include:
        if not (path.parent / part).is_file():
            raise UserError(f"{path}: include {part!r} does not exist; the harness's files are in {OWN}")
        found += users_files(path.parent / part, (*above, path))
    return found
