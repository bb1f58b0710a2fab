"""What stands around a question when a target sees it: a system text, worked examples, the form of the user's turn.

A hard prompt brings its own; an adapter is asked in the form of the data that it was trained on, since that is what it
has learned. Pure: rows in, messages out. Texts of callers are only ever inserted, never interpreted as templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.models import AdapterVersion, PromptVersion

SLOT = "{question}"
_OWN_SLOT = "\x00"
"""Cannot be typed: the templates of data sets may hold any text."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
"""As in ml/data/mapping.py: `{column}`, with `{{` and `}}` for braces."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Empty, it changes nothing."""

    system: str = ""
    template: str = SLOT
    """The user's turn; `slot` stands for what was typed."""
    slot: str = SLOT
    examples: tuple[tuple[str, str], ...] = ()
    """Questions with their answers, shown in front of the conversation."""
    takes_history: bool = True
    """False for targets trained on single questions: earlier turns would only confuse them."""
    picks_label: bool = False
    """True for classifiers: asked greedily, without a repetition penalty."""
    own_system_wins: bool = False
    """True where the caller's system text replaces ours; otherwise it follows ours."""

    def _user(self, text: str) -> str:
        if self.slot in self.template:
            return self.template.replace(self.slot, text)
        return f"{self.template}\n\n{text}".strip()

    def _system(self, given: str) -> str:
        if given and self.own_system_wins:
            return given
        return "\n\n".join(part for part in (self.system, given) if part)

    def fold(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """System, examples, history, and the last user's turn in our form. Earlier turns stay as they were typed."""
        given = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        turns = [dict(m) for m in messages if m["role"] != "system"]
        if not self.takes_history:
            turns = turns[-1:]
        if turns and turns[-1]["role"] == "user":
            turns[-1] = {"role": "user", "content": self._user(turns[-1]["content"])}
        system = self._system(given)
        folded = [{"role": "system", "content": system}] if system else []
        for question, answer in self.examples:
            folded += [{"role": "user", "content": self._user(question)}, {"role": "assistant", "content": answer}]
        return folded + turns


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def frame_of_prompt(version: PromptVersion) -> Frame:
    examples = tuple(
        (_text(e.get("question")), _text(e.get("answer"))) for e in version.examples if isinstance(e, Mapping)
    )
    return Frame(system=version.system, template=version.template or SLOT, examples=examples)


def _turn_of(mapping: Mapping[str, Any]) -> str:
    """The mapping's prompt with our slot for its one column; the slot alone where there is no single column."""
    prompt = _text(mapping.get("prompt"))
    columns = {name for name in _PLACEHOLDER.findall(prompt) if name}
    if mapping.get("format", "columns") != "columns" or len(columns) != 1:
        return _OWN_SLOT
    return _PLACEHOLDER.sub(lambda match: match[0][0] if match[0] in ("{{", "}}") else _OWN_SLOT, prompt)


def frame_of_adapter(version: AdapterVersion) -> Frame:
    """The system text and turn of the data it was trained on; a caller's own system text wins."""
    data = version.dataset_version
    if data is None:
        return Frame()
    is_classification = data.task == "classification"
    return Frame(
        system=_text(data.mapping.get("system")), template=_turn_of(data.mapping), slot=_OWN_SLOT,
        takes_history=not is_classification, picks_label=is_classification, own_system_wins=True,
    )  # fmt: skip
