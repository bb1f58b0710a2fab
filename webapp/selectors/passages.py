"""A document version's text in rows for the page: where chunks begin, end and overlap, where pages begin, the citation.

Guarantees: the rows put together are the text of the part shown, unchanged but for blanks between chunks; at most
CHUNKS_SHOWN chunks are loaded at once, whatever the size of the document.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from webapp.models import Chunk, DocumentVersion

CHUNKS_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Text of a row, cited or not."""

    text: str
    is_marked: bool
    is_first_mark: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stretch of text that the same chunks cover."""

    side: str
    """`even` or `odd` (one chunk, by its number), `both` (overlap), or empty (no chunk)."""
    chunk: Chunk | None
    """The chunk that begins here."""
    page: int | None
    """The page that begins here."""
    pieces: list[Piece]
    is_here: bool
    """True when something in it is cited."""


@dataclass(kw_only=True)
class Passages:
    """One part of a document version."""

    rows: list[Row] = field(default_factory=list)
    part: int = 1
    n_parts: int = 1
    first_page: int | None = None
    last_page: int | None = None
    n_marked: int = 0

    @property
    def previous(self) -> int | None:
        return self.part - 1 if self.part > 1 else None

    @property
    def following(self) -> int | None:
        return self.part + 1 if self.part < self.n_parts else None


def whole_number(value: Any, *, low: int, high: int) -> int | None:
    """A number from a query string, or None when it is none or out of bounds."""
    try:
        number = int(str(value))
    except (TypeError, ValueError):
        return None
    return number if low <= number <= high else None


def _part_of(version: DocumentVersion, mark: tuple[int, int] | None, part: int | None, n_parts: int) -> int:
    if part is not None:
        return max(1, min(part, n_parts))
    if mark is None:
        return 1
    n_before = version.chunks.filter(end__lte=mark[0]).count()
    return min(n_before // CHUNKS_SHOWN + 1, n_parts)


def passages_of(version: DocumentVersion, *, mark: tuple[int, int] | None = None, part: int | None = None) -> Passages:
    """The part with the marked passage, or the one asked for."""
    n_chunks = version.chunks.count()
    n_parts = max(1, -(-n_chunks // CHUNKS_SHOWN))
    shown = Passages(part=_part_of(version, mark, part, n_parts), n_parts=n_parts)
    first = (shown.part - 1) * CHUNKS_SHOWN
    # One more on either side: their overlap reaches into this part.
    near = list(version.chunks.filter(number__gte=first, number__lte=first + CHUNKS_SHOWN + 1))
    low = next((c.start for c in near if c.number == first + 1), 0) if first else 0
    high = next((c.start for c in near if c.number == first + CHUNKS_SHOWN + 1), len(version.text))
    _fill(shown, version, near, low, high, mark)
    return shown


def _fill(
    shown: Passages, version: DocumentVersion, chunks: Sequence[Chunk], low: int, high: int,
    mark: tuple[int, int] | None,
) -> None:  # fmt: skip
    pages: list[int] = version.pages
    cuts = {low, high, *(o for c in chunks for o in (c.start, c.end)), *pages}
    edges = sorted(cut for cut in cuts if low <= cut <= high)
    page_starts = {offset: number for number, offset in reversed(list(enumerate(pages, start=1)))}
    starts = {chunk.start: chunk for chunk in chunks}
    waiting_page, waiting_chunk = None, None
    for start, end in pairwise(edges):
        waiting_page = page_starts.get(start, waiting_page)
        waiting_chunk = starts.get(start, waiting_chunk)
        if not version.text[start:end].strip():
            continue
        pieces = _pieces(version.text, start, end, mark, has_mark=shown.n_marked > 0)
        is_here = any(piece.is_marked for piece in pieces)
        shown.n_marked += is_here
        over = [chunk for chunk in chunks if chunk.start < end and chunk.end > start]
        shown.rows.append(
            Row(side=_side(over), chunk=waiting_chunk, page=waiting_page, pieces=pieces, is_here=is_here)
        )  # fmt: skip
        waiting_page, waiting_chunk = None, None
    if pages:
        shown.first_page = bisect_right(pages, low) or 1
        shown.last_page = bisect_right(pages, max(low, high - 1)) or 1


def _side(over: Sequence[Chunk]) -> str:
    if len(over) > 1:
        return "both"
    return ("odd" if over[0].number % 2 else "even") if over else ""


def _pieces(text: str, start: int, end: int, mark: tuple[int, int] | None, *, has_mark: bool) -> list[Piece]:
    if mark is None or mark[1] <= start or mark[0] >= end:
        return [Piece(text=text[start:end], is_marked=False, is_first_mark=False)]
    a, b = max(start, mark[0]), min(end, mark[1])
    cut = [(start, a, False), (a, b, True), (b, end, False)]
    return [
        Piece(text=text[low:high], is_marked=marked, is_first_mark=marked and not has_mark)
        for low, high, marked in cut
        if low < high
    ]
