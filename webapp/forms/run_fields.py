"""From a `Field` of ml.specs to an input, and the choices that carry facts for the page's module."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from django import forms

from ml.specs import COMMON_FIELDS, METHODS, Field, Method, common_fields_for

LONG_TEXT = 500
"""A text that may be longer gets a box of several lines."""
OWN_DEFAULTS = {name for method in METHODS.values() for name in method.defaults}
SHARED = tuple(field for field in COMMON_FIELDS if field.name not in OWN_DEFAULTS)
SECTIONS = (
    ("Memory and speed", ("micro_batch_size", "max_length", "group_by_length", "precision", "gradient_checkpointing",
                          "on_out_of_memory")),
    ("Looks and checkpoints", ("eval_every", "eval_rows", "keep_best", "patience", "flat_steps", "checkpoint_every")),
)  # fmt: skip
"""Shared advanced settings that belong together; all others come first, as "Learning"."""


def own_fields(method: Method) -> tuple[Field, ...]:
    """The settings that are kept per technique."""
    return (*(f for f in common_fields_for(method) if f.name in OWN_DEFAULTS), *method.fields)


def key_of(method: Method | None, field: Field) -> str:
    return f"{method.name}-{field.name}" if method else field.name


def section_of(field: Field) -> str:
    return next((title for title, names in SECTIONS if field.name in names), "Learning")


def shown(value: Any) -> Any:
    """A number as people write it."""
    return f"{value:g}" if isinstance(value, float) else value


def form_field(field: Field) -> forms.Field:
    """An input that accepts anything; `Field.check` judges."""
    attrs = {"class": "form-control", "data_unit": field.unit, "autocomplete": "off"}
    values: dict[str, Any] = {"label": field.label, "required": False, "help_text": field.help}
    if field.kind == "bool":
        return forms.BooleanField(**values, widget=forms.CheckboxInput(attrs={"class": "form-check-input"}))
    if field.kind == "choice":
        select = forms.Select(attrs={"class": "form-select"}, choices=[(c, c) for c in field.choices])
        return forms.CharField(**values, widget=select)
    if field.kind == "text":
        is_long = (field.high or 0) > LONG_TEXT
        box = forms.Textarea(attrs={**attrs, "rows": 2}) if is_long else forms.TextInput(attrs=attrs)
        return forms.CharField(**values, strip=False, widget=box)
    attrs["inputmode"] = "numeric" if field.kind == "int" else "decimal"
    return forms.CharField(**values, widget=forms.TextInput(attrs=attrs))


class FactSelect(forms.Select):
    """A select whose options carry one fact each in `data-<name>`; those refused are disabled unless chosen."""

    def __init__(self, *, name: str, facts: Mapping[str, str], refused: Container[str] = ()) -> None:
        super().__init__(attrs={"class": "form-select"})
        self.name, self.facts, self.refused = name, facts, refused

    def create_option(
        self, name: str, value: Any, label: Any, selected: Any, index: Any, **rest: Any
    ) -> dict[str, Any]:
        option = super().create_option(name, value, label, selected, index, **rest)
        option["attrs"][f"data-{self.name}"] = self.facts.get(str(value), "")
        if str(value) in self.refused and not selected:
            option["attrs"]["disabled"] = True
        return option
