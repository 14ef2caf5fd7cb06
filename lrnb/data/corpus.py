"""Running text in a language: sources, cleaning, deduplication, what is held out, tokenizer audit.

One document is one string. Everything streams, so a Hub data set need not fit into memory.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import regex

from lrnb.data.hub_sets import NotOpened, open_text
from lrnb.errors import UserError
from lrnb.study.files import write_text
from lrnb.study.stages import require

SUFFIXES = (".jsonl.gz", ".jsonl", ".txt", ".parquet")
SHINGLE, PERMUTATIONS = 5, 64  # characters a shingle; hash functions of MinHash
AUDIT_DOCUMENTS = 1_000
BUFFER = 100_000  # documents that are shuffled at once


def read_local(data_root: Path, lang: str, field: str = "text") -> Iterator[str]:
    """Documents of `data_root/corpus/<lang>.{jsonl.gz,jsonl,txt,parquet}`; a .txt has one a line."""
    for suffix in SUFFIXES:
        path = Path(data_root) / "corpus" / f"{lang}{suffix}"
        if path.is_file():
            return _not_empty(_read_file(path, suffix, field), str(path))
    kinds = ", ".join(f"{lang}{suffix}" for suffix in SUFFIXES)
    raise UserError(f"{Path(data_root) / 'corpus'}: no text for {lang!r}. Put one of {kinds} there")


def languages(data_root: Path) -> list[str]:
    """Codes of the languages that have a file below `data_root/corpus`."""
    files = (Path(data_root) / "corpus").glob("*")
    return sorted({path.name.partition(".")[0] for path in files if path.name.endswith(SUFFIXES)})


def _not_empty(documents: Iterable[str], where: str) -> Iterator[str]:
    documents = iter(documents)
    first = next(documents, None)
    if first is None:
        raise UserError(f"{where}: holds no document. Add text, one document a line or row")
    yield first
    yield from documents


def _read_file(path: Path, suffix: str, field: str) -> Iterator[str]:
    if suffix == ".parquet":
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(path).iter_batches(columns=[field]):
            yield from (str(value) for value in batch.column(0).to_pylist() if value)
        return
    opener = gzip.open if suffix.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in ((n, line) for n, line in enumerate(file, 1) if line.strip()):
            yield line if suffix == ".txt" else _field(line, field, f"{path}:{number}")


def _field(line: str, field: str, where: str) -> str:
    try:
        return json.loads(line)[field]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{where}: expected one JSON object a line with a {field!r} field") from None


def read_hub(
    dataset: str, config: str = "", files: str = "", split: str = "train", field: str = "text"
) -> Iterator[str]:
    """Documents of a Hub data set (or a local folder that looks like one), streamed, nothing kept on disk.

    See `open_text` for how it is opened.
    """
    try:
        rows = open_text(dataset, config, split, files)
    except NotOpened as error:
        raise UserError(
            f"data set {dataset!r}: cannot be opened ({error}). Check the name, "
            "the terms to accept on the Hub and the network, or use local text: "
            "--set corpus_source=local --set data_root=FOLDER"
        ) from None
    yield from _not_empty(_fields(rows, dataset, field), f"data set {dataset!r}")


def _fields(rows: Iterable[dict[str, Any]], dataset: str, field: str) -> Iterator[str]:
    for row in rows:
        if field not in row:
            raise UserError(
                f"data set {dataset!r}: no field {field!r} among {sorted(row)}; --set hub_text_field=NAME"
            )
        yield row[field]


def script_share(text: str, script: str) -> float:
    """Share of the letters of `text` that are in the Unicode script `script`; 0 for no letters."""
    letters = len(regex.findall(r"\p{L}", text))
    return len(regex.findall(rf"(?=\p{{Script={script}}})\p{{L}}", text)) / letters if letters else 0.0


def clean(
    documents: Iterable[str], script: str, min_share: float, near: float, dropped: Counter[str]
) -> Iterator[str]:
    """NFC, script filter, exact and near deduplication; what is dropped is counted by reason in `dropped`.

    UserError at the end where there were documents and none is left.
    """
    seen: set[bytes] = set()
    twin = _near_duplicates(near) if near < 1 else None
    for raw in documents:
        text = unicodedata.normalize("NFC", raw).strip()
        reason = _reason(text, script, min_share, seen)
        if reason is None and twin is not None and twin(text):
            reason = "near duplicate"
        if reason is None:
            yield text
        else:
            dropped[reason] += 1
    if dropped and not seen:
        raise UserError(_all_dropped(script, min_share, dropped))


def _all_dropped(script: str, min_share: float, dropped: Counter[str]) -> str:
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in dropped.items())
    return (
        f"cleaning left no text ({reasons}). Documents need {min_share:.0%} of their letters in the script "
        f"{script or 'any'}: give text in it, or check script in params/<lang>.yaml and script_min_share"
    )


def _reason(text: str, script: str, min_share: float, seen: set[bytes]) -> str | None:
    if not text:
        return "empty"
    if script and script_share(text, script) < min_share:
        return "other script"
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    if digest in seen:
        return "duplicate"
    seen.add(digest)
    return None


def _near_duplicates(threshold: float) -> Any:
    """A function that says whether a text is close to an earlier one (MinHash of letter shingles, LSH)."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def twin(text: str) -> bool:
        shingles = {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([shingle.encode() for shingle in shingles])
        if any(sketch.jaccard(index_sketches[key]) >= threshold for key in index.query(sketch)):
            return True
        index_sketches[len(index_sketches)] = sketch
        index.insert(len(index_sketches) - 1, sketch)
        return False

    index_sketches: dict[int, Any] = {}
    return twin


def shuffled(documents: Iterable[str], seed: int, buffer: int = BUFFER) -> Iterator[str]:
    """The documents in an order that only `seed` decides; above `buffer` documents, shuffled locally."""
    rng = np.random.default_rng(seed)
    held: list[str] = []
    for text in documents:
        held.append(text)
        if len(held) > buffer:
            chosen = int(rng.integers(len(held)))
            held[chosen], held[-1] = held[-1], held[chosen]
            yield held.pop()
    for index in rng.permutation(len(held)):
        yield held[index]


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

    `byte_share`: tokens that are single bytes (<0xE0>), the sign of a script that the vocabulary lacks;
    `partial_share`: tokens that are no whole characters, which counts the pieces of byte-level BPE too.
    """
    texts = documents[:AUDIT_DOCUMENTS]
    ids = [i for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in row]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    characters = sum(map(len, texts))
    return {
        "documents": len(texts),
        "characters": characters,
        "tokens": len(ids),
        "tokens_per_character": len(ids) / max(characters, 1),
        "tokens_per_word": len(ids) / max(sum(len(text.split()) for text in texts), 1),
        "byte_share": sum(_is_byte(piece) for piece in pieces) / max(len(ids), 1),
        "partial_share": _partial(tokenizer, ids) / max(len(ids), 1),
        "unknown_share": sum(i == tokenizer.unk_token_id for i in ids) / max(len(ids), 1),
        "distinct_tokens": len(set(ids)),
    }


def _partial(tokenizer: Any, ids: list[int]) -> int:
    return sum(n for i, n in Counter(ids).items() if "\ufffd" in tokenizer.decode([i]))


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x")


def write_lines(path: Path, texts: list[str]) -> None:
    """Texts as JSON Lines, one {"text": ...} a line."""
    write_text(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))


def read_lines(path: Path) -> list[str]:
    """The texts that `write_lines` wrote; UserError where the stage that makes them has not run."""
    return [json.loads(line)["text"] for line in require(path).read_text(encoding="utf-8").splitlines()]


def held_out(folder: Path, lang: str) -> dict[str, list[str]]:
    """Language -> the documents that a corpus stage kept out of training; {} where there is no such stage."""
    files = {lang: folder / "heldout_x.jsonl", "en": folder / "heldout_en.jsonl"}
    found = {code: read_lines(path) for code, path in files.items() if path.is_file()}
    return {code: texts for code, texts in found.items() if texts}
