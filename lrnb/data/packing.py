"""From documents to packed training rows: token ids, English replay, rows that isolate documents.

Packing cuts the token stream into rows of `seq_len`; inside a row each document (or piece of one)
counts its positions from 0, and a model that gets no attention mask keeps such pieces apart
(transformers.masking_utils, packed sequences), so no document sees another.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.data.ahead import PART, ahead, parts
from lrnb.data.disk_table import DiskTable
from lrnb.data.token_pieces import resumed
from lrnb.errors import UserError
from lrnb.study.environment import threads_used, versions
from lrnb.study.files import digest
from lrnb.study.parameters import whole_steps
from lrnb.study.progress import Progress

ROWS_A_BATCH = 1024  # of an Arrow file: opening it costs time and memory for every batch


def tokenize(
    tokenizer: Any, documents: Iterable[str], batch: int = 256, kept: Path | None = None
) -> Iterator[list[int]]:
    """Token ids of each document: one beginning mark where the tokenizer has it, the text, one end mark.

    Where the study has several `threads`, as many cut PARTs of the text, a few ahead of what is asked for.
    kept: a folder for ids of large corpora, from which it goes on when it is called again (`token_pieces`).
    """
    cut = partial(_cut, tokenizer, _cutter(tokenizer))
    threads = threads_used() if _is_fast(tokenizer) else 1
    size = batch if threads == 1 else PART

    def ids_of(texts: Iterable[str]) -> Iterator[list[int]]:
        yield from chain.from_iterable(ahead(cut, parts(texts, size), threads))

    if kept is None or not _is_fast(tokenizer):
        return ids_of(documents)
    return resumed(documents, ids_of, kept, partial(_cutting_key, tokenizer))


def _cutting_key(tokenizer: Any) -> str:
    """What the ids of a text depend on: the tokenizer, its marks, the library that cuts."""
    marks = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return digest([tokenizer.backend_tokenizer.to_str(), marks, versions(("tokenizers",))])


def _is_fast(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "is_fast", False))


def _cutter(tokenizer: Any) -> Callable[[list[str]], Iterable[list[int]]]:
    """Texts of any length to their ids alone; masks and offsets would cost a quarter of the time."""
    whole = partial(tokenizer, add_special_tokens=False, verbose=False)
    whole([""])  # takes truncation and padding off that its file may have
    if not _is_fast(tokenizer):
        return lambda texts: whole(texts)["input_ids"]
    fast = partial(tokenizer.backend_tokenizer.encode_batch_fast, add_special_tokens=False)
    return lambda texts: (found.ids for found in fast(texts))


def _cut(
    tokenizer: Any, cutter: Callable[[list[str]], Iterable[list[int]]], texts: list[str]
) -> list[list[int]]:
    return [_marked(tokenizer, ids) for ids in cutter(texts)]


def _marked(tokenizer: Any, ids: list[int]) -> list[int]:
    """Some tokenizers set marks whatever they are asked, and a text may hold them already."""
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return [*([] if ids[:1] == start else start), *ids, *([] if ids[-1:] == end else end)]


def passes(
    documents: Iterable[list[int]], epochs: int, seed: int, unique: Counter[str], name: str
) -> Iterator[list[int]]:
    """The documents (token ids) up to `epochs` times, from the second pass on in a new order each, by `seed`.

    `unique[name]` receives the tokens of the first pass. For more than one pass they are kept in a table on
    disk, 4 to 8 bytes a token.
    """
    kept, ends = DiskTable(1, 1, np.int32), array("Q", [0])
    for ids in documents:
        unique[name] += len(ids)
        if epochs > 1:
            ends.append(ends[-1] + len(ids))
            if ends[-1] > len(kept.values):
                kept.grow(2 * ends[-1])
            kept.values[ends[-2] : ends[-1], 0] = ids
        yield ids
    for epoch in range(1, epochs):
        for index in np.random.default_rng([seed, epoch]).permutation(len(ends) - 1):
            yield kept.values[ends[index] : ends[index + 1], 0].tolist()


def replay(
    documents: Iterable[list[int]], english: Iterable[list[int]], ratio: float, counts: Counter[str]
) -> Iterator[list[int]]:
    """Interleave X with English so that at every point there are `ratio` X tokens for each English one.

    `counts` receives the tokens of each. Ends with X; UserError when English ends first.
    """
    english = iter(english)
    for ids in documents:
        counts["x"] += len(ids)
        yield ids
        while ratio and counts["x"] > ratio * counts["en"]:
            more = next(english, None)
            if more is None:
                raise UserError(
                    f"English text ended after {counts['en']:,} tokens; {ratio:g}:1 needs more. "
                    "Add English text to corpus/en.*, raise ct_epochs, or --set english_ratio=0"
                )
            counts["en"] += len(more)
            yield more


def pack(documents: Iterable[list[int]], seq_len: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of (input_ids, position_ids), int32 each of shape (seq_len,); no token lost but the last part row.

    Positions restart at 0 with every document and at the start of a row.
    """
    ids: list[int] = []
    positions: list[int] = []
    for document in documents:
        start = 0
        while start < len(document):
            piece = document[start : start + seq_len - len(ids)]
            start += len(piece)
            ids += piece
            positions += range(len(piece))
            if len(ids) == seq_len:
                yield np.array(ids, np.int32), np.array(positions, np.int32)
                ids, positions = [], []


def rows_needed(budgets: list[int], seq_len: int, batch: int) -> int:
    """Rows that hold the largest budget in whole steps of `batch` rows."""
    return whole_steps(max(budgets), batch * seq_len) * batch


def write_packed(rows: Iterable[tuple[np.ndarray, np.ndarray]], path: Path, limit: int) -> int:
    """Write rows to an Arrow file that training memory-maps, until `limit` rows; returns how many.

    After an error (a full disk, say) nothing of it is left.
    """
    try:
        return _write_batches(rows, path, limit)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_batches(rows: Iterable[tuple[np.ndarray, np.ndarray]], path: Path, limit: int) -> int:
    import pyarrow as pa

    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("position_ids", pa.list_(pa.int32()))])
    count = 0
    with (
        Progress("corpus", limit, "rows") as progress,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, schema) as writer,
    ):
        first = progress.through(islice(rows, limit))
        while batch := list(islice(first, ROWS_A_BATCH)):
            columns = [_lists(np.stack(column)) for column in zip(*batch, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(batch)
    return count


def _lists(rows: np.ndarray) -> Any:
    """Rows of equal length as an Arrow column of lists."""
    import pyarrow as pa

    starts = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1])
    return pa.ListArray.from_arrays(starts, rows.ravel())


def check_budget(tokens: int, wanted: int, epochs: int) -> None:
    """UserError where the corpus, packed over `epochs` passes, holds less than the largest budget's steps."""
    if tokens < wanted:
        again = f" in {epochs} passes" if epochs > 1 else ""
        lower = f"lower it (for example --set 'ct_budgets=[{tokens // 2}]'), " if tokens > 1 else ""
        remedy = f"{lower}{more_passes(wanted, tokens, epochs)}keep less out of training (heldout_bytes)"
        raise UserError(
            f"ct_budgets asks for {wanted:,} tokens, the cleaned corpus has {tokens:,}{again}. "
            f"{remedy[0].upper()}{remedy[1:]}, or add text"
        )


def more_passes(wanted: int, there: int, epochs: int) -> str:
    """What `ct_epochs` would have to be for `wanted` tokens, where `epochs` passes hold `there`."""
    return f"read it again (--set ct_epochs={-(-wanted * epochs // there)}), " if there else ""
