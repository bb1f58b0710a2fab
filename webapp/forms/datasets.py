"""Forms of datasets: what a file's columns become, and how a version is made of it. They keep what was typed."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from ml.specs import TASK_KINDS
from webapp.models import Upload

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,80})\}")
KNOWN_FORMATS = {
    "messages": "OpenAI messages",
    "sharegpt": "ShareGPT",
    "alpaca": "Alpaca",
    "prompt_completion": "prompt and completion",
    "preference": "preference pairs: the chosen answer",
    "squad": "questions on passages (SQuAD)",
    "text": "texts without a question",
}
CONVERSATIONS = ("messages", "sharegpt")
TASKS = tuple((kind.name, kind.label) for kind in TASK_KINDS.values())
TURNS = (("last", "its last answer, one row a conversation"), ("every", "every answer, each as a row of its own"))
MAX_TEMPLATE = 20_000


def _text(rows: int, **attributes: str) -> forms.Textarea:
    return forms.Textarea(attrs={"rows": rows, "spellcheck": "false", **attributes})


def columns_of(upload: Upload) -> list[str]:
    return [column["name"] for column in upload.report.get("columns", [])]


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
        known = ", ".join("{" + column + "}" for column in self.columns[:12])
        if name == "completion" and template.strip() in self.columns:
            return
        used = [found for found in PLACEHOLDER.findall(template) if found]
        unknown = [found for found in used if found not in self.columns]
        if unknown:
            self.add_error(name, f"There is no column {{{unknown[0]}}}. Known here: {known}.")
        elif not used:
            self.add_error(name, f"Name at least one column, for example {known.split(', ')[0]}.")

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


class VersionForm(forms.Form):
    """Name, splits and what to leave out."""

    name = forms.CharField(label="Name", max_length=80, widget=forms.TextInput(attrs={
        "class": "form-control cf-mono", "list": "names", "autocomplete": "off", "spellcheck": "false"}))  # fmt: skip
    split = forms.ChoiceField(choices=[("stratified", ""), ("random", ""), ("column", "")])
    split_column = forms.CharField(required=False, max_length=80)
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

    def __init__(self, data: Any = None, *, upload: Upload, name: str = "") -> None:
        column = upload.report.get("split_column", "")
        is_labels = upload.mapping.get("task") == "classification"
        kind = "column" if column else "stratified" if is_labels else "random"
        super().__init__(data, initial={"name": name, "split": kind, "split_column": column})
        self.columns = columns_of(upload)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("split") == "column" and given.get("split_column") not in self.columns:
            self.add_error("split_column", "Choose the column that says train, validation or test.")
        if given.get("split") != "column" and given.get("validation", 0) + given.get("test", 0) > 90:
            self.add_error(
                "test", "Validation and test may take 90 % together, so that something is left for training."
            )
        return given

    @property
    def splits(self) -> dict[str, Any]:
        given = self.cleaned_data
        if given["split"] == "column":
            return {"kind": "column", "column": given["split_column"]}
        return {"kind": given["split"], "validation": given["validation"] / 100, "test": given["test"] / 100}
