"""JSON lines and JSON lists as streams of rows. See `ml.data.readers`.

Lines of UTF-8 take a fast way through orjson; whatever it refuses, or reads with less care than we do (large whole
numbers, NUL, depth), is read again by the careful way, which knows the words for what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any, NoReturn, TextIO

import orjson

from ml.data.raw import (
    MAX_COLUMNS,
    MAX_DEPTH,
    MAX_LINE,
    PIECE,
    BadValue,
    Problem,
    Row,
    check_text,
    check_value,
    next_line,
    shown,
)

LINE_HINT = "Every line must be one JSON object of at most 4 MB."


def _refuse_constant(name: str) -> NoReturn:
    raise BadValue(f"holds {name}, which JSON has no word for")


_LONG_NUMBER = re.compile(rb"\d{16}")
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _object(value: Any, number: int, unit: str) -> Row | Problem:
    """The row in a decoded JSON value."""
    if not isinstance(value, dict):
        return Problem(row=number, message=f"{unit} is not a JSON object.", received=shown(value),
                       hint='Rows look like {"text": "…", "label": "…"}.')  # fmt: skip
    if len(value) > MAX_COLUMNS:
        return Problem(row=number, message=f"{unit} has {len(value)} keys; at most {MAX_COLUMNS} are read.")
    try:
        check_value(value)
    except BadValue as error:
        return Problem(row=number, message=f"{unit} {error}.", received=shown(value), hint=LINE_HINT)
    return Row(number=number, values=value)


def _is_plain(values: dict[str, Any]) -> bool:
    """True for a row of cells that need no further look: short work for nearly every file."""
    for value in values.values():
        if isinstance(value, str) or value is None:
            continue
        if isinstance(value, dict | list) or (isinstance(value, float) and abs(value) >= 2**53):
            return False
    return len(values) <= MAX_COLUMNS


def lines_of_bytes(file: IO[bytes]) -> Iterator[Row | Problem]:
    """As `lines_of_json`, for UTF-8 without a byte order mark whose lines end in LF or CR LF."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            yield Problem(row=number, message=f"Line {number} is longer than 4 MB.", hint=LINE_HINT)
            while not line.endswith(b"\n") and (line := file.readline(PIECE)):
                continue
            continue
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            values = None
        if type(values) is dict and _is_plain(values) and b"\\u0000" not in line:
            yield Row(number=number, values=values)
            continue
        if type(values) is dict and not _LONG_NUMBER.search(line):
            yield _object(values, number, f"Line {number}")
            continue
        if line.strip():
            yield _parse_line(line.decode("utf-8", "surrogateescape"), number, f"Line {number}")


def lines_of_json(stream: TextIO) -> Iterator[Row | Problem]:
    number = 0
    while True:
        line, is_too_long = next_line(stream)
        number += 1
        unit = f"Line {number}"
        if is_too_long:
            yield Problem(row=number, message=f"{unit} is longer than 4 MB.", hint=LINE_HINT)
            continue
        if not line:
            return
        if line.strip():
            yield _parse_line(line, number, unit)


def _parse_line(line: str, number: int, unit: str) -> Row | Problem:
    try:
        check_text(line)
        return _object(_DECODER.decode(line), number, unit)
    except RecursionError:
        message = f"{unit} is nested deeper than {MAX_DEPTH} levels."
    except json.JSONDecodeError as error:
        message = f"{unit} is not valid JSON: {error.msg} (character {error.colno})."
    except ValueError as error:
        message = f"{unit} {error}."
    return Problem(row=number, message=message, received=shown(line.strip()), hint=LINE_HINT)


class _Window:
    """The part of a long JSON text that is being looked at."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.at, self.is_end = stream, "", 0, False

    def more(self) -> None:
        """Drops what is done with and reads at least as much again as is left."""
        left = self.text[self.at :]
        piece = self.stream.read(max(PIECE, len(left)))
        self.text, self.at, self.is_end = left + piece, 0, not piece

    def skip(self) -> str:
        """Passes white space; the character found there, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.is_end:
                return self.text[self.at : self.at + 1]
            self.more()

    def element(self) -> Any:
        """The next JSON value. Raises ValueError or RecursionError."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end - self.at > MAX_LINE:
                    raise BadValue("is longer than 4 MB")
                if end < len(self.text) or self.is_end:
                    check_text(self.text[self.at : end])
                    self.at = end
                    return value
            except json.JSONDecodeError:
                if self.is_end or len(self.text) - self.at > MAX_LINE:
                    raise
            if len(self.text) - self.at > MAX_LINE:
                raise BadValue("is longer than 4 MB")
            self.more()


def list_of_json(stream: TextIO) -> Iterator[Row | Problem]:
    window = _Window(stream)
    if window.skip() != "[":
        yield Problem(row=1, message="The file is not a JSON list.", received=shown(window.text[:80]), is_last=True,
                      hint="A .json file must hold a list of objects: [{…}, {…}].")  # fmt: skip
        return
    window.at += 1
    number = 0
    while True:
        found = window.skip()
        if found == "]":
            return
        number += 1
        try:
            value = window.element()
        except (ValueError, RecursionError) as error:
            yield _broken_list(error, number, window)
            return
        yield _object(value, number, f"Element {number}")
        if window.skip() == ",":
            window.at += 1
        elif window.skip() != "]":
            yield Problem(row=number + 1, message=f"After element {number} a comma or ] is missing.", is_last=True,
                          received=shown(window.text[window.at : window.at + 80]),
                          hint="Nothing after this place can be read.")  # fmt: skip
            return


def _broken_list(error: Exception, number: int, window: _Window) -> Problem:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    if isinstance(error, RecursionError):
        reason = f"is nested deeper than {MAX_DEPTH} levels"
    elif isinstance(error, json.JSONDecodeError):
        reason = "is longer than 4 MB or never ends" if len(window.text) > MAX_LINE else f"is not valid JSON: {reason}"
    return Problem(row=number, message=f"Element {number} {reason}.", is_last=True,
                   received=shown(window.text[window.at : window.at + 80]),
                   hint="Nothing after this place can be read.")  # fmt: skip
