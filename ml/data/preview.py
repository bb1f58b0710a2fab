"""Rows as the model sees them: the chat template's text around them, what is read, what is learnt, token counts.

Uses `ml.data.chat` for every token, so that a preview cannot differ from training. Works on the few head rows that an
inspection kept; reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml.data.chat import example_ids
from ml.data.mapping import Mapped, Mapping, RowError, check_mapping, map_rows, pieces
from ml.data.raw import Problem, Row
from ml.errors import DataError

Piece = tuple[str, str]
"""(kind, text): `m` the template's, `t` fixed text of the mapping, `r` read from the row, `l` learnt."""
MAX_TOKENS = 8192
MAX_SHOWN = 6000
MAX_PARTS = 5
"""Examples of one conversation that are shown."""


def preview_rows(
    head: Sequence[dict[str, Any]], mapping: Any, columns: Sequence[str], tokenizer: Any
) -> dict[str, Any]:
    """`head` (rows of an inspection report) under `mapping`. Raises SpecError for a mapping that breaks a rule."""
    checked = check_mapping(mapping, columns)
    rows, problems = [], []
    for item in head:
        row = Row(number=item["row"], values=item["values"])
        mapped = map_rows(checked, row)
        if isinstance(mapped, Problem):
            problems.append(mapped.as_dict())
            continue
        for example in mapped[:MAX_PARTS]:
            try:
                rows.append(_shown(checked, row, example, tokenizer))
            except DataError as error:
                message = f"Row {row.number}: {error.message}"
                problems.append(Problem(row=row.number, message=message, hint=error.hint).as_dict())
    return {"rows": rows, "problems": problems, "mapping": checked.as_dict()}


def _shown(mapping: Mapping, row: Row, mapped: Mapped, tokenizer: Any) -> dict[str, Any]:
    example = example_ids(tokenizer, mapped.messages, mapped.completion, MAX_TOKENS)
    prompt = tokenizer.decode(example.ids[: example.n_prompt], skip_special_tokens=False)
    answer = tokenizer.decode(example.ids[example.n_prompt :], skip_special_tokens=False)
    parts = _mark(prompt, mapped.messages, _fixed_parts(mapping, row)) + _mark_answer(answer, mapped.completion)
    return {
        "row": row.number,
        "pieces": _cut(parts),
        "n_prompt": example.n_prompt,
        "n_completion": len(example.ids) - example.n_prompt,
        "completion": mapped.completion[:200],
    }


def _fixed_parts(mapping: Mapping, row: Row) -> list[tuple[str, bool]]:
    """The user's text in pieces with whether each came from the row; empty for formats that carry whole messages."""
    if mapping.format != "columns":
        return []
    try:
        return pieces(mapping.prompt, row.values)
    except RowError:
        return []


def _mark(text: str, messages: Sequence[dict[str, str]], parts: Sequence[tuple[str, bool]]) -> list[Piece]:
    """Cuts the rendered prompt at the messages' texts; whatever the template changed stays the template's."""
    marked: list[Piece] = []
    at = 0
    for place, message in enumerate(messages):
        content = message["content"].strip()
        found = text.find(content, at)
        if found < 0 or not content:
            continue
        marked.append(("m", text[at:found]))
        is_last = place == len(messages) - 1
        marked += _mark_parts(content, parts) if is_last and parts else [("t" if parts else "r", content)]
        at = found + len(content)
    marked.append(("m", text[at:]))
    return [(kind, piece) for kind, piece in marked if piece]


def _mark_parts(content: str, parts: Sequence[tuple[str, bool]]) -> list[Piece]:
    marked: list[Piece] = []
    at = 0
    for text, is_read in parts:
        wanted = text.strip() if is_read else ""
        found = content.find(wanted, at) if wanted else -1
        if found < 0:
            continue
        marked += [("t", content[at:found]), ("r", wanted)]
        at = found + len(wanted)
    return [*marked, ("t", content[at:])]


def _mark_answer(text: str, completion: str) -> list[Piece]:
    found = text.find(completion)
    if found < 0:
        return [("l", text)]
    end = found + len(completion)
    return [piece for piece in (("m", text[:found]), ("l", completion), ("m", text[end:])) if piece[1]]


def _cut(parts: Sequence[Piece]) -> list[Piece]:
    """At most MAX_SHOWN characters, for a page; the answer is always kept."""
    left = MAX_SHOWN
    short: list[Piece] = []
    for kind, text in parts:
        room = max(left, 400 if kind == "l" else 0)
        short.append((kind, text if len(text) <= room else text[:room] + " …"))
        left = max(0, left - len(text))
    return short
