"""Reads of studies: the list, and one study's page with its matrix, board, plan and what can be done with it.

`StudyRow` is a line of the list, `StudyPage` all that a page shows. While a run goes on both are made of its newest
`cell` and `board` events, afterwards of what was published. Rows where two techniques disagree, and the reports:
selectors/study_rows.py. What adapters reached outside of studies: selectors/same_rows.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Max, QuerySet

from ml.errors import NotFoundError
from ml.specs.study import TECHNIQUES, Technique, why_not_studied
from webapp.models import BaseModel, Collection, DatasetVersion, Run, RunEvent, Study, StudyEntry, Team
from webapp.selectors.runs import waiting_text
from webapp.selectors.study_boards import Board, BoardEntry, board_of
from webapp.selectors.study_cells import (
    AT_WORK,
    CellView,
    MatrixRow,
    cells_of,
    events_of,
    live_events,
    matrix_of,
)


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a study stands, in one word, and the class suffix of `cf-state-…`."""

    name: str
    """waiting, running, stopping, publishing, done, stopped, failed."""
    label: str
    tone: str


STATES = {
    state.name: state
    for state in (
        State(name="waiting", label="waits", tone="wait"),
        State(name="running", label="filling in", tone="running"),
        State(name="stopping", label="stopping", tone="running"),
        State(name="publishing", label="publishing", tone="running"),
        State(name="done", label="done", tone="done"),
        State(name="stopped", label="stopped", tone="old"),
        State(name="failed", label="failed", tone="failed"),
    )
}
_BY_RUN = {
    Run.State.QUEUED: "waiting", Run.State.LEASED: "running", Run.State.RUNNING: "running",
    Run.State.PUBLISHING: "publishing", Run.State.SUCCEEDED: "done", Run.State.CANCELLED: "stopped",
    Run.State.FAILED: "failed",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Cells by what became of them."""

    done: int
    failed: int
    left_out: int
    at_work: int
    waiting: int

    @property
    def total(self) -> int:
        return self.done + self.failed + self.left_out + self.at_work + self.waiting

    @property
    def over(self) -> int:
        return self.done + self.failed + self.left_out


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A study in the list."""

    study: Study
    state: State
    counts: Counts
    said: str
    """What can be said: the first finding's sentence, "" while there is none."""
    why: str
    """The same finding's text."""
    best: BoardEntry | None
    """The best so far, with its measure."""
    metric_label: str
    device_s: float
    """Device time that its cells took."""
    budget_s: float
    """0: no limit."""


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """Everything that one study's page shows."""

    study: Study
    run: Run | None
    state: State
    counts: Counts
    eta_s: float | None
    text: str
    """What the run does just now, or why it waits."""
    error: Mapping[str, Any] | None
    """Why the run failed: message and hint."""
    board: Board | None
    is_live: bool
    """A run is waiting or at work: ask again, and the board is the newest so far."""
    matrix: list[MatrixRow]
    plan: Mapping[str, Any]
    """The newest `plan` event, else what the study was started with."""
    newer: DatasetVersion | None
    """A newer version of the same data set; the study stays on its own."""
    device_s: float
    budget_s: float
    can_extend: bool
    can_stop: bool
    can_go_on: bool
    last_event: int
    """Id of the run's newest event: unchanged, nothing new is to be shown."""

    @property
    def cells(self) -> list[CellView]:
        return [cell for row in self.matrix for cell in row.every]

    @property
    def promotable(self) -> list[CellView]:
        return [cell for cell in self.cells if cell.can_be_promoted]


def studies_of(team: Team, *, archived: bool = False) -> QuerySet[Study]:
    """For webapp.listing: search in name, base_name, dataset_version__dataset__name."""
    return Study.objects.for_team(team).filter(is_archived=archived).select_related(
        "run", "dataset_version__dataset", "created_by", "team", "collection"
    )  # fmt: skip


def study_of(*, team: Team, pk: int) -> Study:
    """The team's study, archived or not. Raises NotFoundError."""
    rows = Study.objects.for_team(team).select_related(
        "run", "dataset_version__dataset", "created_by", "team", "collection"
    )
    found = rows.filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no study {pk} in this team.", hint="Look at the list of studies.")
    return found


def entry_of(*, study: Study, key: str) -> StudyEntry:
    """A published cell. Raises NotFoundError."""
    found = study.entries.select_related("adapter_version__adapter", "prompt_version__prompt").filter(key=key).first()
    if found is None:
        raise NotFoundError(f"This study has no result {key[:80]!r}.", hint="It may still be measured.")
    return found


def state_of(study: Study) -> State:
    run = study.run
    if run is None:
        return STATES["done" if study.is_done else "stopped"]
    if run.is_cancel_requested and run.state in (Run.State.LEASED, Run.State.RUNNING):
        return STATES["stopping"]
    return STATES[_BY_RUN[Run.State(run.state)]]


def counts_of(cells: Iterable[CellView]) -> Counts:
    found = Counter("at_work" if cell.state in AT_WORK else cell.state for cell in cells)
    return Counts(**{name: found[name] for name in ("done", "failed", "left_out", "at_work", "waiting")})


def _boards_of(studies: Sequence[Study]) -> dict[int, Board | None]:
    """By study: the newest board of a run that has not published, else the published one."""
    runs = [study.run_id for study in studies if study.run and study.run.state != Run.State.SUCCEEDED]
    # A board is large and there is one after every few cells: only the newest of each run is read.
    last = RunEvent.objects.filter(run_id__in=runs, name="board").values("run_id").annotate(last=Max("pk"))
    newest = dict(RunEvent.objects.filter(pk__in=last.values("last")).values_list("run_id", "data"))
    return {study.pk: board_of(newest.get(study.run_id) or study.board) for study in studies}


def rows_of(studies: Sequence[Study]) -> list[StudyRow]:
    """A page of the list, in four queries."""
    boards = _boards_of(studies)
    events = events_of(study.run_id for study in studies if study.run_id)
    entries: dict[int, list[StudyEntry]] = {}
    for entry in StudyEntry.objects.filter(study__in=studies):
        entries.setdefault(entry.study_id, []).append(entry)
    rows = []
    for study in studies:
        board = boards[study.pk]
        cells = cells_of(study, entries.get(study.pk, []), live_events(study, events))
        rows.append(_row(study, board, cells))
    return rows


def _row(study: Study, board: Board | None, cells: list[CellView]) -> StudyRow:
    return StudyRow(
        study=study, state=state_of(study), counts=counts_of(cells), said=board.said if board else "",
        why=board.findings[0].text if board and board.findings else "",
        best=board.best if board else None, metric_label=board.label if board else "", device_s=_device_s(cells),
        budget_s=float(study.spec.get("budget_s") or 0),
    )  # fmt: skip


def _device_s(cells: Iterable[CellView]) -> float:
    return sum(cell.seconds or 0 for cell in cells)


def newer_version(study: Study) -> DatasetVersion | None:
    """The newest version of its data set, where that is not the study's own."""
    own = study.dataset_version
    return own.dataset.versions.select_related("dataset").filter(number__gt=own.number).order_by("-number").first()


def page_of(study: Study) -> StudyPage:
    """The study as read by study_of."""
    run = study.run
    entries = study.entries.select_related("adapter_version__adapter", "prompt_version__prompt")
    events = live_events(study, events_of([run.pk])) if run else {}
    cells = cells_of(study, entries, events)
    is_live = run is not None and not run.is_over
    is_over_badly = run is not None and run.state in (Run.State.FAILED, Run.State.CANCELLED)
    progress = run.progress if run and is_live else {}
    return StudyPage(
        study=study, run=run, state=state_of(study), counts=counts_of(cells), eta_s=progress.get("eta_s"),
        text=_text(run), error=run.error if run and run.state == Run.State.FAILED else None,
        board=_boards_of([study])[study.pk], is_live=is_live, matrix=matrix_of(study, cells), plan=_plan(study),
        newer=newer_version(study), device_s=_device_s(cells), budget_s=float(study.spec.get("budget_s") or 0),
        can_extend=not is_live, can_go_on=is_over_badly,
        can_stop=run is not None and run.state in (Run.State.QUEUED, Run.State.LEASED, Run.State.RUNNING)
        and not run.is_cancel_requested,
        last_event=_last_event(run),
    )  # fmt: skip


def _text(run: Run | None) -> str:
    if run is None:
        return ""
    return waiting_text(run) if run.state == Run.State.QUEUED else str(run.progress.get("text") or "")


def _plan(study: Study) -> Mapping[str, Any]:
    rows = RunEvent.objects.filter(run_id=study.run_id, name="plan").order_by("-pk")
    found = rows.values_list("data", flat=True).first() if study.run_id else None
    return found or study.planned


def _last_event(run: Run | None) -> int:
    return (run.events.order_by("-pk").values_list("pk", flat=True).first() or 0) if run else 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A technique that a study may be asked for."""

    technique: Technique
    reason: str
    """Why it cannot be; "" where it can."""
    is_there: bool = False
    """The study has it already."""


NO_COLLECTION = "It searches a collection: choose one."


def techniques_for(
    *, task: str, family: str, has_collection: bool = True, chosen: Sequence[str] = ()
) -> list[Choice]:  # fmt: skip
    """Every technique, in the table's order."""

    def reason(one: Technique) -> str:
        found = why_not_studied(one.name, task=task, family=family)
        return found or (NO_COLLECTION if one.needs_collection and not has_collection else "")

    return [Choice(technique=one, reason=reason(one), is_there=one.name in chosen) for one in TECHNIQUES.values()]


def techniques_to_add(study: Study) -> list[Choice]:
    """What an extension may add, and what is there already."""
    family = BaseModel.objects.filter(name=study.base_name).values_list("family", flat=True).first() or "decoder"
    chosen = study.spec.get("techniques") or []
    return techniques_for(task=study.dataset_version.task, family=family, chosen=chosen,
                          has_collection=bool(offered_to(study)))  # fmt: skip


def offered_to(study: Study) -> list[str]:
    """Names of the collections that its retrieval may search: its own, else any of the team's."""
    known = study.spec.get("collection")
    return [known] if known else collection_names(study.team)


def collection_names(team: Team) -> list[str]:
    return list(Collection.objects.for_team(team).values_list("name", flat=True))
