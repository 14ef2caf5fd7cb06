"""The `check` command: what text and tasks a study finds, and what is missing or wrong."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.report.tables import print_table

if TYPE_CHECKING:
    from lrnb.study.parameters import Study


def check_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    add: Any = command.add_argument
    add("params", type=Path, metavar="PARAMS.yaml", help="a language, for example params/bn.yaml")
    add("--preset", help="how big the study is: smol (default), released, paper; nano for the micro-world")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="another value, or @FILE; repeatable")


def check_study(study: Study) -> int:
    """Print tables and notes, then all that is wrong; 2 where something is, else 0."""
    from lrnb.pipeline import checkup, preflight, supplies

    if study.preset == "nano":
        print("Preset nano generates its text and tasks: nothing of them to look at.")
    elif supplies.data_is_known(study):
        print("reading text and rows, counting tokens ...", file=sys.stderr, flush=True)
        _print_tables(study, checkup)
    found = preflight.faults(study, hub=False)
    print("Missing or wrong:" if found else "Nothing that stops a run was found.")
    for number, one in enumerate(found, 1):
        print(f"{number}. {one}")
    return 2 if found else 0


def _turned(texts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A column a language; in a row that is known for none is nothing."""
    measures = dict.fromkeys(key for row in texts for key in row if key != "text")
    table = [{"text": key} | {row["text"]: row.get(key, "") for row in texts} for key in measures]
    return [row for row in table if any(value == value and value != "" for value in [*row.values()][1:])]


def _print_tables(study: Study, checkup: Any) -> None:
    texts, tasks = checkup.text_table(study), checkup.task_table(study)
    print(f"data root: {checkup.files_of(study)}")
    trained = (checkup.sft_table(study), checkup.rows_in_x_table(study))
    for table in (_turned(texts), tasks, *trained, checkup.family_table(study)):
        if table:
            print_table(table)
            print()
    for note in checkup.stops_nothing(study, texts, tasks):
        print(f"note: {note}")
    print()
