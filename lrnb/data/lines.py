r"""Text files as numbered lines, and JSON Lines: the one reader of .txt and .jsonl for all of lrnb.

Lines end at "\n" alone, as JSON Lines says: `str.splitlines` would end them at U+2028, U+0085 and others that
text holds. Files are UTF-8 with or without a byte order mark, plain or (.gz) packed.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from lrnb.errors import UserError
from lrnb.study.odd_files import refuse_pointer

BOM = "\ufeff"
HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # of a UTF-16 pair, written as if it were a character
DEEPEST = 50  # lists and objects inside one another; what walks a value calls itself that often
BEGINNINGS = {  # first bytes -> what the file is; what iconv calls it, or the ending of such a file's name
    b"\xff\xfe\x00\x00": ("UTF-32", "UTF-32"),
    b"\x00\x00\xfe\xff": ("UTF-32", "UTF-32"),
    b"\xff\xfe": ("UTF-16", "UTF-16"),
    b"\xfe\xff": ("UTF-16", "UTF-16"),
    b"\x1f\x8b": ("gzip", ".gz"),
    b"PAR1": ("parquet", ".parquet"),
}


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1 and without their ends.

    UserError with file, line and remedy for what is no file, cannot be read, is cut off or is no UTF-8.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, 1):
                if (line := _text(raw, path, number)).strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}:{number + 1}: the packed data are cut off or damaged ({error}); pack, copy or download "
            "the file again"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give a file that you may read"
        ) from None


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The value of every line that is not blank, with its number. UserError also for what is no JSON."""
    for number, line in numbered_lines(path):
        yield number, json_value(line, f"{path}:{number}")


def _opened(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; put a file there, or take it away")
    refuse_pointer(path)
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _text(raw: bytes, path: Path, number: int) -> str:
    """A line as text; a byte order mark goes wherever files with one were put together."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _no_utf8(raw, path, number, *_other_form(raw, error.start)) from None
    if raw.count(0) * 50 > len(raw):  # spaces and marks are half zeros in UTF-16
        raise _no_utf8(raw, path, number, "a zero byte: UTF-16, or a damaged file", "UTF-16LE")
    if "\0" in text:
        clean = f"tr -d '\\000' < {path.name} > NEW"
        raise UserError(f"{path}:{number}: holds a zero byte; mend the file, or take them out: {clean}")
    if number == 1 and raw.count(b"\r") > 1 and not raw.endswith(b"\n"):
        unix = f"tr '\\r' '\\n' < {path.name} > NEW"
        raise UserError(f"{path}: its lines end with carriage returns alone; convert it: {unix}")
    return text.removeprefix(BOM).removesuffix("\n").removesuffix("\r")


def _other_form(raw: bytes, start: int) -> tuple[str, str]:
    """What is wrong at a byte that is no UTF-8, and iconv's name for it: blanks of UTF-16 hold zeros."""
    if b"\0" in raw:
        return "a zero byte: UTF-16", "UTF-16LE" if raw.index(0) % 2 else "UTF-16BE"
    if HALF.match(raw, start):
        return "half a character, as of a text that was cut in UTF-16", "UTF-8 -c"
    return f"byte 0x{raw[start]:02x}", "LATIN1"


def _no_utf8(raw: bytes, path: Path, number: int, *found: str) -> UserError:
    name, kind = next((v for k, v in BEGINNINGS.items() if raw.startswith(k)), found)
    unpack = "unpack it and " if path.name.endswith(".gz") else ""
    remedy = f"{unpack}convert it, as: iconv -f {kind} -t UTF-8 {path.name.removesuffix('.gz')} > NEW"
    if kind.startswith("."):
        remedy = f"give it a name that ends with {kind}"
    return UserError(f"{path}:{number}: is no UTF-8 text ({name}); {remedy}")


def json_value(line: str, where: str, otherwise: str = "one JSON object a line: mend or remove it") -> Any:
    """What a text of JSON says; UserError with `otherwise`, what to do, where it is none."""
    try:
        value = json.loads(line, object_pairs_hook=without_twins)
        if line.count("[") + line.count("{") <= DEEPEST or _depth(value) <= DEEPEST:
            return value
        reason = f"more than {DEEPEST} lists and objects inside one another"
    except RecursionError:
        reason = "too many lists and objects inside one another"
    except ValueError as error:
        reason = getattr(error, "msg", str(error))
    raise UserError(f"{where}: not JSON ({reason}); {otherwise}") from None


def without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError where it gives a name twice, of which json would keep the last."""
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, list | dict)]:
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    return depth
