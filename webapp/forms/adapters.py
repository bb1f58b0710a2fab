"""Forms of the team library. They keep what was typed; the services decide."""

from __future__ import annotations

from typing import Any

from django import forms

from webapp.models import Adapter, AdapterVersion


def _control(kind: str = "form-control", **attributes: str) -> dict[str, str]:
    return {"class": kind, **attributes}


class AliasForm(forms.Form):
    """Which version an alias shall point at."""

    version = forms.TypedChoiceField(label="To version", coerce=int, widget=forms.Select(attrs=_control("form-select")))
    name = forms.CharField(label="Alias", max_length=40, initial="production",
                           widget=forms.TextInput(attrs=_control("form-control cf-mono", spellcheck="false")),
                           help_text="production, staging or a name of your own")  # fmt: skip
    reason = forms.CharField(label="Reason", required=False, max_length=500,
                             widget=forms.Textarea(attrs=_control(rows="2", placeholder="is kept in the audit log")),
                             help_text="Needed where the move is held back.")  # fmt: skip

    def __init__(self, *args: Any, versions: list[AdapterVersion], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["version"].choices = [(v.number, f"@{v.number}") for v in versions]  # type: ignore[attr-defined]


class AdapterForm(forms.Form):
    """Name and description."""

    name = forms.CharField(label="Name", max_length=80,
                           widget=forms.TextInput(attrs=_control("form-control cf-mono", spellcheck="false")),
                           help_text="Clients that ask for the old name get 404 from then on.")  # fmt: skip
    description = forms.CharField(label="What it does", required=False, max_length=300,
                                  widget=forms.Textarea(attrs=_control(rows="2")))  # fmt: skip

    @classmethod
    def of(cls, adapter: Adapter) -> AdapterForm:
        return cls(initial={"name": adapter.name, "description": adapter.description})
