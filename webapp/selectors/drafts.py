"""The team's draft as its review page shows it, and where rows of a version came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Max, QuerySet

from ml.errors import NotFoundError
from webapp.models import DatasetVersion, DraftRow, DraftUse, Run, Team

MAX_ROWS = 5_000
"""Rows that are looked at together for repeats, and that one version may take."""
ANY = "any"


def is_pending(row: DraftRow) -> bool:
    """True while a version is being made of the row."""
    return row.state == DraftRow.State.KEPT and row.run is not None and not row.run.is_over


def draft_of(team: Team) -> QuerySet[DraftRow]:
    return DraftRow.objects.for_team(team).select_related("created_by", "edited_by", "run")


def row_of(team: Team, pk: int) -> DraftRow:
    found = draft_of(team).filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no draft row {pk} in this team.", hint="It may have been taken back in chat.")
    return found


def kept_of(team: Team) -> list[DraftRow]:
    """Rows that the next version may take, in the order in which they were judged."""
    rows = draft_of(team).filter(state=DraftRow.State.KEPT)[:MAX_ROWS]
    return [row for row in rows if not is_pending(row)]


def n_kept(team: Team) -> int:
    return DraftRow.objects.for_team(team).filter(state=DraftRow.State.KEPT).exclude(
        run__in=Run.objects.exclude(state__in=Run.TERMINAL)
    ).count()  # fmt: skip


def without_repeats(rows: Iterable[DraftRow]) -> tuple[list[DraftRow], dict[int, int]]:
    """The rows, each text once; and for every repeat the row that says the same."""
    first: dict[str, int] = {}
    kept, repeats = [], {}
    for row in rows:
        if row.digest in first:
            repeats[row.pk] = first[row.digest]
        else:
            first[row.digest] = row.pk
            kept.append(row)
    return kept, repeats


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A row of the page."""

    row: DraftRow
    is_pending: bool
    is_mine: bool
    """True for the conversation's own maker, who alone may open it."""
    repeats: int
    """The row that says the same; 0 for none."""
    contradicts: int
    """How many other rows answer the same question in other words."""
    stored_in: str
    """A version that holds the same text already."""

    @property
    def n_before(self) -> int:
        return len(self.row.messages) - 1


def shown_rows(team: Team, rows: Sequence[DraftRow], *, user: Any) -> list[Shown]:
    """The rows with what a reviewer should know of each."""
    kept = kept_of(team)
    _, repeats = without_repeats(kept)
    answers = Counter(question for question, _ in {(row.question_digest, row.digest) for row in kept})
    stored = stored_digests(team, [row.digest for row in rows if row.state != DraftRow.State.STORED])
    return [
        Shown(
            row=row, is_pending=is_pending(row), is_mine=row.created_by_id == user.pk,
            repeats=repeats.get(row.pk, 0), stored_in=stored.get(row.digest, ""),
            contradicts=answers[row.question_digest] - 1 if row.state == DraftRow.State.KEPT else 0,
        )
        for row in rows
    ]  # fmt: skip


def stored_digests(team: Team, digests: Sequence[str]) -> dict[str, str]:
    """By digest: the name of a version that holds a draft row with it."""
    uses = DraftUse.objects.for_team(team).filter(row__digest__in=digests)
    return {use.row.digest: str(use.version) for use in uses.select_related("row", "version__dataset")}


def counts_of(team: Team) -> dict[str, int]:
    found = DraftRow.objects.for_team(team).values_list("state").annotate(n=Count("pk"))
    return dict.fromkeys(DraftRow.State.values, 0) | dict(found)


def guess_name(team: Team) -> str:
    """The data set that draft rows last went to."""
    last = DraftUse.objects.for_team(team).aggregate(last=Max("version"))["last"]
    version = DatasetVersion.objects.for_team(team).select_related("dataset").filter(pk=last).first()
    return version.dataset.name if version else "from-chat"


def origins_of(version: DatasetVersion, numbers: Iterable[int] | None = None) -> dict[int, Mapping[str, Any]]:
    """By row number: where rows of a version came from, where that was a chat. Names no conversation's text."""
    uses = DraftUse.objects.filter(version=version).select_related("row__created_by", "row__edited_by")
    if numbers is not None:
        uses = uses.filter(number__in=list(numbers))
    return {
        use.number: {
            **use.row.origin, "kind": use.row.kind,
            "by": use.row.created_by.get_username() if use.row.created_by else "",
            "edited_by": use.row.edited_by.get_username() if use.row.edited_by else "",
        }
        for use in uses
    }  # fmt: skip
