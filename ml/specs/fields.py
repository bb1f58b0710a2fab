"""A setting and a technique as data: how it is shown, what it may be, what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ml.errors import SpecError

Kind = Literal["int", "float", "choice", "bool", "text"]
Form = Literal["plain", "prefix_kv", "lora_delta", "scale", "head", "own_backbone"]
Family = Literal["decoder", "encoder", "encoder_decoder"]
EVERY_FAMILY: tuple[Family, ...] = ("decoder", "encoder", "encoder_decoder")
Storage = Literal["peft", "weights", "head"]
Task = Literal["classification", "generation"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting of a spec: how it is shown, what it may be."""

    name: str
    """Key in the spec."""
    label: str
    """What the form says."""
    kind: Kind
    default: Any
    low: float | None = None
    """Smallest allowed value (inclusive); for text: shortest length."""
    high: float | None = None
    """Largest allowed value (inclusive); for text: longest length."""
    choices: tuple[str, ...] = ()
    help: str = ""
    unit: str = ""
    advanced: bool = False
    """Hidden until "advanced" is opened."""

    def check(self, value: Any) -> Any:
        """`value` as this field's type. Raises SpecError naming the rule and the value received."""
        if self.kind == "bool":
            return self._check_bool(value)
        if self.kind in ("choice", "text"):
            return self._check_text(value)
        return self._check_number(value)

    def _refuse(self, rule: str, value: Any) -> SpecError:
        return SpecError(f"{self.label} must be {rule}, got {value!r}.", hint=self.help, field=self.name)

    def _check_bool(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "on", "1", 1):
            return True
        if value in ("false", "off", "0", "", 0, None):
            return False
        raise self._refuse("true or false", value)

    def _check_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._refuse("text", value)
        if self.kind == "choice" and value not in self.choices:
            raise self._refuse("one of " + ", ".join(self.choices), value)
        if self.kind == "text" and self.high is not None and len(value) > self.high:
            raise self._refuse(f"at most {self.high:g} characters long", f"{len(value)} characters")
        return value

    def _check_number(self, value: Any) -> int | float:
        whole = self.kind == "int"
        if isinstance(value, bool) or value is None:
            raise self._refuse("a number", value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self._refuse("a whole number" if whole else "a number", value) from None
        if not math.isfinite(number):
            raise self._refuse("a finite number", value)
        if whole and number != int(number):
            raise self._refuse("a whole number", value)
        if self.low is not None and number < self.low:
            raise self._refuse(f"≥ {self.low:g}", value)
        if self.high is not None and number > self.high:
            raise self._refuse(f"≤ {self.high:g}", value)
        return int(number) if whole else number


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training technique: what it is, when it wins, what it costs, what it exports, what can be set."""

    name: str
    label: str
    glyph: str
    """Symbol id in icons.svg."""
    summary: str
    wins: str
    costs: str
    paper: str
    arxiv: str
    form: Form
    """The serving form that its artifact has."""
    storage: Storage = "peft"
    """How its artifact is kept: a PEFT folder, changed weights, or a head."""
    families: tuple[Family, ...]
    not_for: Mapping[str, str] = field(default_factory=dict)
    """For a family or task that it cannot have: why, as a sentence."""
    tasks: tuple[Task, ...] = ("classification", "generation")
    merges: bool = False
    """Whether the result can be written as one whole model."""
    defaults: Mapping[str, Any]
    """Defaults of common fields that suit this method (learning rates differ by 30 x)."""
    fields: tuple[Field, ...]
    """Settings of its own, kept under `options` in the spec."""
