"""An evaluation's answered rows for a page: narrowed by the index, their texts read where the index says.

The results lie in the storage; a page of 25 reads 25 lines. Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import Q, QuerySet

from webapp import storage
from webapp.models import Evaluation, EvaluationRow
from webapp.selectors.dataset_rows import common_beginning

ROWS_A_PAGE = 25
SHOWN_CHARACTERS = 1200
FILTERS = {"": "All rows", "wrong": "Wrong", "right": "Right", "error": "Not answered"}


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """One row with its texts, shortened for a page."""

    index: EvaluationRow
    question: str
    expected: str
    got: str
    text: str
    error: str
    confidence: float | None = None
    other_got: str = ""
    other_is_right: bool | None = None
    others: str = ""
    """Further answers that count as right."""


@dataclass(frozen=True, kw_only=True)
class RowsPage:
    page: Page
    rows: list[AnsweredRow]
    kept: dict[str, str]

    def __iter__(self) -> Any:
        return iter(self.rows)


def every_line(evaluation: Evaluation) -> Iterator[str]:
    with (storage.path_of(evaluation.storage_key) / "results.jsonl").open(encoding="utf-8") as file:
        yield from file


def lines_of(evaluation: Evaluation, rows: Iterable[EvaluationRow]) -> list[dict[str, Any]]:
    path = storage.path_of(evaluation.storage_key) / "results.jsonl"
    found = []
    with path.open("rb") as file:
        for row in rows:
            file.seek(row.offset)
            found.append(json.loads(file.read(row.n_bytes)))
    return found


def without_shared(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines with the beginning that their questions share, a data set's framing mostly, taken off."""
    n_shared = common_beginning([str(line["question"]) for line in lines])
    return [{**line, "question": "… " + line["question"][n_shared:]} for line in lines] if n_shared else lines


def answered_row(index: EvaluationRow, line: Mapping[str, Any], **other: Any) -> AnsweredRow:
    def short(name: str) -> str:
        text = str(line.get(name) or "")
        return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …"

    return AnsweredRow(
        index=index, question=short("question"), expected=short("expected"), got=short("got"), text=short("text"),
        others=" · ".join(line.get("answers", [])[1:])[:SHOWN_CHARACTERS],
        error=(line.get("error") or {}).get("message", ""), confidence=_confidence(line.get("scores")), **other,
    )  # fmt: skip


def _confidence(scores: Any) -> float | None:
    """Probability of the likeliest label among all labels."""
    if not isinstance(scores, list) or not scores:
        return None
    best = max(scores)
    return 1 / sum(exp(score - best) for score in scores)


def narrowed(evaluation: Evaluation, given: Mapping[str, str]) -> tuple[QuerySet[EvaluationRow], dict[str, str]]:
    """The rows that filters leave, and the filters that were understood: show, expected, got (places of labels)."""
    rows, kept = evaluation.rows.all(), {}
    show = given.get("show", "")
    conditions = {"wrong": Q(is_right=False), "right": Q(is_right=True), "error": Q(is_error=True)}
    if show in conditions:
        rows, kept["show"] = rows.filter(conditions[show]), show
    for name in ("expected", "got"):
        value = given.get(name, "")
        if value.lstrip("-").isdecimal() and len(value) < 6:
            rows, kept[name] = rows.filter(**{f"{name}_at": int(value)}), value
    return rows, kept


def rows_page(evaluation: Evaluation, given: Mapping[str, str]) -> RowsPage:
    rows, kept = narrowed(evaluation, given)
    page = Paginator(rows, ROWS_A_PAGE).get_page(given.get("page"))
    lines = without_shared(lines_of(evaluation, page.object_list))
    shown = [answered_row(index, line) for index, line in zip(page.object_list, lines, strict=True)]
    return RowsPage(page=page, rows=shown, kept=kept)
