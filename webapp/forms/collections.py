"""Forms of collections. They keep what was typed; the services decide what is allowed."""

from __future__ import annotations

from typing import Any

from django import forms

from webapp.document_files import ENDINGS
from webapp.models import Collection
from webapp.services.collections import MAX_CHUNK, MAX_TOP_K, MIN_CHUNK


def _control(kind: str = "form-control", **attributes: str) -> dict[str, str]:
    return {"class": kind, **attributes}


def _number(**attributes: str) -> forms.NumberInput:
    return forms.NumberInput(attrs=_control(inputmode="numeric", **attributes))


class FilesInput(forms.ClearableFileInput):
    allow_multiple_selected = True


class FilesField(forms.FileField):
    """Any number of files; `cleaned_data` holds a list. What is in them is checked by the service."""

    def __init__(self, **kwargs: Any) -> None:
        widget = FilesInput(attrs={"accept": ",".join(ENDINGS)})
        super().__init__(widget=widget, allow_empty_file=True, **kwargs)

    def clean(self, data: Any, initial: Any = None) -> list[Any]:
        given = data if isinstance(data, list | tuple) else [data] if data else []
        if not given and self.required:
            raise forms.ValidationError("Choose one or more files.", code="required")
        return [super(FilesField, self).clean(one, initial) for one in given]


class UploadForm(forms.Form):
    """Documents for a collection, or one new version of a document."""

    files = FilesField(label="Documents")


class CollectionForm(forms.Form):
    """A new collection, with its first documents if there are any."""

    name = forms.CharField(
        label="Name", max_length=80, help_text="Lower case letters, digits and dashes.",
        widget=forms.TextInput(attrs=_control("form-control cf-mono", placeholder="lease-forms", spellcheck="false")),
    )  # fmt: skip
    description = forms.CharField(
        label="What is in it", max_length=300, required=False, widget=forms.TextInput(attrs=_control())
    )
    files = FilesField(label="Documents", required=False)


class SettingsForm(forms.Form):
    """How documents are cut, how many chunks an answer gets, what is said when none is near enough."""

    chunk_size = forms.IntegerField(
        label="Chunk", min_value=MIN_CHUNK, max_value=MAX_CHUNK, widget=_number(data_unit="tokens")
    )
    chunk_overlap = forms.IntegerField(label="Overlap", min_value=0, widget=_number(data_unit="tokens"))
    top_k = forms.IntegerField(
        label="Chunks per answer", min_value=1, max_value=MAX_TOP_K, widget=_number(),
        help_text="Fewer leave a small model more room.",
    )  # fmt: skip
    threshold = forms.FloatField(
        label="Evidence threshold", min_value=0, max_value=1,
        widget=forms.NumberInput(attrs=_control(step="0.01", inputmode="decimal")),
        help_text="Cosine similarity below which a chunk is no evidence.",
    )  # fmt: skip
    refusal = forms.CharField(
        label="When nothing passes, say", max_length=300, widget=forms.Textarea(attrs=_control(rows="2"))
    )
    description = forms.CharField(
        label="What is in it", max_length=300, required=False, widget=forms.TextInput(attrs=_control())
    )

    @classmethod
    def of(cls, collection: Collection) -> SettingsForm:
        return cls(initial={name: getattr(collection, name) for name in cls.base_fields})


class SearchForm(forms.Form):
    """A question for the retrieval test."""

    question = forms.CharField(
        max_length=2000,
        widget=forms.TextInput(attrs=_control("form-control cf-grow", type="search", placeholder="Ask the documents")),
    )
