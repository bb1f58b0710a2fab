"""A model card as blocks of plain text. Nothing of it is ever markup: templates escape every block.

Understands headings, lists, paragraphs, fenced code and tables; front matter is left out. Links and images stay the
text that they are, so a card cannot make the page fetch anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_BAR = re.compile(r"(?<!\\)\|")
LARGEST_BYTES = 64 * 1024
Kind = Literal["heading", "paragraph", "list", "table", "code"]


@dataclass(frozen=True)
class Span:
    text: str
    is_code: bool


def _spans(line: str) -> list[Span]:
    """`code` between backticks; a backtick without a partner stays."""
    pieces = line.split("`")
    if len(pieces) % 2 == 0:
        pieces[-2:] = ["`".join(pieces[-2:])]
    return [Span(text, bool(place % 2)) for place, text in enumerate(pieces) if text]


@dataclass
class Block:
    kind: Kind
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return ("\n" if self.kind == "code" else " ").join(self.lines)

    @property
    def parts(self) -> list[list[Span]]:
        """Each line of a list, or the whole of another block, in spans of text and code."""
        lines = self.lines if self.kind == "list" else [self.text]
        return [_spans(line) for line in lines]

    @property
    def cells(self) -> list[list[str]]:
        """Rows of a table, the head first; the line of dashes below it is left out."""
        rows = [[cell.replace("\\|", "|").strip() for cell in _BAR.split(line.strip()[1:-1])] for line in self.lines]
        return [row for row in rows if not all(set(cell) <= set(":- ") for cell in row)]


def read_card(folder: Path) -> list[Block]:
    """README.md of an artifact; empty when there is none."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(LARGEST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    return blocks(text)


def _kind(line: str) -> Kind:
    if line.startswith("#"):
        return "heading"
    if line.lstrip().startswith(("- ", "* ")):
        return "list"
    return "table" if line.strip().startswith("|") and line.strip().endswith("|") else "paragraph"


def blocks(text: str) -> list[Block]:
    """Markdown as blocks; unknown constructs come out as paragraphs."""
    found: list[Block] = []
    in_code, previous = False, ""
    for line in _without_front_matter(text).splitlines():
        if line.startswith("```"):
            in_code, previous = not in_code, ""
            continue
        if not in_code and not line.strip():
            previous = ""
            continue
        kind = "code" if in_code else _kind(line)
        cleaned = line if kind in ("code", "table") else line.strip().lstrip("#").strip()
        cleaned = cleaned[2:] if kind == "list" else cleaned
        if kind != previous or kind == "heading":
            found.append(Block(kind))
        found[-1].lines.append(cleaned)
        previous = kind
    return found


def _without_front_matter(text: str) -> str:
    if not text.startswith("---\n"):
        return text
    _, mark, rest = text[4:].partition("\n---")
    return rest.partition("\n")[2] if mark else text
