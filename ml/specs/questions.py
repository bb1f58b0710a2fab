"""What a row of a data set asks, without the framing that its mapping put around one column. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_COLUMN = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")


def single_column(mapping: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(text before, column, text after) where the mapping's prompt has one column, once; else None."""
    prompt = mapping.get("prompt")
    if mapping.get("format", "columns") != "columns" or not isinstance(prompt, str):
        return None
    marks = [match for match in _COLUMN.finditer(prompt) if match[1]]
    if len(marks) != 1:
        return None

    def plain(text: str) -> str:
        return text.replace("{{", "{").replace("}}", "}")

    return plain(prompt[: marks[0].start()]).lstrip(), marks[0][1], plain(prompt[marks[0].end() :]).rstrip()


def question_of(mapping: Mapping[str, Any], content: str) -> str:
    """What a row asks: its one column's value where the mapping framed it, else the whole turn."""
    found = single_column(mapping)
    if found is None:
        return content
    before, _, after = found
    if len(content) >= len(before) + len(after) and content.startswith(before) and content.endswith(after):
        return content[len(before) : len(content) - len(after) or None].strip() or content
    return content
