"""The `[n]` markers of an answer: which chunks it cites, and which markers stand for nothing.

Markers in code are code, not citations. `[1, 3]` counts as two. Pure text; the page shows chips for what is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

MARKER = re.compile(r"\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)


@dataclass(frozen=True)
class Cited:
    """An answer's text without empty markers."""

    text: str
    numbers: frozenset[int]
    n_dropped: int


def numbers_of(marker: str) -> list[int]:
    """The numbers inside a marker's brackets."""
    return [int(n) for n in re.split(r"\s*[,;]\s*", marker)]


def settle(text: str, known: Collection[int]) -> Cited:
    """Removes and counts the markers without a chunk. Without chunks at all, brackets are just brackets."""
    if not known:
        return Cited(text, frozenset(), 0)
    cited: set[int] = set()
    n_dropped = 0

    def keep(match: re.Match[str]) -> str:
        nonlocal n_dropped
        numbers = numbers_of(match[1])
        good = [n for n in numbers if n in known]
        cited.update(good)
        n_dropped += len(numbers) - len(good)
        return f"[{', '.join(map(str, good))}]" if good else ""

    parts = _CODE.split(text)
    parts[::2] = [_tidy(part, MARKER.sub(keep, part)) for part in parts[::2]]
    return Cited("".join(parts), frozenset(cited), n_dropped)


def _tidy(before: str, after: str) -> str:
    """A removed marker leaves no space in front of a full stop."""
    return after if before == after else re.sub(r"[ \t]+([.,;:!?])", r"\1", after)
