"""Forms of datasets: what a file's columns become, and how a version is made of it. They keep what was typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from ml.errors import SpecError
from ml.specs import TASK_KINDS
from webapp.models import Upload
from webapp.services.mappings import CONVERSATIONS, KNOWN_FORMATS, MAX_TEMPLATE, columns_of, template_check

TASKS = tuple((kind.name, kind.label) for kind in TASK_KINDS.values())
TURNS = (("last", "its last answer, one row a conversation"), ("every", "every answer, each as a row of its own"))


def _text(rows: int, **attributes: str) -> forms.Textarea:
    return forms.Textarea(attrs={"rows": rows, "spellcheck": "false", **attributes})


class MappingForm(forms.Form):
    """`mapping` is what is kept with the upload; unknown placeholders are refused here, before any worker is asked."""

    format = forms.ChoiceField(label="Read as", widget=forms.Select(attrs={"class": "form-select"}))
    task = forms.ChoiceField(label="Answers are", choices=TASKS, widget=forms.Select(attrs={"class": "form-select"}))
    prompt = forms.CharField(
        label="Prompt, what the model reads", required=False, max_length=MAX_TEMPLATE, strip=False, widget=_text(4)
    )
    completion = forms.CharField(
        label="Completion, what it learns to write", required=False, max_length=MAX_TEMPLATE, strip=False,
        widget=_text(1),
    )  # fmt: skip
    system = forms.CharField(
        label="System text, the same for every row", required=False, max_length=MAX_TEMPLATE, strip=False,
        widget=_text(1), help_text="Optional. Costs its tokens in every request.",
    )  # fmt: skip
    turns = forms.ChoiceField(
        label="Of a conversation is learnt", required=False, choices=TURNS,
        widget=forms.Select(attrs={"class": "form-select"}),
    )  # fmt: skip
    column = forms.CharField(required=False, max_length=80, widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, upload: Upload) -> None:
        self.columns = columns_of(upload)
        recognised = upload.report.get("recognised", "columns")
        suggested = upload.report.get("mapping") or {}
        super().__init__(data, initial={"format": "columns", "column": suggested.get("column", ""), **upload.mapping})
        choices = [("columns", "a table of columns")]
        if recognised in KNOWN_FORMATS:
            choices.insert(0, (recognised, KNOWN_FORMATS[recognised]))
        self.has_turns = recognised in CONVERSATIONS
        self.fields["format"].choices = choices

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("format") == "columns":
            for name in ("prompt", "completion"):
                self._check_template(name, given.get(name, ""))
        return given

    def _check_template(self, name: str, template: str) -> None:
        if name in self.errors:
            return
        try:
            template_check(name, template, self.columns)
        except SpecError as error:
            self.add_error(name, f"{error.message} {error.hint}")

    @property
    def template_fields(self) -> list[Any]:
        return [self["prompt"], self["completion"]]

    @property
    def mapping(self) -> dict[str, str]:
        given = self.cleaned_data
        mapping = {"format": given["format"], "task": given["task"]}
        keys = ("prompt", "completion", "system") if given["format"] == "columns" else ("system", "column")
        if given["format"] in CONVERSATIONS and given.get("turns") == "every":
            keys = (*keys, "turns")
        return mapping | {key: given[key] for key in keys if given.get(key, "").strip()}


FILES = ("validation_file", "test_file")


def _by_name(upload: Upload, siblings: Sequence[Upload]) -> dict[str, int]:
    """The files that belong to one called train, by their names."""
    if "train" not in upload.filename.lower():
        return {}
    found: dict[str, int] = {}
    for other in siblings:
        name = other.filename.lower()
        for field, words in (("validation_file", ("valid", "dev")), ("test_file", ("test",))):
            if field not in found and any(word in name for word in words):
                found[field] = other.pk
    return found


class VersionForm(forms.Form):
    """Name, splits and what to leave out."""

    name = forms.CharField(label="Name", max_length=80, widget=forms.TextInput(attrs={
        "class": "form-control cf-mono", "list": "names", "autocomplete": "off", "spellcheck": "false"}))  # fmt: skip
    split = forms.ChoiceField(choices=[("stratified", ""), ("random", ""), ("column", ""), ("files", "")])
    split_column = forms.CharField(required=False, max_length=80)
    validation_file = forms.TypedChoiceField(
        label="Validation rows", required=False, coerce=int, empty_value=None,
        widget=forms.Select(attrs={"class": "form-select"}),
    )  # fmt: skip
    test_file = forms.TypedChoiceField(
        label="Test rows", required=False, coerce=int, empty_value=None,
        widget=forms.Select(attrs={"class": "form-select"}),
    )  # fmt: skip
    validation = forms.FloatField(
        label="Validation", min_value=0, max_value=90, initial=10,
        widget=forms.NumberInput(attrs={"class": "form-control", "step": "any"}),
    )  # fmt: skip
    test = forms.FloatField(
        label="Test", min_value=0, max_value=90, initial=10,
        widget=forms.NumberInput(attrs={"class": "form-control", "step": "any"}),
    )  # fmt: skip
    seed = forms.IntegerField(
        label="Seed", min_value=0, max_value=2**31 - 1, initial=17,
        widget=forms.NumberInput(attrs={"class": "form-control"}),
    )  # fmt: skip
    leave_out = forms.BooleanField(required=False)
    drop_duplicates = forms.BooleanField(required=False)
    drop_leaks = forms.BooleanField(required=False)

    def __init__(self, data: Any = None, *, upload: Upload, siblings: Sequence[Upload] = (), name: str = "") -> None:
        """`siblings`: other files that held-out rows may be in."""
        column = upload.report.get("split_column", "")
        is_labels = upload.mapping.get("task") == "classification"
        guess = _by_name(upload, siblings)
        kind = "files" if guess else "column" if column else "stratified" if is_labels else "random"
        super().__init__(data, initial={"name": name, "split": kind, "split_column": column, **guess})
        self.columns = columns_of(upload)
        self.siblings = siblings
        named = [(other.pk, f"{other.filename}, {other.report['n_rows']:,} rows") for other in siblings]
        for field in FILES:
            self.fields[field].choices = [("", "none"), *named]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("split") == "column" and given.get("split_column") not in self.columns:
            self.add_error("split_column", "Choose the column that says train, validation or test.")
        held_out = [given[field] for field in FILES if given.get(field)]
        if given.get("split") == "files" and len(set(held_out)) != max(1, len(held_out)):
            self.add_error("test_file", "Choose one file for each, or for one of them." if held_out else
                           "Choose the file of the test rows, of the validation rows, or both.")  # fmt: skip
        if given.get("split") in ("stratified", "random") and given.get("validation", 0) + given.get("test", 0) > 90:
            self.add_error(
                "test", "Validation and test may take 90 % together, so that something is left for training."
            )
        return given

    @property
    def splits(self) -> dict[str, Any]:
        given = self.cleaned_data
        if given["split"] == "column":
            return {"kind": "column", "column": given["split_column"]}
        if given["split"] == "files":
            return {"kind": "files", "validation": given["validation_file"], "test": given["test_file"]}
        return {"kind": given["split"], "validation": given["validation"] / 100, "test": given["test"] / 100}
