"""From a row of someone's file to messages and a completion.

A mapping is plain JSON: `{"prompt": template, "completion": column or template, "system": text, "task": …}` for tables
of columns, or `{"format": "messages" | "sharegpt" | "alpaca" | "prompt_completion", …}` for formats that carry roles.
In templates `{name}` stands for a column and `{{`, `}}` for braces.

Guarantees: the result always ends in a user message and has a completion with text; anything else is a `Problem` with
the row's number. White space around prompts and completions is dropped, so that " billing" and "billing" are one label.
A conversation gives one example: its last answer is the completion, everything before it is the prompt. Tool calls,
images and audio are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ml.data.raw import Problem, Row, check_text, shown
from ml.errors import SpecError

TASKS = ("classification", "generation")
CHAT_FORMATS = ("messages", "sharegpt", "alpaca", "prompt_completion")
MAX_TEMPLATE = 20_000
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip
_OPENAI_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KEYS = ("format", "task", "prompt", "completion", "system", "column")


class RowError(ValueError):
    """A row that the mapping cannot use."""

    def __init__(self, message: str, *, column: str = "", received: Any = "", hint: str = "", kind: str = "mapping"):
        super().__init__(message)
        self.message, self.column, self.received, self.hint, self.kind = message, column, received, hint, kind


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """A checked mapping."""

    task: str
    format: str = "columns"
    prompt: str = ""
    completion: str = ""
    system: str = ""
    column: str = ""
    """Where a conversation lies; only for messages and sharegpt."""

    def as_dict(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value or key in ("format", "task")}


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """One example."""

    row: int
    messages: list[dict[str, str]]
    completion: str


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
    if given.get("task") not in TASKS:
        raise SpecError(f"task must be one of {', '.join(TASKS)}, got {given.get('task')!r}.", field="task")
    mapping = Mapping(**{str(key): str(value) for key, value in given.items()})
    if mapping.format == "columns":
        return _check_templates(mapping, columns)
    if mapping.format not in CHAT_FORMATS:
        raise SpecError(f"Unknown format {mapping.format!r}.", field="format",
                        hint="Formats: columns, " + ", ".join(CHAT_FORMATS) + ".")  # fmt: skip
    if mapping.format in ("messages", "sharegpt") and mapping.column not in columns:
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


def as_text(value: Any) -> str:
    """A cell as text: nothing for null, JSON for numbers, lists and objects."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def render(template: str, values: AbstractMapping[str, Any]) -> str:
    """The template with the row's values in it, without white space around it. Raises RowError for a missing key."""
    return "".join(text for text, _ in pieces(template, values)).strip()


def pieces(template: str, values: AbstractMapping[str, Any]) -> list[tuple[str, bool]]:
    """Parts of a rendered template, each with whether it came from the row."""
    parts: list[tuple[str, bool]] = []
    last = 0
    for match in PLACEHOLDER.finditer(template):
        parts.append((template[last : match.start()], False))
        last, name = match.end(), match.group(1)
        if name is None:
            parts.append((match.group()[0], False))
        elif name not in values:
            raise RowError(f"has no {name!r}", column=name, received=", ".join(map(str, values)),
                           hint="Every row needs the columns that the mapping names.")  # fmt: skip
        else:
            parts.append((as_text(values[name]), True))
    parts.append((template[last:], False))
    return [part for part in parts if part[0]]


def map_row(mapping: Mapping, row: Row) -> Mapped | Problem:
    """The example in a row, or why there is none."""
    try:
        messages, completion = _READERS[mapping.format](mapping, row.values)
        if mapping.system.strip() and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": mapping.system.strip()}, *messages]
        _check_example(messages, completion, mapping)
    except RowError as error:
        return Problem(
            row=row.number,
            column=error.column,
            message=f"Row {row.number} {error.message}.",
            received=shown(error.received),
            hint=error.hint,
            kind="empty" if error.kind == "empty" else "mapping",
        )
    return Mapped(row=row.number, messages=messages, completion=completion.strip())


def _check_example(messages: list[dict[str, str]], completion: str, mapping: Mapping) -> None:
    if messages[-1]["role"] != "user":
        raise RowError("does not end in a question and its answer", received=messages[-1]["role"],
                       hint="The last message before the answer must be the user's.")  # fmt: skip
    if not messages[-1]["content"].strip():
        names = placeholders(mapping.prompt)
        raise RowError("has an empty prompt", column=", ".join(names), received="(empty)", kind="empty",
                       hint="Fill it in, or leave the row out.")  # fmt: skip
    if not completion.strip():
        names = placeholders(mapping.completion)
        raise RowError("has nothing to learn: the completion is empty", column=", ".join(names), received="(empty)",
                       kind="empty", hint="Fill it in, or leave the row out.")  # fmt: skip


Found = tuple[list[dict[str, str]], str]


def _columns(mapping: Mapping, values: AbstractMapping[str, Any]) -> Found:
    return [{"role": "user", "content": render(mapping.prompt, values)}], render(mapping.completion, values)


def _content(message: AbstractMapping[str, Any], key: str, number: int) -> str:
    content = message.get(key)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise RowError(f"has a message ({number}) with something other than text", received=content,
                           hint="Images, audio and tool results cannot be learnt from.")  # fmt: skip
        return "\n".join(str(part) for part in parts).strip()
    if message.get("tool_calls") or not isinstance(content, str):
        raise RowError(f"has a message ({number}) without text", received=message, hint="Tool calls are not read.")
    return content.strip()


def _turns(value: Any, role_key: str, text_key: str, roles: AbstractMapping[str, str]) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise RowError("has no list of messages", received=value)
    turns = []
    for number, message in enumerate(value, start=1):
        role = message.get(role_key) if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in roles:
            raise RowError(f"has a message ({number}) by {role!r}", received=message,
                           hint="Roles: " + ", ".join(roles) + ". Tool calls are not read.")  # fmt: skip
        turns.append({"role": roles[role], "content": _content(message, text_key, number)})
    return turns


def _split_off_answer(turns: list[dict[str, str]]) -> Found:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise RowError("does not end in an answer", received=turns[-1]["role"] if turns else "",
                       hint="The last message must be the assistant's: it is what is learnt.")  # fmt: skip
    return turns[:-1], turns[-1]["content"]


def _messages(mapping: Mapping, values: AbstractMapping[str, Any]) -> Found:
    return _split_off_answer(_turns(values.get(mapping.column), "role", "content", _OPENAI_ROLES))


def _sharegpt(mapping: Mapping, values: AbstractMapping[str, Any]) -> Found:
    turns = _turns(values.get(mapping.column), "from", "value", _SHAREGPT_ROLES)
    system = as_text(values.get("system")).strip()
    if system and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return _split_off_answer(turns)


def _alpaca(mapping: Mapping, values: AbstractMapping[str, Any]) -> Found:
    turns = []
    system = as_text(values.get("system")).strip()
    if system:
        turns.append({"role": "system", "content": system})
    for pair in values.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("has a history that is not a list of [question, answer]", received=pair, column="history")
        turns.append({"role": "user", "content": as_text(pair[0]).strip()})
        turns.append({"role": "assistant", "content": as_text(pair[1]).strip()})
    parts = (as_text(values.get("instruction")).strip(), as_text(values.get("input")).strip())
    turns.append({"role": "user", "content": "\n\n".join(part for part in parts if part)})
    return turns, as_text(values.get("output"))


def _prompt_completion(mapping: Mapping, values: AbstractMapping[str, Any]) -> Found:
    prompt, completion = values.get("prompt"), values.get("completion")
    if isinstance(prompt, list):
        turns = _turns(prompt, "role", "content", _OPENAI_ROLES)
    else:
        turns = [{"role": "user", "content": as_text(prompt).strip()}]
    if isinstance(completion, list):
        return _split_off_answer(turns + _turns(completion, "role", "content", _OPENAI_ROLES))
    return turns, as_text(completion)


_READERS = {
    "columns": _columns,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
}
