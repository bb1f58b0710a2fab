"""The prompt editor's form. The services check the content; the form keeps what was typed and shows their words."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import QueryDict

from ml.errors import SpecError
from webapp.models import PromptVersion
from webapp.names import name_check
from webapp.services.prompts import MOST_EXAMPLES, content_check


def pairs_of(data: QueryDict) -> list[dict[str, str]]:
    """The example fields of a post, in order; one more than there may be, so that too many are told."""
    questions, answers = data.getlist("example_question"), data.getlist("example_answer")
    pairs = zip(questions, answers, strict=False)
    return [{"question": q, "answer": a} for q, a in pairs][: MOST_EXAMPLES + 1]


class PromptForm(forms.Form):
    """Technique, system text, template; the examples lie beside it as repeated fields."""

    name = forms.CharField(label="Name", max_length=80, help_text="letters, digits, - and _; typed as prompt:name",
                           widget=forms.TextInput(attrs={"class": "form-control cf-mono", "spellcheck": "false",
                                                         "placeholder": "support-reply"}))  # fmt: skip
    description = forms.CharField(label="What it is for", required=False, max_length=300,
                                  widget=forms.TextInput(attrs={"class": "form-control"}))  # fmt: skip
    technique = forms.ChoiceField(choices=PromptVersion.Technique.choices,
                                  initial=PromptVersion.Technique.ZERO_SHOT.value)  # fmt: skip
    system = forms.CharField(label="System text", required=False, strip=False,
                             help_text="Who the model is and how it answers; may stay empty.",
                             widget=forms.Textarea(attrs={"class": "form-control", "rows": "3"}))  # fmt: skip
    template = forms.CharField(label="Template", strip=False, initial="{question}", widget=forms.Textarea(attrs={
        "rows": "5", "spellcheck": "false", "data-template": "question", "aria-describedby": "id_template_live",
    }))  # fmt: skip

    def __init__(self, *args: Any, is_new: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pairs: list[dict[str, str]] = pairs_of(self.data) if self.is_bound else self.initial.get("examples", [])
        if not is_new:
            del self.fields["name"], self.fields["description"]

    @classmethod
    def of(cls, version: PromptVersion) -> PromptForm:
        """The form of the version after `version`."""
        content = {key: getattr(version, key) for key in ("technique", "system", "template", "examples")}
        return cls(initial=content, is_new=False)

    def clean_name(self) -> str:
        try:
            return name_check(self.cleaned_data["name"])
        except SpecError as error:
            raise forms.ValidationError(f"{error.message} {error.hint}".strip()) from None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "technique" in cleaned and "template" in cleaned:
            try:
                content = content_check(
                    technique=cleaned["technique"], template=cleaned["template"], system=cleaned.get("system", ""),
                    examples=self.pairs,
                )  # fmt: skip
            except SpecError as error:
                self.refuse(error)
            else:
                cleaned.update(content)
        return cleaned

    def refuse(self, error: SpecError) -> None:
        """Puts an error beside the field that it is about."""
        self.add_error(error.field if error.field in self.fields else None, f"{error.message} {error.hint}".strip())

    @property
    def rows(self) -> list[dict[str, str]]:
        """The pairs to show, with an empty one to fill in."""
        return [*self.pairs, {"question": "", "answer": ""}]
