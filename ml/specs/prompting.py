"""Building the messages of a prompt: the one place that chat, API, the editor, engines and evaluations share. Pure.

A template holds `{name}` for a field and `{{name}}` for the text `{name}`; any other brace is text. A template with one
field takes what was typed as its value; one with several takes a JSON object with exactly those keys. `{labels}` stands
for the labels of the prompt's data set, in template and system text. Texts of callers are only ever inserted, never
read as templates. No Django, no database, no model: rows and vectors are found elsewhere and handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml.errors import SpecError

SLOT = "{question}"
QUESTION = "question"
LABELS = "labels"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PLACEHOLDER = re.compile(rf"\{{\{{({_NAME})\}}\}}|\{{({_NAME})\}}")
FIELD_NAME = re.compile(_NAME)
Pair = tuple[str, str]
"""What was asked and the answer to it."""


def placeholders(template: str) -> list[str]:
    """The names that a template asks for, in order, without repeats and without escaped ones."""
    return list(dict.fromkeys(match[2] for match in _PLACEHOLDER.finditer(template) if match[2]))


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with its values. A placeholder without a value stays as it is."""

    def put(match: re.Match[str]) -> str:
        return f"{{{match[1]}}}" if match[1] else values.get(match[2], match[0])

    return _PLACEHOLDER.sub(put, template)


def values_of(text: str, fields: Sequence[str]) -> dict[str, str]:
    """The fields' values in what was typed. Raises SpecError naming the keys that are missing or unknown."""
    if len(fields) == 1:
        return {fields[0]: text}
    names = ", ".join(fields)
    hint = "Send a JSON object: " + json.dumps(dict.fromkeys(fields, "…"), ensure_ascii=False) + "."
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise SpecError(f"This prompt has the fields {names}, got plain text.", hint=hint, field="messages")
    missing = [name for name in fields if name not in given]
    unknown = sorted(set(given) - set(fields))
    if missing or unknown:
        what = f"misses {', '.join(missing)}" if missing else f"has the unknown {', '.join(unknown)[:200]}"
        raise SpecError(f"This prompt has the fields {names}; the object {what}.", hint=hint, field="messages")
    return {name: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for name, v in given.items()}


def worked(steps: str, answer: str, marker: str) -> str:
    """An example's answer with its steps in front, ending as the answer is found later."""
    if not steps:
        return answer
    return f"{steps}\n{answer}" if not marker or marker in answer else f"{steps}\n{marker} {answer}"


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Examples that are chosen for each question: the k most like it among a data set's training rows."""

    dataset_version_id: int
    k: int


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around a question when a target sees it, and how its answer is found. Empty, it changes nothing."""

    system: str = ""
    template: str = SLOT
    """The user's turn; `slot`, or each of `fields`, stands for what was typed."""
    slot: str = SLOT
    fields: tuple[str, ...] = ()
    """Placeholders of a hard prompt; empty where only `slot` counts."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Placeholders whose values are the same for every question."""
    examples: tuple[Pair, ...] = ()
    """Questions with their answers, shown in front of the conversation."""
    nearest: Nearest | None = None
    """Where the examples are chosen for each question."""
    takes_history: bool = True
    """False for targets made for single questions: earlier turns would only confuse them."""
    picks_label: bool = False
    """True for classifiers: asked greedily, without a repetition penalty."""
    own_system_wins: bool = False
    """True where the caller's system text replaces ours; otherwise it follows ours."""
    collection_id: int | None = None
    """Searched when the caller names no collection."""
    rule: Mapping[str, Any] = field(default_factory=dict)
    """How the answer is found in the text; see ml/specs/voting.py. Empty: the text is the answer."""
    n_samples: int = 1
    """Texts written a question; above 1 their answers vote."""
    sample_temperature: float = 0.7

    def _user(self, text: str) -> str:
        if self.fields:
            return render(self.template, {**self.constants, **values_of(text, self.fields)})
        if self.slot in self.template:
            return self.template.replace(self.slot, text)
        return f"{self.template}\n\n{text}".strip()

    def _system(self, given: str) -> str:
        if given and self.own_system_wins:
            return given
        ours = render(self.system, self.constants) if self.fields else self.system
        return "\n\n".join(part for part in (ours, given) if part)

    def fold(self, messages: Sequence[Mapping[str, str]], examples: Sequence[Pair] = ()) -> list[dict[str, str]]:
        """System, examples, history, and the last user's turn in our form. Earlier turns stay as they were typed.

        `examples` are those that were found for this question, where the frame has `nearest`.
        """
        given = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        turns = [dict(m) for m in messages if m["role"] != "system"]
        if not self.takes_history:
            turns = turns[-1:]
        if turns and turns[-1]["role"] == "user":
            turns[-1] = {"role": "user", "content": self._user(turns[-1]["content"])}
        system = self._system(given)
        folded = [{"role": "system", "content": system}] if system else []
        for question, answer in (*self.examples, *examples):
            folded += [{"role": "user", "content": self._user(question)}, {"role": "assistant", "content": answer}]
        return folded + turns

    def as_dict(self) -> dict[str, Any]:
        """What an engine needs to fold the messages itself, as JSON."""
        return {
            "system": self.system, "template": self.template, "fields": list(self.fields),
            "constants": dict(self.constants), "takes_history": self.takes_history,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Frame:
        return cls(**{**given, "fields": tuple(given["fields"])})
