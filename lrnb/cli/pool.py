"""The `pool` command: what several people's runs of one study say together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

TEXT = """\
Joins files that `lrnb run --pool` has written, of one study with different seeds, into one, and prints what
it says: the lead of every merge over CT-then-SFT over all seeds, with intervals. A run that two files hold
counts once. Refused are runs with other parameters, another world or another recipe, and two that should be
the same and are not. Where FILE of --out is there already, its runs stay in it.

  lrnb pool students/*/nano-qaa.jsonl --out class/nano-qaa.jsonl
"""


def pool_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.description = argparse.RawDescriptionHelpFormatter, TEXT
    add: Any = command.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="pools of runs")
    add("--out", type=Path, required=True, metavar="FILE", help="the pool that holds all of them")


def run_pool(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    from lrnb.analysis import pool
    from lrnb.report import terminal

    pool.add_pools(given.out, given.files)
    terminal.print_pool(given.out)
    return 0
