"""What the form of an artifact means for people: the group its techniques stand in, and whether the engine serves it.

The engine refuses what it cannot serve and the pages say so beforehand, both in the words of `why_not_served`. A form
that becomes servable loses its line in `_NOT_SERVED`; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml.specs.fields import Form, Method
from ml.specs.table import METHODS


@dataclass(frozen=True, kw_only=True)
class Group:
    """Techniques that do the same kind of thing to a model."""

    title: str
    summary: str
    forms: tuple[Form, ...]

    @property
    def methods(self) -> tuple[Method, ...]:
        return tuple(method for method in METHODS.values() if method.form in self.forms)


GROUPS = (
    Group(
        title="Soft prompts",
        summary="Trained vectors at the start; every task shares the frozen model and the batch.",
        forms=("prefix_kv",),
    ),
    Group(
        title="Small changes inside the layers",
        summary="A few trained numbers beside each frozen layer.",
        forms=("lora_delta", "scale"),
    ),
    Group(
        title="A head, or the model's own weights",
        summary="A new top on frozen layers, or some or all layers trained.",
        forms=("head", "own_backbone"),
    ),
)

_NOT_SERVED: Mapping[str, str] = {
    "scale": "learned scales cannot share a batch with other tasks.",
    "head": "a classifier head gives a label and writes no text; the engine only writes text.",
    "own_backbone": "it changes the model itself, and the engine serves one frozen model to everybody.",
}


def why_not_served(form: str, family: str = "decoder") -> str:
    """Why the engine cannot answer with an artifact of `form` on a base model of `family`; "" when it can."""
    if family != "decoder":
        return f"the engine serves decoder models, and its base model is an {family.replace('_', '-')}."
    return _NOT_SERVED.get(form, "")
