"""A study's answered rows where two cells disagree, and its reports, read from what was published.

The rows of a cell are one file of at most `MOST_TEST_ROWS` lines; two are read beside each other as streams, and one
page of texts is kept. Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from ml.errors import NotFoundError
from webapp import storage
from webapp.models import Study, StudyEntry
from webapp.selectors.dataset_rows import common_beginning

ROWS_A_PAGE = 25
SHOWN_CHARACTERS = 1200
SHOWS = {"a": "Only the first is right", "b": "Only the second is right", "both": "Both are wrong"}
REPORTS = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8", "csv": "text/csv; charset=utf-8"}
"""The reports by the ending of their file's name, with their content types."""


@dataclass(frozen=True, kw_only=True)
class DisagreedRow:
    """One test row with both answers, texts shortened for a page."""

    place: int
    row: int
    """Its number in the person's own file."""
    question: str
    expected: str
    got_a: str
    got_b: str
    is_right_a: bool
    is_right_b: bool
    text_a: str = ""
    """The whole text, where the answer was found in a longer one."""
    text_b: str = ""


@dataclass(frozen=True, kw_only=True)
class Disagreements:
    """One page of the rows where a is right and b is wrong, or as `show` says."""

    a: StudyEntry
    b: StudyEntry
    show: str
    """A key of SHOWS."""
    counts: Mapping[str, int]
    """Rows by key of SHOWS, and `total`."""
    rows: list[DisagreedRow]
    page: int
    n_pages: int

    def __iter__(self) -> Iterator[DisagreedRow]:
        return iter(self.rows)

    @property
    def has_more(self) -> bool:
        return self.page < self.n_pages


def disagreements(*, study: Study, a: str, b: str, given: Mapping[str, str]) -> Disagreements:
    """`a` and `b` are keys of measured cells; `given` has show and page. Raises NotFoundError."""
    first, second = _measured(study, a), _measured(study, b)
    show = given.get("show", "a") if given.get("show", "a") in SHOWS else "a"
    wanted = given.get("page", "")
    page = max(1, int(wanted)) if wanted.isdecimal() and len(wanted) < 7 else 1
    counts, rows = dict.fromkeys([*SHOWS, "total"], 0), []
    for left, right in _pairs(study, first, second):
        counts["total"] += 1
        kind = _kind(left, right)
        if not kind:
            continue
        if kind == show and (page - 1) * ROWS_A_PAGE <= counts[kind] < page * ROWS_A_PAGE:
            rows.append(_row(left, right))
        counts[kind] += 1
    return Disagreements(
        a=first, b=second, show=show, counts=counts, rows=_without_shared(rows), page=page,
        n_pages=max(1, ceil(counts[show] / ROWS_A_PAGE)),
    )  # fmt: skip


def _measured(study: Study, key: str) -> StudyEntry:
    found = study.entries.filter(key=key, state="done").first()
    if found is None or not study.is_done:
        raise NotFoundError(f"This study has no measured rows of {key[:80]!r}.", hint="Choose two that are done.")
    return found


def lines_of(study: Study, key: str) -> Iterator[dict[str, Any]]:
    """The answered rows of a cell, in the order of their places."""
    path = storage.path_of(study.storage_key) / "rows" / f"{storage.check_key(key)}.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except FileNotFoundError as error:
        raise NotFoundError(f"The rows of {key} are gone from the storage.", hint="Extend the study.") from error


def _pairs(study: Study, a: StudyEntry, b: StudyEntry) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows that both answered. Both files have the test rows in their order; one may miss some."""
    theirs = lines_of(study, b.key)
    other = next(theirs, None)
    for mine in lines_of(study, a.key):
        while other is not None and other["place"] < mine["place"]:
            other = next(theirs, None)
        if other is not None and other["place"] == mine["place"]:
            yield mine, other


def _kind(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    if a["is_right"] != b["is_right"]:
        return "a" if a["is_right"] else "b"
    return "" if a["is_right"] else "both"


def _short(line: Mapping[str, Any], name: str) -> str:
    text = str(line.get(name) or "")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …"


def _row(a: Mapping[str, Any], b: Mapping[str, Any]) -> DisagreedRow:
    return DisagreedRow(
        place=a["place"], row=a["row"], question=_short(a, "question"), expected=_short(a, "expected"),
        got_a=_short(a, "got"), got_b=_short(b, "got"), is_right_a=a["is_right"], is_right_b=b["is_right"],
        text_a=_short(a, "text"), text_b=_short(b, "text"),
    )  # fmt: skip


def _without_shared(rows: list[DisagreedRow]) -> list[DisagreedRow]:
    """The rows with the beginning that their questions share, a data set's framing mostly, taken off."""
    n_shared = common_beginning([row.question for row in rows])
    if not n_shared:
        return rows
    return [DisagreedRow(**{**vars(row), "question": "… " + row.question[n_shared:]}) for row in rows]


def report_of(study: Study, ending: str) -> tuple[Path, str]:
    """A report's path and the name that it is downloaded by. Raises NotFoundError."""
    if ending not in REPORTS:
        raise NotFoundError(f"There is no report as {ending[:20]!r}.", hint=f"There is: {', '.join(REPORTS)}.")
    if not study.is_done:
        raise NotFoundError("This study has no report yet.", hint="Wait until its run is done.")
    path = storage.path_of(study.storage_key) / f"report.{ending}"
    if not path.is_file():
        raise NotFoundError(f"The report of {study} is not there as {ending}.", hint="It was stopped before its end.")
    return path, f"study-{study.pk}.{ending}"
