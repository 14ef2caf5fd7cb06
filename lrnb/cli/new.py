"""The `new` command: the files of a language that the study has not had."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  lrnb new ky --script Cyrillic                      # data/ky with example rows to be replaced
  lrnb new ky --script Cyrillic --from-hub           # FineWeb-2, SIB-200 and Belebele
  lrnb new ky --script Cyrillic --tasks topic        # rows of no other task
  lrnb new xyz --name Xyz --script Latin --data-root DATA
"""


def new_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    add: Any = command.add_argument
    add("lang", metavar="CODE", help="the language's code of ISO 639: ky, sat")
    add("--name", default="", help="its English name, as it stands in prompts (default: that of CLDR)")
    add("--script", required=True, help="the Unicode name of its script: Cyrillic, Thai, Ol_Chiki")
    add("--from-hub", action="store_true", help="text and tasks from the Hub: FineWeb-2, SIB-200, Belebele")
    add("--tasks", default="", metavar="A,B", help="tasks to write example rows for (default: one a family)")
    add("--data-root", type=Path, metavar="DIR",
        help="the data folder, new or there already (default: data/CODE)")  # fmt: skip


def run_new(given: argparse.Namespace) -> int:
    """Write the files; say which, and what to do next."""
    from lrnb.pipeline.new_language import new_language, remarks, write_language
    from lrnb.study.parameters import ROOT, require_checkout

    require_checkout("new")
    root = given.data_root or Path("data", given.lang)
    root = root if Path.cwd() == ROOT else root.absolute()
    tasks = tuple(filter(None, given.tasks.split(",")))
    made = new_language(given.lang, given.name, given.script, root, given.from_hub, tasks)
    for path in write_language(made):
        print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    for remark in remarks(made):
        print(f"note: {remark}")
    what = "" if given.from_hub else f"put your rows into {root} in place of the examples, then "
    print(f"Next: {what}lrnb check params/{made.lang}.yaml")
    return 0
