"""The `importance` command: what a model does with some text, for merges that ask."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lrnb.cli.output import print_json, refuse_other
from lrnb.study.progress import Progress

EXAMPLES = """\
Gradients of the log-likelihood, a row at a time: fisher is the mean of their squares, gradient their mean. A
merge reads them where slack is to win back what matters most, instead of what was lost most narrowly. gram is
X' X of the inputs of each linear layer, for RegMean: a folder for each parent, from text that it is for.

example:
  lrnb importance --kind fisher --model SFT --text rows.jsonl --out SFT-fisher
  lrnb merge ties-sv --base B --model ct=C --model sft=SFT --density 0.5 --slack 0.3 \\
    --reserve-by fisher --importance SFT-fisher --out merged
  lrnb importance --kind gram --model CT --text text.txt --out CT-gram
  lrnb importance --kind gram --model SFT --text rows.jsonl --out SFT-gram
  lrnb merge regmean --base B --model ct=CT --model sft=SFT --importance ct=CT-gram \\
    --importance sft=SFT-gram --out merged
"""


def importance_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    from lrnb.checkpoints.importance import KINDS

    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    add: Any = command.add_argument
    add("--kind", required=True, choices=KINDS, help="squared gradients, their mean, or inputs of layers")
    add(
        "--model", required=True, metavar="DIR", help="a model folder or Hub id: the parent that slack is for"
    )
    add("--text", required=True, type=Path, metavar="FILE",
        help="JSON Lines with prompt and completion, of which the completion counts, or text")  # fmt: skip
    add("--rows", type=int, default=256, metavar="N", help="rows taken, the first ones (default 256)")
    add("--max-len", type=int, default=512, metavar="N",
        help="tokens a row (default 512): texts are cut there, longer pairs left out")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="new folder, as large as the model in float32")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--force", action="store_true", help="replace DIR whatever it holds")
    add("--json", action="store_true", help="print the facts as JSON")


def run_importance(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    from lrnb.checkpoints.importance import FACTS

    refuse_other(given.out, FACTS, "folder of scores", given.force)
    from lrnb.training.importance import importance, importance_rows

    rows = importance_rows(given.text, given.rows)
    how = {"max_len": given.max_len, "device": given.device}
    with Progress("importance", len(rows), "rows") as progress:
        facts = importance(given.kind, given.model, rows, given.out, **how, progress=progress.update)
    if given.json:
        print_json(facts)
    else:
        left = f", {facts['left_out']} longer ones left out" if facts["left_out"] else ""
        print(f"{given.kind} of {facts['rows']} rows, {facts['tokens']:,} tokens{left}")
        print(given.out)
    return 0
