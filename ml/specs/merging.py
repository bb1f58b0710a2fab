"""Which techniques' results can become one whole model, and what to say of those that cannot."""

from __future__ import annotations

from dataclasses import dataclass

from ml.specs.table import METHODS

_REASONS = {
    "prefix_kv": (
        "puts trained vectors in front of the input and changes no weight of the model",
        "Download its PEFT folder: plain peft loads it on the base model.",
    ),
    "head": (
        "is a head beside the model, which changes none of its weights",
        "Download its folder: head_config.json and head.safetensors say how to use it.",
    ),
}
_OTHERWISE = ("cannot be written as one model", "Download its folder as it is.")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why there is nothing to merge, and what to do instead."""

    text: str
    hint: str


def why_not_merged(method: str) -> Reason | None:
    """None when an artifact of `method` can be merged into its base model."""
    row = METHODS[method]
    if row.merges:
        return None
    what, hint = _REASONS.get(row.form, _OTHERWISE)
    return Reason(text=f"{row.label} {what}: there is nothing to merge.", hint=hint)
