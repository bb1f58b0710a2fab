"""Forms that bring an adapter in and take one out. They keep what was typed; the services decide."""

from __future__ import annotations

from typing import Any, get_args

from django import forms

from ml.specs import Family
from webapp.models import BaseModel


def _control(kind: str = "form-control", **attributes: str) -> dict[str, str]:
    return {"class": kind, **attributes}


class ImportForm(forms.Form):
    """A zip of a PEFT folder, what it shall be called and which model it is for."""

    file = forms.FileField(label="Zip of the folder", widget=forms.FileInput(attrs=_control(accept=".zip")),
                           help_text="What save_pretrained writes, zipped.")  # fmt: skip
    name = forms.CharField(label="Name", max_length=80,
                           widget=forms.TextInput(attrs=_control("form-control cf-mono", spellcheck="false")),
                           help_text="A name that is there already gets one more version.")  # fmt: skip
    base = forms.ChoiceField(label="Base model", widget=forms.Select(attrs=_control("form-select")),
                             help_text="The one it was trained on: every tensor must fit.")  # fmt: skip
    labels = forms.CharField(label="Labels", required=False, max_length=4000,
                             widget=forms.Textarea(attrs=_control(rows="2")),
                             help_text="One a line, in the order of its outputs; only for encoder models.")  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rows = BaseModel.objects.filter(family__in=get_args(Family)).values_list("name", "family")
        choices = [(name, f"{name} ({family.replace('_', '-')})") for name, family in rows]
        self.fields["base"].choices = choices  # type: ignore[attr-defined]
        self.has_encoders = any(family == "encoder" for _, family in rows)

    @property
    def labels_given(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data.get("labels", "").splitlines() if line.strip()]


class HubForm(forms.Form):
    """Where on the Hub a version goes."""

    repo = forms.CharField(label="Repository", max_length=200,
                           widget=forms.TextInput(attrs=_control("form-control cf-mono", spellcheck="false")),
                           help_text="name or owner/name; made when it is missing.")  # fmt: skip
    merged = forms.BooleanField(label="As one merged model", required=False,
                                widget=forms.CheckboxInput(attrs={"class": "form-check-input"}))  # fmt: skip
    is_public = forms.BooleanField(label="Public", required=False,
                                   widget=forms.CheckboxInput(attrs={"class": "form-check-input"}))  # fmt: skip
