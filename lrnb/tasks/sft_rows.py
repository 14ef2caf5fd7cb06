"""What SFT trains on: English rows of the data root, or rows in X of a folder that `sft_x` names.

Rows in X are those of the tasks of `sft_mix`, as many of each, rendered as the tasks are asked in X; a folder
has a file a task, `<task>.jsonl` or with another of SUFFIXES.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from lrnb.data.contamination import Items
from lrnb.errors import UserError
from lrnb.study.parameters import ENGLISH, Study
from lrnb.tasks.evaluation_items import english_items, items_in_x
from lrnb.tasks.instruction_sets import INSTRUCTIONS, instruction_examples
from lrnb.tasks.row_forms import SUFFIXES, place_of
from lrnb.tasks.rows import drawn_places, english_rows, examples_of, local_rows, refuse_other_script
from lrnb.tasks.task_file import TaskSpec, spec

HINT = "are expected in a folder of sft_x. English rows go to sft/<task>.jsonl"
OWN_SCRIPT = 0.2  # of a row's letters at least: names in Latin are usual in any language
Examples: TypeAlias = "list[dict[str, str]]"
Rows: TypeAlias = "list[dict[str, Any]]"


class Source(NamedTuple):
    """Rows to train on: where they lie, and in what they are written."""

    name: str  # as `sft_x` has it; "": English rows of the data root
    folder: Path
    lang: str = ENGLISH
    script: str = "Latin"  # "": not known, so nothing is told by it
    prompts: str = "english"  # or native: the words around a task

    def file(self, task: TaskSpec) -> Path:
        """Of rows in X: `<task>.jsonl`, or with another of SUFFIXES where that is there."""
        own = [self.folder / f"{Path(task.name).name}{suffix}" for suffix in SUFFIXES]
        return next((path for path in own if path.is_file()), own[0])

    def rows(self, task: TaskSpec, seed: int = 0) -> tuple[Rows, str]:
        """All rows of a task, and where they are from. UserError for none, or one in another script."""
        return self._in_x(task) if self.name else english_rows(task, self.folder, seed)

    def _in_x(self, task: TaskSpec) -> tuple[Rows, str]:
        if not (path := self.file(task)).is_file():
            raise UserError(
                f"sft_x, {self.name}: no file {path} for {task.name!r}, a task of sft_mix. Put rows in "
                f"{self.lang!r} there, or take the task out of sft_mix: all arms train on the same tasks"
            )
        found = local_rows(task, path)
        for row in found if self.script not in ("", "Latin") else ():
            hint = f"rows in {self.lang!r} {HINT}"
            refuse_other_script(row, place_of(str(path), row), self.script, hint, OWN_SCRIPT)
        return found, str(path)

    def examples(
        self, name: str, n: int, seed: int, items: Items | None = None, dropped: Counter[str] | None = None
    ) -> Examples:
        """`n` examples of a task, as `rows.sft_examples` draws English ones."""
        task = spec(name)
        how: dict[str, Any] = {"lang": self.lang, "prompts": self.prompts, "seed": seed}
        return examples_of(task, *self.rows(task, seed), n, **how, items=items, dropped=dropped)


def rows_in_x(study: Study, name: str) -> Source:
    """The rows in X that `sft_x` calls `name`. UserError where their folder is not there."""
    if name not in study.sft_x:
        raise UserError(
            f"sft_x_name {name!r} is not among sft_x, {', '.join(study.sft_x) or 'which is empty'}"
        )
    if not (folder := Path(study.sft_x[name])).is_dir():
        raise UserError(
            f"sft_x, {name}: {study.sft_x[name]} is no folder; give the one with <task>.jsonl in X"
        )
    return Source(name, folder, study.lang, study.script, study.prompts)


def study_examples(study: Study, data_root: Path, dropped: Counter[str] | None = None) -> dict[str, Examples]:
    """What a study's SFT trains on, by task: `study_rows` as {"prompt", "completion"}, as it is asked.

    Beside English ones those of the set that `sft_dataset` names, as INSTRUCTIONS.
    """
    source, items = _source(study, data_root), _items(study, data_root)
    found = {task: source.examples(task, n, study.seed, items, dropped) for task, n in study.sft_mix.items()}
    if study.sft_dataset and not study.sft_x_name:
        found[INSTRUCTIONS] = instruction_examples(study, data_root, items, dropped)
    return found


def study_rows(study: Study, data_root: Path) -> dict[str, Rows]:
    """The rows that a study's SFT trains on, by task: English ones, or those in X of `sft_x_name`.

    Rows that hold a dev or test item in their language are left out.
    """
    source, items, found = _source(study, data_root), _items(study, data_root), dict[str, Rows]()
    for name, n in study.sft_mix.items():
        task = spec(name)
        rows, where = source.rows(task, study.seed)
        found[name] = [rows[place] for place in drawn_places(task, rows, where, n, study.seed, items)]
    return found


def _source(study: Study, data_root: Path) -> Source:
    return rows_in_x(study, study.sft_x_name) if study.sft_x_name else Source("", data_root)


def _items(study: Study, data_root: Path) -> Items:
    """What no row of the source may hold."""
    return (items_in_x if study.sft_x_name else english_items)(study, data_root)
