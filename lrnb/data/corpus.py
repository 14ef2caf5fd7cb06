"""Running text in a language: sources, cleaning, deduplication, what is held out, tokenizer audit.

One document is one string. Everything streams, so a Hub data set need not fit into memory.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex

from lrnb.data.character_kinds import UNSPACED
from lrnb.data.cleaning import told_counts
from lrnb.data.hub_sets import NotOpened, open_text
from lrnb.data.lines import json_lines, numbered_lines
from lrnb.data.parquet_column import column_values
from lrnb.data.placeholders import own_values
from lrnb.data.unicode_form import nfc, why_no_text
from lrnb.errors import UserError
from lrnb.study.files import write_text
from lrnb.study.progress import Progress
from lrnb.study.stages import require

_log = logging.getLogger(__name__)
SUFFIXES = (".jsonl.gz", ".jsonl", ".txt", ".parquet")
LANGUAGE_CODE = regex.compile("[a-z]{2,3}")  # as the parameter `lang`; other files may lie beside
NO_FIELD = object()  # in place of the text of a row that has none
FIRST_LINES = 100_000  # of a .txt, whose blank lines are looked at
FIRST_ROWS = 100  # of a stream, one of which has the field that is asked for
AUDIT_DOCUMENTS, AUDIT_CHARACTERS = 1_000, 1_000  # documents; characters of each that tell its script
WITHOUT_SPACES = regex.compile(rf"(?=\p{{L}})[{UNSPACED}]")  # their letters
BUFFER = 100_000  # documents that are shuffled at once


def read_local(
    data_root: Path, lang: str, dropped: Counter[str] | None = None, field: str = "text"
) -> Iterator[str]:
    """Documents of `data_root/corpus/<lang>.{jsonl.gz,jsonl,txt,parquet}`; a .txt has one a line.

    Rows that are no text are left out, and counted by reason in `dropped`. UserError where there is no file,
    no document in it, an example row of `lrnb new`, or where it cannot be read.
    """
    path = text_file(Path(data_root), lang)
    values = own_values(_values(path, field), str(path))
    return _not_empty(values, str(path), Counter() if dropped is None else dropped)


def file_texts(path: Path) -> Iterator[str]:
    """Documents of one file of text, by its ending, in NFC. UserError where there are none."""
    if not path.is_file() or not path.name.endswith(SUFFIXES):
        kinds = ", ".join(SUFFIXES)
        raise UserError(f"{path}: no file of text; give one that ends in {kinds}, a document a line or row")
    return map(nfc, _not_empty(own_values(_values(path, "text"), str(path)), str(path), Counter()))


def local_texts(data_root: Path, lang: str) -> Iterator[str]:
    """`read_local` of a language that the study may not be about: its file may be empty, or end broken."""
    try:
        yield from _texts(_values(text_file(Path(data_root), lang), "text"), Counter())
    except UserError as error:
        _log.warning("what follows there does not count for the vocabulary: %s", error)


def lines_and_blocks(path: Path) -> tuple[int, int]:
    """How many of the first lines of a .txt hold text, and into how many blocks blank lines part them."""
    numbers = [number for number, _ in islice(numbered_lines(path), FIRST_LINES)]
    return len(numbers), sum(after - before > 1 for before, after in pairwise([-1, *numbers]))


def languages(data_root: Path) -> list[str]:
    """Codes of the languages that have a file below `data_root/corpus`, whatever else lies there."""
    names = [path.name for path in (Path(data_root) / "corpus").glob("*")]
    codes = {name.removesuffix(suffix) for name in names for suffix in SUFFIXES if name.endswith(suffix)}
    return sorted(code for code in codes if LANGUAGE_CODE.fullmatch(code))


def text_file(data_root: Path, lang: str) -> Path:
    """The file of a language's text below `data_root/corpus`. UserError where there is none."""
    paths = [data_root / "corpus" / f"{lang}{suffix}" for suffix in SUFFIXES]
    try:
        there = [path for path in paths if path.is_file()] or [path for path in paths if path.exists()]
    except OSError as error:
        raise UserError(
            f"{data_root / 'corpus'} cannot be read ({error.strerror}); give a folder that you may read"
        ) from None
    if not there:
        kinds = ", ".join(path.name for path in paths)
        raise UserError(
            f"{data_root / 'corpus'}: no text for {lang!r}. Put one of {kinds} there{_others(data_root)}"
        )
    whole = [path for path in there if path.stat().st_size]
    if len(whole) > 1:
        names = " and ".join(path.name for path in whole)
        raise UserError(f"{data_root / 'corpus'}: {names} are both text for {lang!r}; keep one of them")
    return (whole or there)[0]


def _others(data_root: Path) -> str:
    """What lies beside the texts of languages, for a message."""
    own = {f"{lang}{suffix}" for lang in languages(data_root) for suffix in SUFFIXES}
    found = sorted((data_root / "corpus").glob("[!.]*"))
    names = [path.name for path in found if path.name not in own and path.exists()]
    names += [f"{path.name} (a link to nothing)" for path in found if not path.exists()]
    return f"; not read: {', '.join(names)}" if names else ""


def _values(path: Path, field: str) -> Iterator[Any]:
    """What each row of a file has as its text, be it text or not; NO_FIELD where it has none."""
    if path.suffix == ".parquet":
        yield from column_values(path, field)
    elif path.suffix == ".txt":
        yield from (line for _, line in numbered_lines(path))
    else:
        yield from (_field(row, field) for _, row in json_lines(path))


def _field(row: Any, field: str) -> Any:
    return row.get(field, NO_FIELD) if isinstance(row, dict) else NO_FIELD


def _texts(values: Iterable[Any], dropped: Counter[str]) -> Iterator[str]:
    for value in values:
        reason = "no text field" if value is NO_FIELD else why_no_text(value)
        if reason:
            dropped[reason] += 1
        else:
            yield value


def _not_empty(values: Iterable[Any], where: str, dropped: Counter[str]) -> Iterator[str]:
    documents = _texts(values, dropped)
    first = next(documents, None)
    if first is None:
        there = f"no row of it is text ({told_counts(dropped)})" if dropped.total() else "holds no document"
        raise UserError(f"{where}: {there}. Add text, one document a line or row")
    yield first
    yield from documents


def read_hub(
    dataset: str, config: str = "", files: str = "", split: str = "train", field: str = "text",
    dropped: Counter[str] | None = None,
) -> Iterator[str]:  # fmt: skip
    """Documents of a Hub data set (or a local folder that looks like one), streamed, nothing kept on disk.

    `open_text` says how it is opened; `dropped` as in `read_local`. UserError where it cannot be opened or
    read, or has no such field.
    """
    where = f"data set {dataset!r}"
    try:
        rows = open_text(dataset, config, split, files)
    except NotOpened as error:
        raise UserError(
            f"{where}: cannot be opened ({error}). Check the name, "
            "the terms to accept on the Hub and the network, or use local text: "
            "--set corpus_source=local --set data_root=FOLDER"
        ) from None
    yield from _not_empty(_fields(rows, where, field), where, Counter() if dropped is None else dropped)


def _fields(rows: Iterable[dict[str, Any]], where: str, field: str) -> Iterator[Any]:
    """A row may lack its text, as a local one may; the name is wrong where all of the first do."""
    stream = _read_on(rows, where)
    first = list(islice(stream, FIRST_ROWS))
    if first and not any(field in row for row in first):
        raise UserError(f"{where}: no field {field!r} among {sorted(first[0])}; --set hub_text_field=NAME")
    yield from (row.get(field, NO_FIELD) for row in chain(first, stream))


def _read_on(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Rows of a stream. UserError for an error on the way: files and the network can have any."""
    number, stream = 0, iter(rows)
    while True:
        try:
            row = next(stream)
        except StopIteration:
            return
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            raise UserError(
                f"{where}: cannot be read after row {number} ({type(error).__name__}: {reason}). Check its "
                "files and the network, or use local text: --set corpus_source=local --set data_root=FOLDER"
            ) from None
        number += 1
        yield row


def shuffled(documents: Iterable[str], seed: int, buffer: int = BUFFER) -> Iterator[str]:
    """The documents in an order that only `seed` decides; above `buffer` documents, shuffled locally."""
    rng = np.random.default_rng(seed)
    stream = iter(documents)
    with Progress("reading and cleaning", 0, "documents") as progress:
        held = list(progress.through(islice(stream, buffer)))
    for text in stream:
        held.append(text)
        chosen = int(rng.integers(len(held)))
        held[chosen], held[-1] = held[-1], held[chosen]
        yield held.pop()
    for index in rng.permutation(len(held)):
        yield held[index]


def tallied(documents: Iterable[str], read: dict[str, dict[str, int]], name: str) -> Iterator[str]:
    """The documents as they come; how many, and their bytes of UTF-8, are kept in read[name]."""
    seen = read.setdefault(name, {"documents": 0, "bytes": 0})
    for text in documents:
        seen["documents"] += 1
        seen["bytes"] += len(text.encode())
        yield text


def first_documents(documents: Iterator[str], characters: int) -> tuple[list[str], Iterator[str]]:
    """The first documents, about so many characters of them, and an iterator over all documents."""
    found, size = list[str](), 0
    for text in documents:
        found.append(text)
        size += len(text)
        if size >= characters:
            break
    return found, chain(found, documents)


def hold_out(documents: Iterator[str], size: int) -> list[str]:
    """Takes whole documents off the front of an iterator until they have `size` bytes of UTF-8."""
    taken, total = [], 0
    for text in documents:
        taken.append(text)
        total += len(text.encode())
        if total >= size:
            break
    return taken


def audit(tokenizer: Any, documents: list[str]) -> dict[str, float]:
    """How the tokenizer treats a language, on up to 1000 documents: shares in [0, 1], rates per character.

    `tokens_per_word` is there where words are parted by spaces, `tokens_per_syllable` for Tibetan.
    `byte_share`: tokens that are single bytes (<0xE0>), the sign of a script that the vocabulary lacks;
    `partial_share`: tokens that are no whole characters, which counts the pieces of byte-level BPE too.
    """
    texts = documents[:AUDIT_DOCUMENTS]
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # of any length
    ids = [i for row in rows for i in row]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    characters = sum(map(len, texts))
    return {
        "documents": len(texts),
        "characters": characters,
        "tokens": len(ids),
        "tokens_per_character": len(ids) / max(characters, 1),
        "bytes_per_token": sum(len(text.encode()) for text in texts) / max(len(ids), 1),
        **{f"tokens_per_{unit}": len(ids) / max(count, 1) for unit, count in _units(texts).items()},
        "byte_share": sum(_is_byte(piece) for piece in pieces) / max(len(ids), 1),
        "partial_share": _partial(tokenizer, ids) / max(len(ids), 1),
        "unknown_share": sum(i == tokenizer.unk_token_id for i in ids) / max(len(ids), 1),
        "distinct_tokens": len(set(ids)),
    }


def _units(texts: list[str]) -> dict[str, int]:
    """How many words or syllables texts have; {} where nothing but a dictionary tells them apart."""
    sample = "".join(text[:AUDIT_CHARACTERS] for text in texts)
    letters = len(regex.findall(r"\p{L}", sample))
    if 2 * len(WITHOUT_SPACES.findall(sample)) <= letters:
        return {"word": sum(len(text.split()) for text in texts)}
    if 2 * len(regex.findall(r"(?=\p{L})\p{Script=Tibetan}", sample)) > letters:
        return {"syllable": sum(len(regex.findall(r"[\p{L}\p{M}]+", text)) for text in texts)}
    return {}


def _partial(tokenizer: Any, ids: list[int]) -> int:
    return sum(n for i, n in Counter(ids).items() if "\ufffd" in tokenizer.decode([i]))


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x")


def write_lines(path: Path, texts: list[str]) -> None:
    """Texts as JSON Lines, one {"text": ...} a line."""
    write_text(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))


def read_lines(path: Path) -> list[str]:
    """The texts that `write_lines` wrote; UserError where the stage that makes them has not run."""
    return [row["text"] for _, row in json_lines(require(path))]


def held_out(folder: Path, lang: str) -> dict[str, list[str]]:
    """Language -> the documents that a corpus stage kept out of training; {} where there is no such stage."""
    files = {lang: folder / "heldout_x.jsonl", "en": folder / "heldout_en.jsonl"}
    found = {code: read_lines(path) for code, path in files.items() if path.is_file()}
    return {code: texts for code, texts in found.items() if texts}
