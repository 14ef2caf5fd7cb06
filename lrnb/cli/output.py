"""What the commands have in common in what they give: --out, --force, --json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrnb.errors import UserError


def output_options(command: argparse.ArgumentParser, what: str) -> None:
    """--out, --force and --json; what: what is written into DIR."""
    add: Any = command.add_argument
    add("--out", type=Path, metavar="DIR", help=f"write {what} here")
    add("--force", action="store_true", help="replace DIR even if it holds something else")
    add("--json", action="store_true", help="print everything as JSON")


def refuse_other(out: Path | None, marker: str, what: str, force: bool) -> None:
    """UserError for a folder that holds something else than `what`, whose sign is a file `marker`."""
    if out is None or force or not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / marker).is_file()):
        raise UserError(f"{out}: exists and is no {what}. Choose another --out, or add --force to replace it")


def print_json(value: Any) -> None:
    """A value as JSON; numbers that are not known are null."""
    print(json_text(value))


def json_text(value: Any) -> str:
    return json.dumps(_known_only(value), indent=1, allow_nan=False, ensure_ascii=False, default=_number)


def _known_only(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _known_only(x) for key, x in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_known_only(x) for x in value]
    return None if isinstance(value, float) and value != value else value


def _number(value: Any) -> Any:
    """numpy's numbers and arrays as Python's; anything else as text."""
    return _known_only(value.tolist()) if hasattr(value, "tolist") else str(value)
