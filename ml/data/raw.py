"""What readers hand over: a row, or the problem with it; and the limits that every reader keeps."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, TextIO

MAX_LINE = 4 * 1024 * 1024
"""Longest line, cell or JSON element, in characters."""
MAX_DEPTH = 32
MAX_COLUMNS = 256
PIECE = 64 * 1024

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
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


class BadValue(ValueError):
    """A value that JSON or CSV allows and we do not."""


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


def next_line(stream: TextIO) -> tuple[str, bool]:
    """The next line and whether it was too long; a line that is too long is skipped in pieces and not kept."""
    line = stream.readline(MAX_LINE + 1)
    if len(line) <= MAX_LINE:
        return line, False
    while line and not line.endswith(("\n", "\r")):
        line = stream.readline(PIECE)
    return "", True
