"""Two texts side by side, line by line, with the words that changed inside a line.

The result is plain data; signs and underlines are the template's work. Lines are matched by difflib; inside a pair of
replaced lines the words are. Texts have some hundred lines at most, which keeps this quick.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["same", "add", "del", "void"]
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Part:
    """A piece of a line; `is_changed` where only this side has it."""

    text: str
    is_changed: bool = False


@dataclass(frozen=True)
class Cell:
    """One side of a row. A void has no line number: the other side has a line that this one has not."""

    kind: Kind
    number: int | None = None
    parts: tuple[Part, ...] = ()

    @property
    def sign(self) -> str:
        return {"add": "+", "del": "−"}.get(self.kind, "")


@dataclass(frozen=True)
class Diff:
    rows: list[tuple[Cell, Cell]]
    n_added: int
    n_removed: int

    @property
    def is_empty(self) -> bool:
        return not (self.n_added or self.n_removed)


def _words(left: str, right: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    a, b = _WORDS.findall(left), _WORDS.findall(right)
    matcher = difflib.SequenceMatcher(a=a, b=b, autojunk=False)
    if matcher.ratio() < 0.3:
        return (Part(left, True),), (Part(right, True),)
    ours, theirs = [], []
    for tag, i, j, k, m in matcher.get_opcodes():
        ours.append(Part("".join(a[i:j]), tag != "equal"))
        theirs.append(Part("".join(b[k:m]), tag != "equal"))
    return tuple(part for part in ours if part.text), tuple(part for part in theirs if part.text)


def side_by_side(left: str, right: str) -> Diff:
    """Rows of (left, right) cells that together show both texts whole."""
    a, b = left.splitlines(), right.splitlines()
    rows: list[tuple[Cell, Cell]] = []
    n_added = n_removed = 0
    for tag, i, j, k, m in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if tag == "equal":
            rows += [
                (Cell("same", i + n + 1, (Part(line),)), Cell("same", k + n + 1, (Part(line),)))
                for n, line in enumerate(a[i:j])
            ]
            continue
        n_removed, n_added = n_removed + j - i, n_added + m - k
        rows += _changed(a, b, i, j, k, m)
    return Diff(rows, n_added, n_removed)


def _changed(a: list[str], b: list[str], i: int, j: int, k: int, m: int) -> list[tuple[Cell, Cell]]:
    rows = []
    for n in range(max(j - i, m - k)):
        has_left, has_right = i + n < j, k + n < m
        if has_left and has_right:
            ours, theirs = _words(a[i + n], b[k + n])
        else:
            ours = (Part(a[i + n], True),) if has_left else ()
            theirs = (Part(b[k + n], True),) if has_right else ()
        rows.append(
            (
                Cell("del", i + n + 1, ours) if has_left else Cell("void"),
                Cell("add", k + n + 1, theirs) if has_right else Cell("void"),
            )
        )
    return rows
