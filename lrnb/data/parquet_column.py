"""The text column of a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrnb.errors import UserError
from lrnb.study.odd_files import refuse_pointer


def column_values(path: Path, field: str) -> Iterator[Any]:
    """The values of a column of text, streamed; none of a file of no bytes. UserError names what is wrong."""
    from pyarrow import ArrowException, parquet

    try:
        if path.stat().st_size:
            refuse_pointer(path)
            file = parquet.ParquetFile(path)
            _refuse_no_text(file.schema_arrow, field, path)
            for batch in file.iter_batches(columns=[field]):
                yield from batch.column(0).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as parquet ({reason}); write, copy or download the file again"
        ) from None


def _refuse_no_text(schema: Any, field: str, path: Path) -> None:
    there = ", ".join(f"{name} ({kind})" for name, kind in zip(schema.names, schema.types, strict=True))
    remedy = f"its columns are: {there or 'none'}. Write the text into a column {field!r}"
    if schema.names.count(field) != 1:
        raise UserError(f"{path}: has no column {field!r}, or several; {remedy}")
    if not _is_text(kind := schema.field(field).type):
        raise UserError(f"{path}: column {field!r} is {kind}, no text; {remedy}")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(
        test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )
