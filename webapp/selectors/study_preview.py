"""A study that is about to be asked for, in words and as an API call: what the page says before anything is planned.

Time and memory are not known here (an engine plans them). Nothing raises: what is not typed yet is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ml.specs.study import TECHNIQUES, Technique
from webapp.forms.studies import BUDGET, CHOSEN, StudyForm
from webapp.models import DatasetVersion
from webapp.selectors.studies import Choice
from webapp.selectors.study_cells import planned_cells
from webapp.selectors.study_power import points_apart


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A technique with the number of cells it will have."""

    technique: Technique
    n_cells: int


@dataclass(frozen=True, kw_only=True)
class StudyPreview:
    version: DatasetVersion | None
    asked: list[Asked]
    cannot: list[Choice]
    """Techniques that this data or model cannot have; those that were not ticked are not named."""
    n_cells: int
    n_train: int
    n_valid: int
    n_test: int
    """Rows of each kind that will be used."""
    points: float | None
    """The difference that the test rows show with 80 % power, as a share of 1."""
    budget_s: float | None
    """0: no limit; None: not a time yet."""
    problems: list[str] = field(default_factory=list)
    curl: str = ""


def preview_of(form: StudyForm, *, origin: str) -> StudyPreview:
    """Of a bound form, valid or not."""
    form.is_valid()
    given, version = form.given, form.version
    techniques = [TECHNIQUES[name] for name in given.get("techniques") or []]
    counts = Counter(technique.name for technique, _, _ in planned_cells(given))
    rows = {kind: _rows(form, kind, split) for kind, split in
            (("train", "train"), ("valid", "validation"), ("test", "test"))}  # fmt: skip
    wants_all = form.mode != CHOSEN
    return StudyPreview(
        version=version, asked=[Asked(technique=one, n_cells=counts[one.name]) for one in techniques],
        cannot=[choice for choice in form.choices if choice.reason and (wants_all or choice.is_there)],
        n_cells=sum(counts.values()), n_train=rows["train"], n_valid=rows["valid"], n_test=rows["test"],
        points=points_apart(rows["test"]), budget_s=given.get(BUDGET),
        problems=[_named(form, name, text) for name, texts in form.errors.items() for text in texts],
        curl=_curl(form, origin),
    )  # fmt: skip


def _rows(form: StudyForm, kind: str, split: str) -> int:
    there = int((form.version.splits if form.version else {}).get(split) or 0)
    most = int(form.given.get(f"{kind}_rows") or 0)
    return min(there, most) if most else there


def _named(form: StudyForm, name: str, text: str) -> str:
    label = str(form.fields[name].label) if name in form.fields else ""
    return text if not label or text.startswith(label) else f"{label}: {text}"


def _curl(form: StudyForm, origin: str) -> str:
    given: dict[str, Any] = {name: value for name, value in form.given.items() if value not in ("", [], None)}
    name = str(form["name"].value() or "").strip()
    body = {"dataset": str(form.version) if form.version else "", **({"name": name} if name else {}), **given}
    text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return (
        f"curl {origin}/v1/studies \\\n"
        '  -H "Authorization: Bearer $COLDFRAME_TOKEN" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d '{text}'"
    )
