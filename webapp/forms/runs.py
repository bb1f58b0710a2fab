"""The form of a new training run, generated from `ml.specs`: no technique is named here.

Settings whose default differs between techniques, and a technique's own, are there once per technique, so that
switching to and fro loses nothing; the others are shared. Every value is checked by its own `Field.check`, so the form,
the API and the command line say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django import forms
from django.conf import settings

from ml.errors import ColdframeError, SpecError
from ml.specs import COMMON_FIELDS, METHODS, Field, Method, common_fields_for
from webapp.models import BaseModel, DatasetVersion, Team
from webapp.names import name_check

OWN_DEFAULTS = {name for method in METHODS.values() for name in method.defaults}
SHARED = tuple(field for field in COMMON_FIELDS if field.name not in OWN_DEFAULTS)


def own_fields(method: Method) -> tuple[Field, ...]:
    """The settings that are kept per technique."""
    return (*(f for f in common_fields_for(method) if f.name in OWN_DEFAULTS), *method.fields)


def key_of(method: Method | None, field: Field) -> str:
    return f"{method.name}-{field.name}" if method else field.name


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
        return forms.CharField(**values, strip=False, widget=forms.Textarea(attrs={**attrs, "rows": 2}))
    attrs["inputmode"] = "numeric" if field.kind == "int" else "decimal"
    return forms.CharField(**values, widget=forms.TextInput(attrs=attrs))


def version_label(version: DatasetVersion) -> str:
    labels = f", {len(version.labels)} labels" if version.labels else ""
    return f"{version} – {version.n_rows:,} rows{labels}"


class TrainForm(forms.Form):
    """After `is_valid`, `given` holds method, base and all settings, ready for `training_submit`."""

    def __init__(self, data: Mapping[str, Any] | None = None, *, team: Team, initial: dict[str, Any] | None = None):
        versions = DatasetVersion.objects.for_team(team).filter(dataset__is_archived=False).select_related("dataset")
        self.versions = list(versions.order_by("dataset__name", "-number"))
        bases = list(BaseModel.objects.filter(family="decoder").values_list("name", flat=True))
        self.bases = bases or [settings.BASE_MODEL]
        self.given: dict[str, Any] = {}
        super().__init__(data, initial=initial)
        self._add_choices()
        for field in SHARED:
            self._add(None, field)
        for method in METHODS.values():
            for field in own_fields(method):
                self._add(method, field)
        if data is not None:
            for name in self.errors:
                if name in self.fields:
                    attrs = self.fields[name].widget.attrs
                    attrs["class"] = f"{attrs.get('class', '')} is-invalid".strip()

    def _add_choices(self) -> None:
        select = forms.Select(attrs={"class": "form-select"})
        self.fields["dataset_version"] = forms.ChoiceField(
            label="Data set", widget=select, choices=[(str(v.pk), version_label(v)) for v in self.versions],
            error_messages={"required": "Choose the data set version to learn from."},
        )  # fmt: skip
        default_base = settings.BASE_MODEL if settings.BASE_MODEL in self.bases else self.bases[0]
        self.fields["base"] = forms.ChoiceField(
            label="Base model, stays frozen", widget=forms.Select(attrs={"class": "form-select"}),
            choices=[(base, base) for base in self.bases], initial=default_base,
        )  # fmt: skip
        first = next(iter(METHODS))
        self.fields["method"] = forms.ChoiceField(
            label="Technique", choices=[(m.name, m.label) for m in METHODS.values()], initial=first
        )
        self.fields["adapter"] = forms.CharField(
            label="Adapter name", required=False, help_text="A name that is there already gets its next version.",
            widget=forms.TextInput(
                attrs={"class": "form-control cf-mono", "autocomplete": "off", "spellcheck": "false"}
            ),
        )  # fmt: skip

    def _add(self, method: Method | None, field: Field) -> None:
        key = key_of(method, field)
        self.fields[key] = form_field(field)
        self.fields[key].initial = shown(field.default)

    @property
    def chosen(self) -> Method:
        name = self["method"].value()
        return METHODS.get(str(name)) or next(iter(METHODS.values()))

    def _used(self) -> Iterator[tuple[Method | None, Field]]:
        yield from ((None, field) for field in SHARED)
        yield from ((self.chosen, field) for field in own_fields(self.chosen))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        given: dict[str, Any] = {"method": self.chosen.name, "base": cleaned.get("base"), "options": {}}
        own_names = {field.name for field in self.chosen.fields}
        for method, field in self._used():
            key = key_of(method, field)
            try:
                value = field.check(cleaned.get(key))
            except SpecError as error:
                self.add_error(key, error.message)
                continue
            (given["options"] if method and field.name in own_names else given)[field.name] = value
        try:
            cleaned["adapter"] = name_check(cleaned.get("adapter") or "", field="adapter")
        except ColdframeError as error:
            self.add_error("adapter", f"{error.message} {error.hint}")
        self.given = given
        return cleaned

    @property
    def version(self) -> DatasetVersion | None:
        """The chosen data set version, if it is one of the team's."""
        return next((v for v in self.versions if str(v.pk) == str(self["dataset_version"].value())), None)

    def _bound(self, pairs: Any, *, is_advanced: bool) -> list[forms.BoundField]:
        return [self[key_of(method, field)] for method, field in pairs if field.advanced is is_advanced]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Shared settings, then those of each technique, simple and advanced apart."""
        shared = [(None, field) for field in SHARED]
        found = [{"method": None, "pairs": shared}]
        found += [{"method": m, "pairs": [(m, field) for field in own_fields(m)]} for m in METHODS.values()]
        return [
            {
                "method": group["method"],
                "is_shown": group["method"] is None or group["method"] is self.chosen,
                "simple": self._bound(group["pairs"], is_advanced=False),
                "advanced": self._bound(group["pairs"], is_advanced=True),
            }
            for group in found
        ]

    @property
    def has_advanced_error(self) -> bool:
        return any(field.errors for group in self.groups if group["is_shown"] for field in group["advanced"])


def initial_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the form starts with when a run is cloned."""
    method = METHODS.get(str(spec.get("method", "")))
    if method is None:
        return {}
    initial: dict[str, Any] = {"method": method.name, "base": spec.get("base"), "adapter": spec.get("adapter", "")}
    values = {**spec, **(spec.get("options") or {})}
    pairs = [(None, field) for field in SHARED] + [(method, field) for field in own_fields(method)]
    return initial | {key_of(m, f): shown(values[f.name]) for m, f in pairs if f.name in values}
