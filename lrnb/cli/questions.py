"""The `questions` command: the merges that two open questions of the paper are asked with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrnb.study.environment import instruction_set

TEXT = """\
Makes in memory, and scores on the test items, the merges of two open questions: slack against other
selectors, and whether evened weights remove the plateau. The runs have to have base, corpus, CT and SFT-en;
make them with lrnb run and the same options first. Each merge is stored when it is scored: the same command
goes on where it stopped. notebooks/03_analysis/07_questions.ipynb shows what the file says.

With --published it makes the study's methods at the settings that their papers give instead, for finished
runs: a pool of lrnb run then has both, tuned on dev and published, and docs/results.md compares them.
"""


def questions_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.description = argparse.RawDescriptionHelpFormatter, TEXT
    add: Any = command.add_argument
    add("params", type=Path, metavar="PARAMS.yaml", help="a language, for example params/qaa.yaml")
    add("--preset", default="nano", help="as of lrnb run; pools are of nano")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="another value for a parameter, as of lrnb run; repeatable")  # fmt: skip
    add("--seeds", required=True, metavar="N|A-B", help="seeds 0 to N-1, or A to B, one after the other")
    add("--published", action="store_true", help="the methods at their published settings instead")
    add(
        "--pool",
        type=Path,
        required=True,
        metavar="DIR",
        help="keep what each merge has right in a file there",
    )


def run_questions(
    studies: list[Any], folder: Path, published: bool = False, say: Callable[[str], None] = print
) -> int:
    """Run the command for these studies; returns the exit status 0."""
    from lrnb.analysis import question_runs
    from lrnb.pipeline import notebooks
    from lrnb.study.recipe import pool_file

    gpu = notebooks.usable_gpus(studies[0])
    path, isa = pool_file(folder, studies[0]), "cuda" if gpu else instruction_set()
    for study in studies:
        made = question_runs.add_answers(study, path, isa, published)
        of = len(question_runs.asked_of(study, published))
        say(f"{path}: {made} merges of seed {study.seed} added, {of} there")
    return 0
