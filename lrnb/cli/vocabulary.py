"""The `vocabulary` command: a model's vocabulary extended by pieces of a language."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lrnb.cli.output import print_json
from lrnb.errors import UserError

EXAMPLES = """\
Pieces are learnt on the text, over those that the tokenizer has and never across what it splits apart itself;
old tokens keep their ids and rows. CT starts from DIR; SFT may stay on the base, and
`lrnb merge --vocabulary owner` keeps the new rows (docs/merging.md).

example:
  lrnb vocabulary extend --base B --text or.jsonl.gz --tokens 2000 --out B-or
"""


def vocabulary_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    add: Any = command.add_argument
    add("what", choices=("extend",), help="what is done with it")
    add("--base", required=True, metavar="DIR", help="a model folder or Hub id")
    add("--text", required=True, type=Path, metavar="FILE",
        help="text in the language: .txt with a document a line, .jsonl, .jsonl.gz or .parquet")  # fmt: skip
    add("--tokens", required=True, type=int, metavar="N", help="new tokens")
    add("--out", required=True, type=Path, metavar="DIR", help="new folder for the model")
    add("--init", default="mean", metavar="HOW",
        help="first rows: mean of the old pieces' (default), focus (by likeness), random, zeros")  # fmt: skip
    add("--seed", type=int, default=0, help="of --init random (default 0)")
    add("--json", action="store_true", help="print what was added as JSON")


def run_vocabulary(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    from lrnb.checkpoints.extending import EXTENSION, extend_vocabulary
    from lrnb.data.corpus import file_texts

    if given.out.exists() and any(given.out.iterdir()) and not (given.out / EXTENSION).is_file():
        raise UserError(
            f"{given.out}: exists and is no model extended here. Choose another folder, or remove it"
        )
    facts = extend_vocabulary(
        given.base, file_texts(given.text), given.tokens, given.out, init=given.init, seed=given.seed
    )
    if given.json:
        print_json(facts)
        return 0
    rates = facts["bytes_per_token"]
    if facts["tokens"] < facts["asked"]:
        print(
            f"the text has no more than {facts['tokens']:,} pieces twice; {facts['asked']:,} were asked for"
        )
    print(f"{facts['tokens']:,} new tokens from id {facts['first']:,} on; {facts['rows']:,} rows")
    print(f"bytes a token on this text: {rates['before']:.2f} before, {rates['after']:.2f} after")
    print(given.out)
    return 0
