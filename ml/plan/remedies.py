"""What would make a run fit: changes of its settings, each planned anew, the cheapest in quality and time first.

Guarantees: a remedy is a spec that its technique allows, and its saving is the difference of two plans. Does not try
another base model, nor two changes at once beyond the gradient checkpointing that a smaller batch asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml.errors import ColdframeError
from ml.plan.verdicts import Plan, Verdict, verdict
from ml.specs import METHODS, TrainSpec, train_spec

N_REMEDIES = 3
_SMALLER = {"rank": "the rank", "n_virtual_tokens": "the virtual tokens", "k": "the layers to train"}
_LEAST_SAVING = 0.01
_SHORTEST_ROW = 32


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One change of a spec."""

    text: str
    """What to do and what it costs, as a sentence without a stop."""
    changes: Mapping[str, Any]
    """Settings of the spec, or `options.<name>`, by their new value."""
    saved: int
    """Bytes less in all."""
    verdict: Verdict
    """What the changed run would do."""

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, "changes": dict(self.changes), "saved": self.saved, "verdict": self.verdict}


def remedies(
    spec: TrainSpec, needed: Plan, free: int, *, device: str, again: Callable[[TrainSpec], Plan]
) -> list[Remedy]:
    """At most three changes, those that make it fit alone first, each group with the cheapest first.

    `again` plans a changed spec; what it refuses (ColdframeError) is not offered.
    """
    found: dict[tuple[str, ...], Remedy] = {}
    for text, changes in _candidates(spec, device):
        kind = tuple(sorted(changes))
        if kind in found and found[kind].verdict != "does_not_fit":
            continue
        try:
            changed = again(_changed(spec, changes))
        except ColdframeError:
            continue
        saved = needed.total - changed.total
        if saved >= _LEAST_SAVING * needed.total:
            found[kind] = Remedy(text=text, changes=changes, saved=saved, verdict=verdict(changed, free))
    enough = [remedy for remedy in found.values() if remedy.verdict != "does_not_fit"]
    rest = sorted((r for r in found.values() if r.verdict == "does_not_fit"), key=lambda r: -r.saved)
    return [*enough, *rest][:N_REMEDIES]


def _changed(spec: TrainSpec, changes: Mapping[str, Any]) -> TrainSpec:
    common = {name: value for name, value in changes.items() if "." not in name}
    options = {name.partition(".")[2]: value for name, value in changes.items() if "." in name}
    if "method" not in changes:
        return replace(spec, **common, options={**spec.options, **options})
    known = {field.name for field in METHODS[changes["method"]].fields}
    kept = {name: value for name, value in spec.options.items() if name in known}
    return train_spec({**spec.as_dict(), **common, "options": kept})


def _candidates(spec: TrainSpec, device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes by what they cost, the cheapest first."""
    rows = spec.micro_batch_size
    while rows > 1:
        rows //= 2
        yield f"Set rows at once to {rows}: the same result, a little slower", {"micro_batch_size": rows}
    if device.startswith("cuda") and spec.optimizer != "adamw_8bit":
        yield "Keep the optimizer's states in 8 bits: hardly a difference", {"optimizer": "adamw_8bit"}
    if spec.precision == "float32" or (spec.precision == "auto" and not device.startswith("cuda")):
        yield "Compute in bfloat16: half the weights, slower where the processor lacks it", {"precision": "bfloat16"}
    if not spec.gradient_checkpointing:
        text = "Switch gradient checkpointing on: the same result, a third slower"
        yield text, {"gradient_checkpointing": True}
        if spec.micro_batch_size > 1:
            text = "Take one row at once with gradient checkpointing: the same result, slower"
            yield text, {"gradient_checkpointing": True, "micro_batch_size": 1}
    yield from _costly(spec)


def _costly(spec: TrainSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes that may cost quality."""
    if "double_quantization" not in spec.options:
        row = next(m for m in METHODS.values() if any(f.name == "double_quantization" for f in m.fields))
        text = f"Use {row.label}: the frozen weights in 4 bits, a trace of quality"
        yield text, {"method": row.name, "optimizer": row.defaults["optimizer"], "gradient_checkpointing": True}
    for name, what in _SMALLER.items():
        value = int(spec.options.get(name, 0))
        if value > 1:
            yield f"Halve {what} to {value // 2}: learns a little less", {f"options.{name}": value // 2}
    if spec.max_length >= 2 * _SHORTEST_ROW:
        half = spec.max_length // 2
        yield f"Set the longest row to {half} tokens: longer prompts lose their beginning", {"max_length": half}
