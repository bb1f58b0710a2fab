"""Forms of what can be done with a study: add to it, put an entry into the library. The services decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms

from ml.errors import SpecError
from webapp.forms.studies import BUDGET, ChoiceGroup, _several, _text, add_problem, choice_groups, collection_field
from webapp.forms.study_fields import DURATION_HINT, duration_text, seconds_of, seeds_of, shares_of
from webapp.models import Study
from webapp.selectors.studies import Choice
from webapp.selectors.study_cells import CellView
from webapp.services.aliases import PRODUCTION


class ExtendForm(forms.Form):
    """After `is_valid`, `given` are arguments of `study_extend`."""

    def __init__(
        self, data: Mapping[str, Any] | None = None, *, study: Study, choices: Sequence[Choice],
        collections: Sequence[str],
    ):  # fmt: skip
        super().__init__(data)
        self.choices = [choice for choice in choices if not choice.is_there]
        self.there = [choice.technique.label for choice in choices if choice.is_there]
        self.given: dict[str, Any] = {}
        self.fields["techniques"] = _several("Techniques")
        self.fields["seeds"] = _text("More seeds", help_text="Besides those it has; empty for none.")
        self.fields["shares"] = _text("More shares of the rows", help_text="For the data-size curve, e.g. 10 %, 30 %.")
        if collections and not study.spec.get("collection"):
            self.fields["collection"] = collection_field(collections)
        self.fields["budget"] = _text("Budget of this run", help_text=DURATION_HINT)
        self.fields["budget"].initial = duration_text(float(study.spec.get(BUDGET) or 0))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name, read in (("seeds", seeds_of), ("shares", shares_of), ("budget", seconds_of)):
            try:
                self.given[name] = read(str(cleaned.get(name) or ""))
            except SpecError as error:
                add_problem(self, error)
        self.given[BUDGET] = self.given.pop("budget", None)
        self.given["techniques"] = list(cleaned.get("techniques") or [])
        self.given["collection"] = cleaned.get("collection") or ""
        return cleaned

    @property
    def ticked(self) -> list[str]:
        return list(self["techniques"].value() or [])

    @property
    def groups(self) -> list[ChoiceGroup]:
        return choice_groups(self.choices)


def cell_label(cell: CellView) -> str:
    """`LoRA, seed 17 – 97.3 %, adapter`."""
    figure = f" – {100 * cell.measure.value:.1f} %" if cell.measure else ""
    known = (cell.entry.adapter_version or cell.entry.prompt_version) if cell.entry else None
    kind = "adapter" if cell.kind == "trained" else "prompt"
    return f"{cell.label}, seed {cell.seed}{figure}, {f'in the library as {known}' if known else kind}"


class PromoteForm(forms.Form):
    """Which entry becomes a version of what, and which alias points at it."""

    entry = forms.ChoiceField(label="Entry", widget=forms.Select(attrs={"class": "form-select"}))
    name = forms.CharField(
        label="Name", required=False, max_length=80, help_text="A name that is there already gets its next version.",
        widget=forms.TextInput(attrs={"class": "form-control cf-mono", "autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    alias = forms.CharField(
        label="Alias", required=False, max_length=40, initial=PRODUCTION,
        help_text="Points at it from then on; empty moves none.",
        widget=forms.TextInput(attrs={"class": "form-control cf-mono", "autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    reason = forms.CharField(
        label="Reason", required=False, max_length=500, help_text="Needed where the move is held back.",
        widget=forms.Textarea(attrs={"class": "form-control", "rows": "2", "placeholder": "is kept in the audit log"}),
    )  # fmt: skip

    def __init__(
        self, data: Mapping[str, Any] | None = None, *, cells: Sequence[CellView], initial: dict[str, Any] | None = None
    ):
        super().__init__(data, initial=initial)
        self.fields["entry"].choices = [(cell.key, cell_label(cell)) for cell in cells]  # type: ignore[attr-defined]
