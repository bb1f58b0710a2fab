"""CSV and TSV as streams of rows. See `ml.data.readers`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, TextIO

from ml.data.raw import MAX_COLUMNS, MAX_LINE, BadValue, Problem, Row, check_text, next_line, shown

MAX_NAME = 80


def _table_lines(stream: TextIO) -> Iterator[str]:
    while True:
        line, is_too_long = next_line(stream)
        if is_too_long:
            raise csv.Error("a line is longer than 4 MB")
        if not line:
            return
        yield line


def column_names(cells: list[str]) -> list[str]:
    """Usable, unique names out of a header: trimmed, cut, without braces; unnamed columns are counted."""
    names: list[str] = []
    for position, cell in enumerate(cells, start=1):
        name = cell.strip().replace("{", "(").replace("}", ")")[:MAX_NAME] or f"column_{position}"
        base, n = name, 1
        while name in names:
            n += 1
            name = f"{base}_{n}"
        names.append(name)
    return names


def table(stream: TextIO, delimiter: str) -> Iterator[Row | Problem]:
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_table_lines(stream), delimiter=delimiter or ",", strict=True)
    names: list[str] | None = None
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _broken_table(error, number, reader.line_num)
            yield problem
            if problem.is_last:
                return
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if names is not None:
            yield _record(cells, names, number)
            continue
        names, unusable = _header(cells, number)
        if unusable is not None:
            yield unusable
            return


def _header(cells: list[str], number: int) -> tuple[list[str], Problem | None]:
    try:
        for cell in cells:
            check_text(cell)
    except BadValue as error:
        return [], Problem(row=number, message=f"The header {error}.", received=shown(str(cells)), is_last=True)
    if len(cells) > MAX_COLUMNS:
        message = f"The header has {len(cells):,} columns; at most {MAX_COLUMNS} are read."
        return [], Problem(row=number, message=message, received=shown(", ".join(cells)), is_last=True)
    return column_names(cells), None


def _record(cells: list[str], names: list[str], number: int) -> Row | Problem:
    while len(cells) > len(names) and not cells[-1]:
        cells.pop()
    if len(cells) != len(names):
        return Problem(
            row=number,
            message=f"Row {number} has {len(cells)} cells, the header has {len(names)}.",
            received=shown(" | ".join(cells)),
            hint="Put cells that hold the separator or a line break into double quotes.",
        )
    values: dict[str, Any] = dict(zip(names, cells, strict=True))
    for name, cell in values.items():
        try:
            check_text(cell)
        except BadValue as error:
            return Problem(row=number, column=name, message=f"Row {number} {error}.", received=shown(cell))
    return Row(number=number, values=values)


def _broken_table(error: csv.Error, number: int, line: int) -> Problem:
    is_last = "expected after" not in str(error)
    text = "a quotation mark stands inside a quoted cell" if not is_last else str(error)
    if "field larger" in text or "unexpected end" in text:
        text = "a quoted cell that begins here never ends, or is longer than 4 MB"
    return Problem(
        row=number,
        message=f"Row {number} cannot be read: {text} (line {line}).",
        hint="Double a quotation mark inside a quoted cell." + " Nothing after it can be read." * is_last,
        is_last=is_last,
    )
