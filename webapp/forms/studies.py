"""The form of a new study, generated from `ml.specs.study`: no technique is named here.

Every value is checked by the spec's own rules, so that form, API and command line say the same; what was typed stays as
it was typed. Which rows the data set really has is for the service to check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings

from ml.errors import SpecError
from ml.specs import GROUPS
from ml.specs.measures import EVALUATION_METRICS
from ml.specs.study import STUDY_FIELDS, TECHNIQUES, StudySpec, metrics_for, study_spec
from webapp.forms.run_fields import FactSelect, form_field, shown
from webapp.forms.runs import base_label, trainable_bases, version_label
from webapp.forms.study_fields import DURATION_HINT, duration_text, seconds_of, seeds_of, shares_of
from webapp.models import DatasetVersion, Team
from webapp.selectors.studies import Choice, collection_names, techniques_for
from webapp.selectors.study_cells import learns_from_rows

FIT, ASKED, CHOSEN = "fit", "asked", "chosen"
WHICH = ((FIT, "All that fit the budget"), (ASKED, "Only without training"), (CHOSEN, "Choose"))
BUDGET = "budget_s"
OWN_FIELDS = tuple(field for field in STUDY_FIELDS if field.name != BUDGET)
NAMES = {"dataset": "dataset_version", BUDGET: "budget"}
"""Names of the spec that the form calls otherwise."""
DEFAULT_BUDGET, DEFAULT_SEEDS = "30 min", "17, 18, 19"
KINDS = ("classification", "generation")


@dataclass(frozen=True, kw_only=True)
class ChoiceGroup:
    """Cards that stand together."""

    title: str
    summary: str
    choices: list[Choice]


def choice_groups(choices: Sequence[Choice]) -> list[ChoiceGroup]:
    """Ways of asking first, then techniques of training by kind."""
    by_name = {choice.technique.name: choice for choice in choices}
    asked = [choice for choice in choices if choice.technique.kind == "prompt"]
    groups = [ChoiceGroup(title="Asked in words", choices=asked, summary="The model stays as it is; tokens are what "
                                                                         "these cost.")]  # fmt: skip
    for group in GROUPS:
        found = [by_name[method.name] for method in group.methods if method.name in by_name]
        groups.append(ChoiceGroup(title=group.title, summary=group.summary, choices=found))
    return [group for group in groups if group.choices]


def _text(label: str, *, help_text: str = "", css: str = "", **attributes: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"class": f"form-control {css}".strip(), "autocomplete": "off", **attributes})
    return forms.CharField(label=label, required=False, help_text=help_text, widget=widget)


def add_problem(form: forms.Form, error: Any) -> None:
    """A refusal beside the field that it names, else above the form; a hint that stands there already is left out."""
    name = NAMES.get(error.field, error.field)
    field = form.fields.get(name)
    hint = "" if field is not None and field.help_text == error.hint else error.hint
    form.add_error(name if field is not None else None, f"{error.message} {hint}".strip())


class StudyForm(forms.Form):
    """After `is_valid`, `given` is ready for `study_submit`, and `spec` the same checked as a whole."""

    def __init__(self, data: Mapping[str, Any] | None = None, *, team: Team, initial: dict[str, Any] | None = None):
        versions = DatasetVersion.objects.for_team(team).filter(dataset__is_archived=False).select_related("dataset")
        self.versions = list(versions.order_by("dataset__name", "-number"))
        self.bases, self.collections = trainable_bases(), collection_names(team)
        self.given: dict[str, Any] = {}
        self.spec: StudySpec | None = None
        super().__init__(data, initial=initial)
        self._add_what()
        self._add_how()
        for field in OWN_FIELDS:
            self.fields[field.name] = form_field(field)
            self.fields[field.name].initial = shown(field.default)
        if data is not None:
            self._mark_errors()

    def _add_what(self) -> None:
        tasks = {str(version.pk): version.task for version in self.versions}
        self.fields["dataset_version"] = forms.ChoiceField(
            label="Data set", widget=FactSelect(name="task", facts=tasks),
            choices=[(str(version.pk), version_label(version)) for version in self.versions],
            error_messages={"required": "Choose the data set version to compare on."},
        )  # fmt: skip
        self.fields["base"] = forms.ChoiceField(
            label="Base model, stays frozen", widget=FactSelect(name="family", facts=self.bases),
            choices=[(name, base_label(name, family)) for name, family in self.bases.items()],
            initial=settings.BASE_MODEL if settings.BASE_MODEL in self.bases else next(iter(self.bases)),
            error_messages={"invalid_choice": "There is no base model %(value)s here that can be trained."},
        )  # fmt: skip
        kinds = {name: kind for kind in KINDS for name in metrics_for(kind)}
        self.fields["metric"] = forms.ChoiceField(
            label="Metric", required=False, widget=FactSelect(name="kind", facts=kinds),
            choices=[(name, EVALUATION_METRICS[name].label) for name in kinds],
            help_text="Techniques are ranked by it; all that fit are measured.",
        )  # fmt: skip
        self.fields["collection"] = collection_field(self.collections)
        self.fields["name"] = _text("Name", help_text="For people. Empty: the data set's name.", maxlength="120")

    def _add_how(self) -> None:
        self.fields["which"] = forms.ChoiceField(label="Techniques", choices=WHICH, initial=FIT, required=False)
        self.fields["techniques"] = _several("Techniques")
        self.fields["curve_techniques"] = _several("Techniques on the data-size curve")
        self.fields["seeds"] = _text("Seeds", help_text="Techniques without chance in them run once.")
        self.fields["budget"] = _text("Budget, device time", help_text=DURATION_HINT)
        self.fields["shares"] = _text(
            "Smaller shares of the rows", help_text="For the data-size curve, e.g. 10 %, 30 %; empty for none.",
            placeholder="10 %, 30 %",
        )  # fmt: skip
        self.fields["seeds"].initial, self.fields["budget"].initial = DEFAULT_SEEDS, DEFAULT_BUDGET

    def _mark_errors(self) -> None:
        for name in self.errors:
            if name in self.fields:
                attrs = self.fields[name].widget.attrs
                attrs["class"] = f"{attrs.get('class', '')} is-invalid".strip()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        given: dict[str, Any] = {
            "base": cleaned.get("base"), "metric": cleaned.get("metric") or "", "techniques": self.wanted,
            "collection": cleaned.get("collection") or "",
            "curve_techniques": [name for name in cleaned.get("curve_techniques") or () if name in self.wanted],
        }  # fmt: skip
        for name, read in (("seeds", seeds_of), ("shares", shares_of), ("budget", seconds_of)):
            try:
                given[name] = read(str(cleaned.get(name) or ""))
            except SpecError as error:
                add_problem(self, error)
        if "budget" in given:
            given[BUDGET] = given.pop("budget")
        for field in OWN_FIELDS:
            try:
                given[field.name] = field.check(cleaned.get(field.name))
            except SpecError as error:
                add_problem(self, error)
        self.given = given
        self._check_together()
        return cleaned

    def _check_together(self) -> None:
        if self.errors or self.version is None:
            return
        whole = {**self.given, "dataset": str(self.version), "dataset_sha256": self.version.sha256 or "0"}
        try:
            self.spec = study_spec(whole, task=self.task, family=self.family)
        except SpecError as error:
            add_problem(self, error)

    @property
    def version(self) -> DatasetVersion | None:
        """The chosen data set version, if it is one of the team's."""
        return next((v for v in self.versions if str(v.pk) == str(self["dataset_version"].value())), None)

    @property
    def task(self) -> str:
        return self.version.task if self.version else ""

    @property
    def family(self) -> str:
        return self.bases.get(str(self["base"].value()), "decoder")

    @property
    def mode(self) -> str:
        value = str(self["which"].value() or FIT)
        return value if value in dict(WHICH) else FIT

    @property
    def choices(self) -> list[Choice]:
        """Every technique, with the reason where it cannot be had."""
        return techniques_for(task=self.task, family=self.family, chosen=self["techniques"].value() or [],
                              has_collection=bool(self["collection"].value()))  # fmt: skip

    @property
    def wanted(self) -> list[str]:
        """Names of the techniques that are asked for."""
        if self.mode == CHOSEN:
            ticked = self["techniques"].value() or []
            return [name for name in TECHNIQUES if name in ticked]
        fitting = [choice.technique for choice in self.choices if not choice.reason]
        return [one.name for one in fitting if self.mode == FIT or one.kind == "prompt"]

    @property
    def groups(self) -> list[ChoiceGroup]:
        return choice_groups(self.choices)

    @property
    def simple(self) -> list[forms.BoundField]:
        return [self[field.name] for field in OWN_FIELDS if not field.advanced]

    @property
    def advanced(self) -> list[forms.BoundField]:
        return [self[field.name] for field in OWN_FIELDS if field.advanced]

    @property
    def has_advanced_error(self) -> bool:
        return any(field.errors for field in [*self.advanced, self["curve_techniques"]])

    @property
    def curve_choices(self) -> list[Choice]:
        return [choice for choice in self.choices if learns_from_rows(choice.technique)]

    @property
    def on_curve(self) -> list[str]:
        return list(self["curve_techniques"].value() or [])

    @property
    def reasons(self) -> dict[str, dict[str, str]]:
        """For the page's module: by `family/task/` and whether there is a collection, what stands against each."""
        return {
            f"{family}/{task}/{has}": {
                c.technique.name: c.reason for c in techniques_for(task=task, family=family, has_collection=has == "y")
            }
            for family in sorted(set(self.bases.values())) for task in sorted({v.task for v in self.versions})
            for has in ("y", "n")
        }  # fmt: skip


def collection_field(names: Sequence[str]) -> forms.ChoiceField:
    return forms.ChoiceField(
        label="Collection", required=False, choices=[("", "none"), *((name, name) for name in names)],
        widget=forms.Select(attrs={"class": "form-select"}), help_text="What retrieval searches for each test row.",
        error_messages={"invalid_choice": "Your team has no collection %(value)s."},
    )  # fmt: skip


def _several(label: str) -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(
        label=label, required=False, choices=[(one.name, one.label) for one in TECHNIQUES.values()],
        error_messages={"invalid_choice": "There is no technique %(value)s."},
    )  # fmt: skip


def initial_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the form starts with where it is to be like an earlier study."""
    lists = {name: ", ".join(f"{value:g}" for value in spec.get(name) or []) for name in ("seeds", "shares")}
    plain = {field.name: shown(spec[field.name]) for field in OWN_FIELDS if field.name in spec}
    return {
        **plain, **lists, "base": spec.get("base"), "metric": spec.get("metric"), "which": CHOSEN,
        "collection": spec.get("collection") or "",
        "techniques": list(spec.get("techniques") or []), "curve_techniques": list(spec.get("curve_techniques") or []),
        "budget": duration_text(float(spec.get(BUDGET) or 0)),
    }  # fmt: skip
