"""The prompt editor's form. The services check the content; the form keeps what was typed and shows their words."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.http import QueryDict

from ml.errors import ColdframeError, SpecError
from ml.specs.voting import KINDS
from webapp.models import Collection, DatasetVersion, PromptVersion, Team
from webapp.names import name_check
from webapp.selectors.examples import versions_for_prompts
from webapp.services.prompt_content import MOST_EXAMPLES, content_check

PARTS = ("question", "steps", "answer")
CONTENT = (
    "technique", "system", "template", "fields_typed", "dataset", "pick", "k", "order_seed", "answer_kind", "marker",
    "n_samples", "sample_temperature", "collection", "base_model",
)  # fmt: skip


def pairs_of(data: QueryDict) -> list[dict[str, str]]:
    """The example fields of a post that hold anything, in order; one more than there may be, so that too many are
    told."""
    columns = [data.getlist(f"example_{part}") for part in PARTS]
    n = max(map(len, columns), default=0)
    columns = [[*column, *[""] * (n - len(column))] for column in columns]
    pairs = [dict(zip(PARTS, values, strict=True)) for values in zip(*columns, strict=True)]
    return [pair for pair in pairs if any(text.strip() for text in pair.values())][: MOST_EXAMPLES + 1]


def _text(**attributes: str) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "form-control", **attributes})


class PromptForm(forms.Form):
    """Everything a version holds; the examples lie beside it as repeated fields."""

    name = forms.CharField(label="Name", max_length=80, help_text="letters, digits, - and _; what clients call it by",
                           widget=_text(**{"class": "form-control cf-mono", "spellcheck": "false",
                                           "placeholder": "support-reply"}))  # fmt: skip
    description = forms.CharField(label="What it is for", required=False, max_length=300, widget=_text())
    base = forms.IntegerField(required=False, widget=forms.HiddenInput)
    """The version that the edit began from."""
    technique = forms.ChoiceField(choices=PromptVersion.Technique.choices,
                                  initial=PromptVersion.Technique.ZERO_SHOT.value)  # fmt: skip
    dataset = forms.TypedChoiceField(label="For the data set", required=False, coerce=int, empty_value=None,
                                     widget=forms.Select(attrs={"class": "form-select"}),
                                     help_text="Gives labels, examples and rows to try on.")  # fmt: skip
    fields_typed = forms.CharField(label="Fields", required=False, max_length=400, initial="question",
                                   widget=_text(**{"class": "form-control cf-mono", "spellcheck": "false"}),
                                   help_text="One takes what is typed; several take a JSON object.")  # fmt: skip
    system = forms.CharField(label="System text", required=False, strip=False,
                             help_text="Who the model is and how it answers; may stay empty.",
                             widget=forms.Textarea(attrs={"class": "form-control", "rows": "3"}))  # fmt: skip
    template = forms.CharField(label="Template", strip=False, initial="{question}", widget=forms.Textarea(attrs={
        "rows": "5", "spellcheck": "false", "data-template": "question", "aria-describedby": "id_template_live",
    }))  # fmt: skip
    pick = forms.ChoiceField(choices=PromptVersion.Pick.choices, required=False, initial="fixed")
    k = forms.CharField(label="How many", required=False, max_length=10, initial="4",
                        widget=_text(inputmode="numeric"))  # fmt: skip
    order_seed = forms.CharField(label="Order seed", required=False, max_length=12, initial="17",
                                 widget=_text(inputmode="numeric"),
                                 help_text="The same seed draws the same rows in the same order.")  # fmt: skip
    answer_kind = forms.ChoiceField(label="The answer is", choices=list(KINDS.items()), required=False,
                                    widget=forms.Select(attrs={"class": "form-select"}))  # fmt: skip
    marker = forms.CharField(label="Marker", required=False, max_length=200, initial="Answer:",
                             widget=_text(**{"class": "form-control cf-mono"}),
                             help_text="What comes before is kept, not counted.")  # fmt: skip
    n_samples = forms.CharField(label="Votes", required=False, max_length=10, initial="1",
                                widget=_text(inputmode="numeric"),
                                help_text="Above 1: so many texts in one batch, and their answers vote.")  # fmt: skip
    sample_temperature = forms.CharField(label="Their temperature", required=False, max_length=10, initial="0.7",
                                         widget=_text(inputmode="decimal"))  # fmt: skip
    collection = forms.TypedChoiceField(label="From a collection", required=False, coerce=int, empty_value=None,
                                        widget=forms.Select(attrs={"class": "form-select"}),
                                        help_text="Searched unless the caller names another.")  # fmt: skip
    base_model = forms.ChoiceField(label="On the base model", required=False,
                                   widget=forms.Select(attrs={"class": "form-select"}),
                                   help_text="Unless an adapter beside the prompt brings its own.")  # fmt: skip

    def __init__(self, *args: Any, team: Team, is_new: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pairs: list[dict[str, str]] = pairs_of(self.data) if self.is_bound else self.initial.get("examples", [])
        self.team = team
        chosen = str(self["dataset"].value() or "")
        pk = int(chosen) if chosen.isascii() and chosen.isdigit() and len(chosen) < 12 else None
        self.datasets: list[DatasetVersion] = versions_for_prompts(team, chosen=pk)
        collections = Collection.objects.for_team(team).values_list("pk", "name")
        self._choices("dataset", [("", "none"), *((v.pk, str(v)) for v in self.datasets)])
        self._choices("collection", [("", "none"), *collections])
        self._choices("base_model", self._bases())
        if not is_new:
            del self.fields["name"], self.fields["description"]

    def _choices(self, name: str, choices: list[tuple[Any, str]]) -> None:
        self.fields[name].choices = choices  # type: ignore[attr-defined]

    def _bases(self) -> list[tuple[str, str]]:
        first, *others = settings.BASE_MODELS
        found = [("", f"{first}, the default"), *((name, name) for name in others)]
        now = str(self["base_model"].value() or "")[:120]
        return found if now in dict(found) else [*found, (now, f"{now}, not served")]

    @property
    def has_bases(self) -> bool:
        """Whether there is anything to choose."""
        return len(self._bases()) > 1

    @classmethod
    def of(cls, version: PromptVersion) -> PromptForm:
        """The form of the version after `version`."""
        initial = {
            "base": version.number, "technique": version.technique, "system": version.system,
            "template": version.template, "fields_typed": ", ".join(version.fields),
            "dataset": version.dataset_version_id, "pick": version.pick, "k": version.k or 4,
            "order_seed": 17 if version.order_seed is None else version.order_seed,
            "examples": version.examples if version.pick == "fixed" else [],
            "answer_kind": version.rule.get("kind", ""), "marker": version.rule.get("marker", "Answer:"),
            "n_samples": version.n_samples, "sample_temperature": version.sample_temperature,
            "collection": version.collection_id, "base_model": version.base_name,
        }  # fmt: skip
        return cls(initial=initial, is_new=False, team=version.team)

    def clean_name(self) -> str:
        try:
            return name_check(self.cleaned_data["name"])
        except SpecError as error:
            raise forms.ValidationError(f"{error.message} {error.hint}".strip()) from None

    @property
    def dataset_version(self) -> DatasetVersion | None:
        """The data set that is chosen now, typed or saved."""
        chosen = str(self["dataset"].value() or "")
        return next((version for version in self.datasets if str(version.pk) == chosen), None)

    @property
    def content(self) -> dict[str, Any]:
        """What the services take, once the form is valid."""
        typed = {name: self.cleaned_data.get(name) for name in CONTENT}
        pk, names = typed.pop("collection"), typed.pop("fields_typed")
        return {
            **typed, "fields": names, "dataset": self.dataset_version, "examples": self.pairs,
            "collection": Collection.objects.for_team(self.team).filter(pk=pk).first() if pk else None,
        }  # fmt: skip

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "technique" in cleaned and "template" in cleaned and "dataset" in cleaned and "collection" in cleaned:
            try:
                content_check(**self.content)
            except ColdframeError as error:
                self.refuse(error)
        return cleaned

    def refuse(self, error: ColdframeError) -> None:
        """Puts an error beside the field that it is about."""
        field = {"fields": "fields_typed"}.get(error.field, error.field)
        self.add_error(field if field in self.fields else None, f"{error.message} {error.hint}".strip())

    @property
    def rows(self) -> list[dict[str, str]]:
        """The pairs to show, with an empty one to fill in."""
        return [*self.pairs, dict.fromkeys(PARTS, "")]
