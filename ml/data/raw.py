"""What readers hand over: a row, or the problem with it; and the limits that every reader keeps."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, TextIO

MAX_LINE = 4 * 1024 * 1024
"""Longest line, cell or JSON element, in characters; for JSON lines in UTF-8, in bytes."""
MAX_DEPTH = 32
MAX_COLUMNS = 256
PIECE = 64 * 1024

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True, kw_only=True)
class Row:
    """One row as read: column names to values (text for tables, any JSON value otherwise)."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a row cannot be used: where, what was received, what to do."""

    row: int
    message: str
    column: str = ""
    received: str = ""
    hint: str = ""
    kind: Literal["unreadable", "empty", "mapping", "split"] = "unreadable"
    is_last: bool = False
    """True when nothing after this place can be read."""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "is_last"}


class RowError(ValueError):
    """A row that the mapping cannot use."""

    def __init__(self, message: str, *, column: str = "", received: Any = "", hint: str = "", kind: str = "mapping"):
        super().__init__(message)
        self.message, self.column, self.received, self.hint, self.kind = message, column, received, hint, kind


class BadValue(ValueError):
    """A value that JSON or CSV allows and we do not."""


def as_text(value: Any) -> str:
    """A cell as text: nothing for null, JSON for numbers, lists and objects."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def shown(value: Any, limit: int = 80) -> str:
    """A value as an error message shows it: short, on one line, printable."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "·" for c in text[: limit * 2])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _spell_surrogate(text: str) -> str:
    found = _SURROGATE.search(text)
    code = ord(found.group()) if found else 0
    if 0xDC80 <= code <= 0xDCFF:
        return f"holds the byte 0x{code - 0xDC00:02X}, which is not UTF-8"
    return f"holds half a character (the lone surrogate U+{code:04X})"


def check_text(text: str) -> None:
    if _SURROGATE.search(text):
        raise BadValue(_spell_surrogate(text))
    if "\x00" in text:
        raise BadValue("holds a NUL character")


def check_value(value: Any) -> None:
    """Walks a JSON value without recursion. Raises BadValue for depth, NaN, infinity, surrogates and NUL."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise BadValue(f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, str):
            check_text(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise BadValue("holds a number too large to keep")
        elif isinstance(item, dict):
            for key in item:
                check_text(key)
            waiting += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]


def next_line(stream: TextIO) -> tuple[str, bool]:
    """The next line and whether it was too long; a line that is too long is skipped in pieces and not kept."""
    line = stream.readline(MAX_LINE + 1)
    if len(line) <= MAX_LINE:
        return line, False
    while line and not line.endswith(("\n", "\r")):
        line = stream.readline(PIECE)
    return "", True
