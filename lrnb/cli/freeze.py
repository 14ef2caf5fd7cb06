"""The `freeze` command: hyper-parameters that runs have chosen on dev, for other runs to take as they are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

TEXT = """\
Writes parameters to FILE: of every arm of the runs (SFT-en, CT-then-SFT, each merge) the candidate with
the highest score on dev, mean over the runs and their CT budgets. Other runs take them as they are:

  lrnb run params/bn.yaml params/mn.yaml --preset smol --set data_root=DATA
  lrnb freeze runs/smol/bn runs/smol/mn --out frozen.yaml
  lrnb run params/all.yaml --preset smol --set data_root=DATA --set @frozen.yaml --set runs=runs/frozen
"""


def freeze_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.description = argparse.RawDescriptionHelpFormatter, TEXT
    add: Any = command.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="finished runs: runs/<preset>/<lang>")
    add("--out", type=Path, required=True, metavar="FILE", help="YAML, for --set @FILE")


def run_freeze(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    from lrnb.tuning.frozen import write_frozen

    print(write_frozen(given.runs, given.out), end="")
    return 0
