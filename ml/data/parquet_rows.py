"""Parquet as a stream of rows, a batch at a time. See `ml.data.readers`.

Guarantees: at most one row group lies in memory, and a file whose footer declares larger ones is refused before any of
it is read; columns that hold neither text, numbers, booleans, lists nor objects come out as a problem naming them;
whole numbers that the Hugging Face schema calls a class come out as its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from ml.data.raw import MAX_COLUMNS, MAX_LINE, BadValue, Problem, Row, check_value, shown
from ml.data.table_rows import column_names
from ml.errors import DataError

BATCH = 1000
MAX_GROUP_BYTES = 512 * 1024 * 1024
"""Uncompressed size that one row group may declare."""
_HINT = "Write it again with pandas or pyarrow, or save it as JSON lines."


def table_of_parquet(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[Row | Problem]:
    """Rows in order, numbered from 1. `progress` is told an estimate of the byte position."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    try:
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            yield from _rows(file, path.stat().st_size, progress)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"The Parquet file cannot be read: {shown(str(error).splitlines()[0] if str(error) else error, 160)}.",
            hint=_HINT, code="bad_parquet",
        ) from error  # fmt: skip


def _rows(file: Any, size_bytes: int, progress: Callable[[int], None] | None) -> Iterator[Row | Problem]:
    about, schema = file.metadata, file.schema_arrow
    _check_footer(about, schema)
    names, classes = column_names([str(name) for name in schema.names]), _classes(schema)
    number = 0
    for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
        if progress is not None:
            progress(size_bytes * number // max(1, about.num_rows))
        columns = [_column(batch.column(place), classes.get(name)) for place, name in enumerate(schema.names)]
        for cells in zip(*columns, strict=True):
            number += 1
            yield _row(dict(zip(names, cells, strict=True)), number)


def _check_footer(about: Any, schema: Any) -> None:
    if len(schema.names) > MAX_COLUMNS:
        raise DataError(f"The file has {len(schema.names):,} columns; at most {MAX_COLUMNS} are read.", hint=_HINT)
    if not schema.names:
        raise DataError("The Parquet file has no columns.", hint=_HINT)
    for place in range(about.num_row_groups):
        n_bytes = about.row_group(place).total_byte_size
        if n_bytes > MAX_GROUP_BYTES:
            raise DataError(
                f"Row group {place + 1} of the Parquet file has {n_bytes / 1e6:,.0f} MB unpacked; "
                f"at most {MAX_GROUP_BYTES // 1_000_000} MB are read at once.",
                hint="Write it with smaller row groups.", code="bad_parquet",
            )  # fmt: skip


def _classes(schema: Any) -> dict[str, list[str]]:
    """Names of classes by column, where the file was written by Hugging Face's datasets."""
    try:
        kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = kept["info"]["features"]
        found = {name: about["names"] for name, about in features.items() if about.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list)}


def _column(values: Any, names: list[str] | None) -> list[Any]:
    cells = values.to_pylist()
    if names is None:
        return cells
    return [
        str(names[cell]) if isinstance(cell, int) and 0 <= cell < len(names) else cell if cell != -1 else None
        for cell in cells
    ]


def _row(values: dict[str, Any], number: int) -> Row | Problem:
    for name, value in values.items():
        try:
            if not isinstance(value, str):
                values[name] = value = _plain(value, 1)
            if isinstance(value, str) and len(value) > MAX_LINE:
                raise BadValue("is longer than 4 MB")
            check_value(value)
        except BadValue as error:
            return Problem(row=number, column=name, message=f"Row {number} {error}.", received=shown(value))
    return Row(number=number, values=values)


def _plain(value: Any, depth: int) -> Any:
    """The value as JSON has it. Raises BadValue for bytes and the like."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth > 32:
        raise BadValue("is nested deeper than 32 levels")
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise BadValue(f"holds {type(value).__name__}, which is neither text nor a number")
