"""Rows out of a file that someone brought: CSV, TSV, JSON lines, a JSON list or Parquet, read as a stream.

Guarantees: memory stays flat whatever the file holds (a line, a cell or a JSON element may have 4 MB, a value 32
levels); whatever cannot be read comes out as a `Problem` with its row number instead of an exception, and reading goes
on where that is possible; every string that comes out is clean Unicode without NUL. Byte order marks, UTF-16, CR and
CRLF are understood; other encodings are guessed with charset-normalizer.

Row numbers are what people see in their own tools: the line for JSON lines, the record for CSV and TSV as a spreadsheet
counts it (the header is row 1), the position for a JSON list and Parquet. Not done here: spreadsheets, archives.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO

from ml.data.json_rows import lines_of_bytes, lines_of_json, list_of_json
from ml.data.raw import Problem, Row, shown
from ml.data.sniff import Source
from ml.data.table_rows import table

__all__ = ["Problem", "Row", "read_rows", "shown"]


def read_rows(source: Source, *, progress: Callable[[int], None] | None = None) -> Iterator[Row | Problem]:
    """Every row of `source` in order. `progress` is told the byte position now and then."""
    if source.format == "parquet":
        from ml.data.parquet_rows import table_of_parquet

        yield from table_of_parquet(source.path, progress)
        return
    with source.path.open("rb") as file:
        for count, row in enumerate(_rows(source, file)):
            if progress is not None and count % 500 == 0:
                progress(file.tell())
            yield row


def _rows(source: Source, file: IO[bytes]) -> Iterator[Row | Problem]:
    if source.format == "jsonl" and source.encoding == "utf-8" and not source.has_lone_cr:
        return lines_of_bytes(file)
    errors = "surrogateescape" if source.encoding.startswith("utf-8") else "replace"
    is_table = source.format in ("csv", "tsv")
    stream = io.TextIOWrapper(file, encoding=source.encoding, errors=errors, newline="" if is_table else None)
    if is_table:
        return table(stream, source.delimiter)
    return lines_of_json(stream) if source.format == "jsonl" else list_of_json(stream)
