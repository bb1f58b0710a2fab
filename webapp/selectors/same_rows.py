"""What was measured on the same test rows, side by side; nothing is claimed beyond that.

A board is one data set version's test rows, as many as were measured. On it stand all adapter versions of the team
that were measured on those rows, and the plain model of each base. Its entries are ordered by the metric; those whose
interval shares a point with the best one's are called tied, and among tied ones the smallest is the one to take.
Overlapping intervals do not prove equality, and one seed does not stand for all: paired tests over several seeds are
another matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ml.errors import NotFoundError
from webapp.models import AdapterVersion, DatasetVersion, Team
from webapp.selectors.metrics import HEADLINES, Measure, measure


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One subject on a board: an adapter version, or the plain model."""

    label: str
    measure: Measure
    base: str
    version: AdapterVersion | None = None
    seconds: float | None = None
    peak_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        return self.version.size_bytes if self.version else 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """Entries between two heavy lines: the tied ones at the top, then the rest."""

    entries: list[Entry]
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """Everything measured by one metric on the same rows."""

    dataset: DatasetVersion
    metric: str
    n_rows: int
    groups: list[Group]
    take: Entry | None
    """The cheapest of the tied ones."""
    best: Entry
    entries: list[Entry] = field(default_factory=list)

    @property
    def label(self) -> str:
        return HEADLINES.get(self.metric, self.metric)

    @property
    def n_tied(self) -> int:
        return len(self.groups[0].entries)

    @property
    def n_adapters(self) -> int:
        return sum(entry.version is not None for entry in self.entries)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None


def _entry(version: AdapterVersion, found: Measure) -> Entry:
    result, progress = (version.run.result, version.run.progress) if version.run else ({}, {})
    peak = _number(result.get("peak_bytes"))
    # A resumed run's last attempt took less than the whole; its steps count the time of all attempts.
    seconds = max(_number(result.get("seconds")) or 0, _number(progress.get("elapsed_s")) or 0)
    return Entry(
        label=str(version), measure=found, base=version.base_name, version=version,
        seconds=seconds or None, peak_bytes=int(peak) if peak else None,
    )  # fmt: skip


def _plain_entries(versions: Iterable[AdapterVersion], metric: str, n_rows: int) -> list[Entry]:
    """The plain model of each base, once: the newest measurement of it on these rows."""
    found: dict[str, Entry] = {}
    for version in versions:
        plain = measure(version.metrics, "plain", name=metric)
        if plain is not None and (plain.n_rows or n_rows) == n_rows:
            found.setdefault(version.base_name, Entry(label="the plain model", measure=plain, base=version.base_name))
    return list(found.values())


def _cost(entry: Entry) -> tuple[int, int, float]:
    n_trainable = entry.version.n_trainable if entry.version else 0
    return entry.size_bytes, n_trainable, -entry.measure.value


def _board(dataset: DatasetVersion, metric: str, n_rows: int, versions: list[AdapterVersion]) -> Board:
    measured = [_entry(v, found) for v in versions if (found := measure(v.metrics, name=metric)) is not None]
    entries = [*measured, *_plain_entries(versions, metric, n_rows)]
    entries.sort(key=lambda entry: (-entry.measure.value, _cost(entry)))
    best = entries[0]
    tied = [entry for entry in entries if entry.measure.overlaps(best.measure)]
    rest = [entry for entry in entries if entry not in tied]
    groups = [Group(entries=tied, is_best=True), *([Group(entries=rest, is_best=False)] if rest else [])]
    return Board(
        dataset=dataset, metric=metric, n_rows=n_rows, groups=groups, take=min(tied, key=_cost), best=best,
        entries=entries,
    )  # fmt: skip


def _measured(team: Team, **where: Any) -> list[AdapterVersion]:
    rows = AdapterVersion.objects.for_team(team).filter(adapter__is_retired=False, dataset_version__isnull=False)
    rows = rows.select_related("adapter", "run", "dataset_version__dataset").filter(**where)
    return [version for version in rows.order_by("-created_at") if measure(version.metrics) is not None]


def _boards(versions: list[AdapterVersion]) -> list[Board]:
    """One board for each set of rows and metric, the one with most subjects first."""
    same_rows: dict[tuple[DatasetVersion, str, int], list[AdapterVersion]] = {}
    for version in versions:
        found = measure(version.metrics)
        if found is not None and version.dataset_version is not None:
            same_rows.setdefault((version.dataset_version, found.name, found.n_rows), []).append(version)
    boards = [_board(*key, rows) for key, rows in same_rows.items()]
    return sorted(boards, key=lambda board: -len(board.entries))


def boards(*, team: Team) -> list[Board]:
    """All boards of the team."""
    return _boards(_measured(team))


def boards_of(*, team: Team, pk: int) -> tuple[DatasetVersion, list[Board]]:
    """A data set version of the team with its boards. Raises NotFoundError."""
    dataset = DatasetVersion.objects.for_team(team).select_related("dataset").filter(pk=pk).first()
    if dataset is None:
        raise NotFoundError("There is no such dataset version in this team.", hint="Look at the list of studies.")
    return dataset, _boards(_measured(team, dataset_version=dataset))
