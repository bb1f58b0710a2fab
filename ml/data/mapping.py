"""From a row of someone's file to messages and a completion.

A mapping is plain JSON: `{"prompt": template, "completion": column or template, "system": text, "task": …}` for tables
of columns, or `{"format": …}` for the formats that carry roles (`ml.data.conversations`). In templates `{name}` stands
for a column and `{{`, `}}` for braces.

Guarantees: the result always ends in a user message and has a completion with text; anything else is a `Problem` with
the row's number. White space around prompts and completions is dropped, so that " billing" and "billing" are one label.
A conversation gives one example, its last answer with everything before it as the prompt, or with `"turns": "every"`
one for each of its answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from ml.data.conversations import READERS, Found
from ml.data.raw import Problem, Row, RowError, as_text, check_text, shown
from ml.errors import SpecError
from ml.specs.tasks import TASK_KINDS

__all__ = ["Mapped", "Mapping", "RowError", "as_text", "check_mapping", "map_row", "map_rows", "pieces", "placeholders"]
IN_COLUMN = ("messages", "sharegpt", "text")
"""Formats that lie in one column, which the mapping names."""
TURNS = ("last", "every")
MAX_TEMPLATE = 20_000
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
_KEYS = ("format", "task", "prompt", "completion", "system", "column", "turns")


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """A checked mapping."""

    task: str
    format: str = "columns"
    prompt: str = ""
    completion: str = ""
    system: str = ""
    column: str = ""
    """Where a conversation or a text lies; only for the formats in one column."""
    turns: str = "last"
    """Which answers of a conversation are learnt: its last one, or every one as a row of its own."""

    def as_dict(self) -> dict[str, str]:
        return {
            key: value
            for key, value in asdict(self).items()
            if (value or key in ("format", "task")) and (key, value) != ("turns", "last")
        }


@dataclass(slots=True, kw_only=True)
class Mapped:
    """One example."""

    row: int
    messages: list[dict[str, str]]
    completion: str
    answers: tuple[str, ...] = ()
    """Every answer that counts as right, `completion` first; empty where it is the only one."""
    key: str = ""
    """What tells the example from others where that is not what is asked."""
    group: str = ""
    """Examples of one group may not part in a split; only for conversations cut into several."""


def placeholders(template: str) -> list[str]:
    """The column names that a template asks for, in order, without repeats."""
    return list(dict.fromkeys(name for name in PLACEHOLDER.findall(template) if name))


def check_mapping(given: Any, columns: Sequence[str]) -> Mapping:
    """A Mapping whose every placeholder is one of `columns`. Raises SpecError naming the field and the value."""
    if not isinstance(given, AbstractMapping):
        raise SpecError(f"A mapping must be an object, got {type(given).__name__}.", field="mapping")
    unknown = sorted(set(given) - set(_KEYS))
    if unknown:
        raise SpecError(f"Unknown keys in the mapping: {', '.join(unknown)}.", field=unknown[0],
                        hint="Known: " + ", ".join(_KEYS) + ".")  # fmt: skip
    for key, value in given.items():
        if not isinstance(value, str) or len(value) > MAX_TEMPLATE:
            raise SpecError(f"{key} must be text of at most {MAX_TEMPLATE:,} characters.", field=key)
        try:
            check_text(value)
        except ValueError as error:
            raise SpecError(f"{key} {error}.", field=key) from None
    if given.get("task") not in TASK_KINDS:
        raise SpecError(f"task must be one of {', '.join(TASK_KINDS)}, got {given.get('task')!r}.", field="task")
    if given.get("turns", "last") not in TURNS:
        raise SpecError(f"turns must be one of {', '.join(TURNS)}, got {given['turns']!r}.", field="turns")
    mapping = Mapping(**{str(key): str(value) for key, value in given.items()})
    if mapping.format == "columns":
        return _check_templates(mapping, columns)
    if mapping.format not in READERS:
        raise SpecError(f"Unknown format {mapping.format!r}.", field="format",
                        hint="Formats: columns, " + ", ".join(READERS) + ".")  # fmt: skip
    if mapping.format in IN_COLUMN and mapping.column not in columns:
        raise _no_column(mapping.column, columns, "column")
    return mapping


def _no_column(name: str, columns: Sequence[str], field: str) -> SpecError:
    known = ", ".join(columns[:20]) or "none"
    return SpecError(f"There is no column {name!r}.", hint=f"Columns: {known}.", field=field)


def _check_templates(mapping: Mapping, columns: Sequence[str]) -> Mapping:
    completion = mapping.completion
    if completion in columns:
        completion = "{" + completion + "}"
    for field, template in (("prompt", mapping.prompt), ("completion", completion)):
        if not template.strip():
            raise SpecError(f"The {field} is empty.", hint="Name a column in braces, as in {text}.", field=field)
        names = placeholders(template)
        for name in names:
            if name not in columns:
                raise _no_column(name, columns, field)
        if not names:
            raise SpecError(f"The {field} names no column, got {shown(template)!r}.", field=field,
                            hint="Every row would be the same. Columns: " + ", ".join(columns[:20]) + ".")  # fmt: skip
    return Mapping(**{**asdict(mapping), "completion": completion})


@lru_cache(maxsize=16)
def _parts(template: str) -> tuple[tuple[str, str], ...]:
    """The template as (text, "") and ("", column) in order."""
    parts: list[tuple[str, str]] = []
    last = 0
    for match in PLACEHOLDER.finditer(template):
        text = template[last : match.start()]
        last, name = match.end(), match.group(1)
        parts += [(text, ""), ("", name) if name is not None else (match.group()[0], "")]
    return tuple(part for part in (*parts, (template[last:], "")) if any(part))


def _cell(values: AbstractMapping[str, Any], name: str) -> str:
    if name not in values:
        raise RowError(f"has no {name!r}", column=name, received=", ".join(map(str, values)),
                       hint="Every row needs the columns that the mapping names.")  # fmt: skip
    return as_text(values[name])


def render(template: str, values: AbstractMapping[str, Any]) -> str:
    """The template with the row's values in it, without white space around it. Raises RowError for a missing key."""
    return "".join([_cell(values, name) if name else text for text, name in _parts(template)]).strip()


def pieces(template: str, values: AbstractMapping[str, Any]) -> list[tuple[str, bool]]:
    """Parts of a rendered template, each with whether it came from the row."""
    found = [(_cell(values, name), True) if name else (text, False) for text, name in _parts(template)]
    return [part for part in found if part[0]]


def map_row(mapping: Mapping, row: Row) -> Mapped | Problem:
    """The example in a row (the last where it makes several), or why there is none."""
    mapped = map_rows(mapping, row)
    return mapped if isinstance(mapped, Problem) else mapped[-1]


def map_rows(mapping: Mapping, row: Row) -> list[Mapped] | Problem:
    """The examples in a row: one, or one an answer of a conversation. Or why there is none."""
    try:
        if mapping.format == "columns":
            found = Found([{"role": "user", "content": render(mapping.prompt, row.values)}],
                          render(mapping.completion, row.values))  # fmt: skip
        else:
            found = READERS[mapping.format](row.values, vars(mapping))
        if mapping.system and mapping.system.strip() and found.messages[0]["role"] != "system":
            found.messages.insert(0, {"role": "system", "content": mapping.system.strip()})
        if mapping.turns == "every":
            return [_example(mapping, row, part) for part in _every(found)]
        return [_example(mapping, row, found)]
    except RowError as error:
        return Problem(
            row=row.number,
            column=error.column,
            message=f"Row {row.number} {error.message}.",
            received=shown(error.received),
            hint=error.hint,
            kind="empty" if error.kind == "empty" else "mapping",
        )


def _every(found: Found) -> list[Found]:
    """One example for each answer in a conversation, each with what was said before it."""
    turns = found.messages
    parts = [
        Found(turns[:place], turns[place]["content"])
        for place in range(1, len(turns))
        if turns[place]["role"] == "assistant" and turns[place - 1]["role"] == "user"
    ]
    return [*parts, found]


def _example(mapping: Mapping, row: Row, found: Found) -> Mapped:
    completion = found.completion.strip()
    _check_example(found.messages, completion, mapping)
    mapped = Mapped(row=row.number, messages=found.messages, completion=completion)
    if len(found.answers) > 1:
        mapped.answers = found.answers
    if mapping.format == "text":
        mapped.key = completion
    if mapping.turns == "every":
        mapped.group = next(message["content"] for message in found.messages if message["role"] == "user")
    return mapped


def _check_example(messages: list[dict[str, str]], completion: str, mapping: Mapping) -> None:
    if messages[-1]["role"] != "user":
        raise RowError("does not end in a question and its answer", received=messages[-1]["role"],
                       hint="The last message before the answer must be the user's.")  # fmt: skip
    if not messages[-1]["content"].strip():
        names = placeholders(mapping.prompt)
        raise RowError("has an empty prompt", column=", ".join(names), received="(empty)", kind="empty",
                       hint="Fill it in, or leave the row out.")  # fmt: skip
    if not completion:
        names = placeholders(mapping.completion)
        raise RowError("has nothing to learn: the completion is empty", column=", ".join(names), received="(empty)",
                       kind="empty", hint="Fill it in, or leave the row out.")  # fmt: skip
