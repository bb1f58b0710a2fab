"""CSV cells that no spreadsheet takes for a formula."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def neutral_cell(text: str) -> str:
    """The text as it is, behind an apostrophe where a spreadsheet would run it. For texts; numbers need none."""
    return "'" + text if text.startswith(_FORMULA) else text
