"""What the form of an artifact means for people: the group its techniques stand in, and whether the engine serves it.

The engine refuses what it cannot serve and the pages say so beforehand, both in the words of `why_not_served`. Every
form of today is served on a decoder; a new one stands in `_NOT_SERVED` until it is.
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

_NOT_SERVED: Mapping[str, str] = {}
_SERVED: Mapping[str, str] = {
    "head": "answers with a label, in the batch that all tasks share",
    "own_backbone": "answers on a model of its own, loaded when it is asked",
}


def why_not_served(form: str, family: str = "decoder") -> str:
    """Why the engine cannot answer with an artifact of `form` on a base model of `family`; "" when it can."""
    if family != "decoder":
        return f"the engine serves decoder models, and its base model is an {family.replace('_', '-')}."
    return _NOT_SERVED.get(form, "")


def writes_text(form: str) -> bool:
    """Whether an artifact of `form` answers token by token; one that does not gives a label of its own."""
    return form != "head"


def how_served(form: str) -> str:
    """How the engine answers with an artifact of `form`, as the end of a sentence that begins with its name."""
    return _SERVED.get(form, "shares the batch with other tasks")
