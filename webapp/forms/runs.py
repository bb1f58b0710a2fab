"""The form of a new training run, generated from `ml.specs`: no technique is named here.

Settings whose default differs between techniques, and a technique's own, are there once per technique, so that
switching to and fro loses nothing; the others are shared. Every value is checked by its own `Field.check`, so the form,
the API and the command line say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from django import forms
from django.conf import settings

from ml.errors import ColdframeError, SpecError
from ml.specs import METHODS, Family, Field, Method, TrainSpec, train_spec
from webapp.forms.run_fields import SECTIONS, SHARED, FactSelect, form_field, key_of, own_fields, section_of, shown
from webapp.models import BaseModel, DatasetVersion, Team
from webapp.names import name_check
from webapp.selectors.techniques import CardGroup, base_reason, card_groups, misfit, reasons


def trainable_bases() -> dict[str, str]:
    """Base models that are there, by name, each with its family; the starter one while it is still being set up."""
    rows = BaseModel.objects.filter(family__in=get_args(Family))
    found = {row.name: row.family for row in rows if not row.config.get("is_missing")}
    return found or {settings.BASE_MODEL: "decoder"}


def base_label(name: str, family: str) -> str:
    return name if family == "decoder" else f"{name} – {family.replace('_', '-')}"


def version_label(version: DatasetVersion) -> str:
    labels = f", {len(version.labels)} labels" if version.labels else ""
    return f"{version} – {version.n_rows:,} rows{labels}"


class TrainForm(forms.Form):
    """After `is_valid`, `given` holds method, base and all settings, ready for `training_submit`, and
    `spec` them checked together (for a data set of no content)."""

    def __init__(self, data: Mapping[str, Any] | None = None, *, team: Team, initial: dict[str, Any] | None = None):
        versions = DatasetVersion.objects.for_team(team).filter(dataset__is_archived=False).select_related("dataset")
        self.versions = list(versions.order_by("dataset__name", "-number"))
        self.bases = trainable_bases()
        self.given: dict[str, Any] = {}
        self.spec: TrainSpec | None = None
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
        tasks = {str(v.pk): v.task for v in self.versions}
        self.fields["dataset_version"] = forms.ChoiceField(
            label="Data set", widget=FactSelect(name="task", facts=tasks),
            choices=[(str(v.pk), version_label(v)) for v in self.versions],
            error_messages={"required": "Choose the data set version to learn from."},
        )  # fmt: skip
        refused = {name for name, family in self.bases.items() if base_reason(family=family, task=self.task)}
        self.fields["base"] = forms.ChoiceField(
            label="Base model, stays frozen", widget=FactSelect(name="family", facts=self.bases, refused=refused),
            choices=[(name, base_label(name, family)) for name, family in self.bases.items()],
            initial=settings.BASE_MODEL if settings.BASE_MODEL in self.bases else next(iter(self.bases)),
            error_messages={"invalid_choice": "There is no base model %(value)s here that can be trained."},
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
        self._check_together()
        return cleaned

    def _check_together(self) -> None:
        """Rules that join several settings, and whether technique, base model and data go together."""
        if str(self["method"].value()) in METHODS and self.version and self.given["base"]:
            against = misfit(self.chosen, family=self.family, task=self.task)
            if against is not None:
                self.add_error(against.field, f"{against.message} {against.hint}")
        if self.errors:
            return
        try:
            self.spec = train_spec({**self.given, "dataset": str(self.version), "dataset_sha256": "0"})
        except SpecError as error:
            key = self.key_named(error.field)
            self.add_error(key if key in self.fields else None, f"{error.message} {error.hint}")

    def key_named(self, name: str) -> str:
        """The input of a setting of the chosen technique."""
        own = {field.name for field in own_fields(self.chosen)}
        return f"{self.chosen.name}-{name}" if name in own else name

    @property
    def version(self) -> DatasetVersion | None:
        """The chosen data set version, if it is one of the team's."""
        return next((v for v in self.versions if str(v.pk) == str(self["dataset_version"].value())), None)

    @property
    def task(self) -> str:
        """The chosen data set's task; "" before one is chosen."""
        return self.version.task if self.version else ""

    @property
    def family(self) -> str:
        """The chosen base model's family."""
        return self.bases.get(str(self["base"].value()), "")

    @property
    def cards(self) -> list[CardGroup]:
        return card_groups(chosen=self.chosen, family=self.family, task=self.task)

    @property
    def base_note(self) -> str:
        """Why some base models cannot be chosen with this data set."""
        against = [base_reason(family=family, task=self.task) for family in self.bases.values()]
        return next((text for text in against if text), "")

    @property
    def reasons(self) -> dict[str, Any]:
        return reasons(self.bases.values(), [version.task for version in self.versions])

    def _bound(self, method: Method | None, fields: Any, *, is_advanced: bool) -> list[forms.BoundField]:
        return [self[key_of(method, field)] for field in fields if field.advanced is is_advanced]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Shared settings by section, then those of each technique, simple and advanced apart."""
        titles = ("Learning", *(title for title, _ in SECTIONS))
        found: list[tuple[str, Method | None, Any]] = [(m.label, m, own_fields(m)) for m in METHODS.values()]
        found += [(title, None, [field for field in SHARED if section_of(field) == title]) for title in titles]
        return [
            {
                "title": title,
                "method": method,
                "is_shown": method is None or method is self.chosen,
                "simple": self._bound(method, fields, is_advanced=False),
                "advanced": self._bound(method, fields, is_advanced=True),
            }
            for title, method, fields in found
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
