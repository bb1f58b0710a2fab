"""What stands around a question when a target sees it: a system text, worked examples, the form of the user's turn.

A hard prompt brings its own; an adapter is asked in the form of the data that it was trained on, since that is what it
has learned. Rows in, a Frame out; what it does to messages: ml/specs/prompting.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ml.specs.prompting import LABELS, SLOT, Nearest, placeholders, worked
from ml.specs.prompting import Frame as Frame
from webapp.models import AdapterVersion, PromptVersion

_OWN_SLOT = "\x00"
"""Cannot be typed: the templates of data sets may hold any text."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
"""As in ml/data/mapping.py: `{column}`, with `{{` and `}}` for braces."""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _pairs_of(version: PromptVersion) -> tuple[tuple[str, str], ...]:
    marker = _text(version.rule.get("marker"))
    return tuple(
        (_text(e.get("question")), worked(_text(e.get("steps")), _text(e.get("answer")), marker))
        for e in version.examples if isinstance(e, Mapping)
    )  # fmt: skip


def frame_of_prompt(version: PromptVersion) -> Frame:
    data = version.dataset_version
    is_classification = data is not None and data.task == "classification"
    votes = version.n_samples > 1
    nearest = None
    if version.pick == PromptVersion.Pick.NEAREST and data is not None:
        nearest = Nearest(dataset_version_id=data.pk, k=version.k)
    template = version.template or SLOT
    return Frame(
        system=version.system, template=template, fields=tuple(n for n in placeholders(template) if n != LABELS),
        constants={LABELS: ", ".join(data.labels)} if data is not None and data.labels else {},
        examples=_pairs_of(version), nearest=nearest, takes_history=not is_classification,
        picks_label=is_classification and not votes, collection_id=version.collection_id, rule=version.rule,
        n_samples=version.n_samples, sample_temperature=version.sample_temperature,
    )  # fmt: skip


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
