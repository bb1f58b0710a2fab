"""The form of a new evaluation: what, on which rows, by which metrics. The service decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms

from ml.specs.measures import EVALUATION_METRICS
from webapp.forms.adapters import _control
from webapp.forms.runs import version_label
from webapp.models import Collection, DatasetVersion, Team
from webapp.selectors.dataset_rows import SPLITS
from webapp.selectors.targets import PROMPT, choices
from webapp.services.evaluations import DEFAULT_ROWS, DEFAULT_TOKENS, MOST_ROWS


def _select(label: str, *, required: bool = True, help_text: str = "") -> forms.ChoiceField:
    widget = forms.Select(attrs=_control("form-select"))
    return forms.ChoiceField(label=label, required=required, widget=widget, help_text=help_text)


def _number(label: str, *, initial: int, most: int, help_text: str) -> forms.IntegerField:
    widget = forms.NumberInput(attrs=_control(min="1", max=str(most), inputmode="numeric"))
    return forms.IntegerField(label=label, initial=initial, widget=widget, help_text=help_text)


class EvaluationForm(forms.Form):
    """Names of subjects are those that chat and API take."""

    model = _select("Subject", help_text="An alias is pinned to the version that it names now.")
    prompt = _select("With the prompt", required=False, help_text="Frames the question; for an adapter or the base.")
    collection = _select("With the collection", required=False, help_text="Searched for each row, as in chat.")
    dataset_version = _select("Data")
    split = forms.ChoiceField(label="Split", choices=[(name, name) for name in reversed(SPLITS)],
                              widget=forms.Select(attrs=_control("form-select")),
                              help_text="Test for figures to rely on, validation to choose by.")  # fmt: skip
    rows = _number("Rows", initial=DEFAULT_ROWS, most=MOST_ROWS, help_text="The split's first ones; all, if fewer.")
    max_tokens = _number("Longest answer", initial=DEFAULT_TOKENS, most=131_072,
                         help_text="Tokens, where text is written.")  # fmt: skip
    metrics = forms.MultipleChoiceField(
        label="Metrics", required=False, widget=forms.CheckboxSelectMultiple,
        choices=[(metric.name, metric.label) for metric in EVALUATION_METRICS.values()],
        help_text="None ticked: all that fit the data.",
    )  # fmt: skip

    def __init__(self, data: Mapping[str, Any] | None = None, *, team: Team, initial: dict[str, Any] | None = None):
        super().__init__(data, initial=initial)
        targets = choices(team)
        versions = DatasetVersion.objects.for_team(team).filter(dataset__is_archived=False).select_related("dataset")
        self.versions = list(versions.order_by("dataset__name", "-number"))
        asked = str((initial or {}).get("model") or "")
        names = [choice.name for choice in targets if not choice.unserved]
        if asked and asked not in names:
            names.append(asked)
        notes = {choice.name: choice.note for choice in targets}
        self._offer("model", [(name, f"{name} – {notes[name]}" if name in notes else name) for name in names])
        prompts = [name for name in names if name.startswith(PROMPT)]
        self._offer("prompt", [("", "none"), *((name, name.removeprefix(PROMPT)) for name in prompts)])
        collections = Collection.objects.for_team(team).values_list("name", flat=True)
        self._offer("collection", [("", "none"), *((name, name) for name in collections)])
        self._offer("dataset_version", [(str(version.pk), version_label(version)) for version in self.versions])

    def _offer(self, name: str, offered: list[tuple[str, str]]) -> None:
        self.fields[name].choices = offered  # type: ignore[attr-defined]

    @property
    def given(self) -> dict[str, Any]:
        """Arguments of `evaluation_submit`."""
        found = dict(self.cleaned_data)
        pinned = {"dataset_version_id": int(found.pop("dataset_version")), "n_rows": found.pop("rows")}
        return {**found, **pinned}


FIELD_OF = {"rows": "rows", "dataset": "dataset_version", "messages": "prompt", "max_tokens": "max_tokens"}
"""The form's names for the fields that services name."""


class PriceForm(forms.Form):
    """What a million tokens cost."""

    currency = forms.CharField(label="Currency", max_length=3, widget=forms.TextInput(attrs=_control(size="4")),
                               help_text="Three letters.")  # fmt: skip
    tokens_in = forms.FloatField(label="A million tokens read",
                                 widget=forms.NumberInput(attrs=_control(min="0", step="any")))  # fmt: skip
    tokens_out = forms.FloatField(label="A million tokens written",
                                  widget=forms.NumberInput(attrs=_control(min="0", step="any")))  # fmt: skip
