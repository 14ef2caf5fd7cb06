"""Whether a tokenizer comes to an end: its patterns and normalisers are somebody else's, and run in C.

One pattern may take for ever on one text, and a normaliser may fill the memory; neither can be stopped in the
process that runs it. So texts are cut once in a process of its own, which can.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from lrnb.errors import UserError
from lrnb.study.files import digest, remembered, sha256

SECONDS = 60.0  # for CHARACTERS, of which tokenizers cut half a million a second or more
CHARACTERS = 4_000_000  # of the texts that are tried, the longest first
REMEMBERED = "tokenizers.json"
CUT = """
import json, sys
from tokenizers import Tokenizer
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
except (ImportError, OSError, ValueError):
    pass  # a system without such limits, or with a lower one
tokenizer = Tokenizer.from_file(sys.argv[1])
for text in json.load(sys.stdin):
    tokenizer.encode(text)
"""  # 8 GiB of addresses: a vocabulary of 256k takes 2


def refuse_endless(folder: str | Path, texts: Iterable[str], seconds: float = SECONDS) -> None:
    """UserError where `tokenizer.json` of the folder cannot be read, or does not cut texts within `seconds`.

    A folder without that file passes: slow tokenizers have no patterns of their own. What passed is
    remembered by the bytes of the file and the texts.
    """
    file, tried = Path(folder) / "tokenizer.json", json.dumps(_tried(texts))
    if file.is_file():
        key = digest([version("tokenizers"), sha256(file), tried])
        remembered(REMEMBERED, key, lambda: _cut(file, tried, seconds))


def _cut(file: Path, tried: str, seconds: float) -> bool:
    """True; UserError where a process of its own does not cut the texts, a JSON list, in time."""
    command = [sys.executable, "-c", CUT, str(file)]
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command, input=tried, encoding="utf-8", errors="replace", capture_output=True, timeout=seconds,
            env=quiet, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{file}: the tokenizer did not cut the {CHARACTERS:,} characters or less that it is asked for "
            f"within {seconds:g} s: a pattern or normaliser in it runs for ever. Give the model's own file"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("note:")]
        said = (lines or [f"ended with status {done.returncode}"])[-1]
        raise UserError(f"{file}: no tokenizer that works ({said[:200]}). Copy the model's own file again")
    return True


def _tried(texts: Iterable[str]) -> list[str]:
    left, found = CHARACTERS, []
    for text in sorted(set(texts), key=len, reverse=True):
        if left <= 0:
            break
        found.append(text[:left])
        left -= len(text)
    return found
