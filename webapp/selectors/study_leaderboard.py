"""A study's leaderboard in the order that was asked for, and the matrix in groups as far as they are known.

In the order of rank the entries stand in groups that differ for certain; by any other column they are one list. Nothing
is judged here. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.models import AdapterVersion, PromptVersion
from webapp.selectors.study_boards import Board, BoardEntry
from webapp.selectors.study_cells import CellView, MatrixRow

COLUMNS = (
    ("tokens", "Tokens", "tokens"), ("trained", "Trained", "n_trainable"), ("size", "Size", "artifact_bytes"),
    ("training", "Training", "train_s"), ("memory", "Memory", "peak_bytes"), ("latency", "Latency p50",
                                                                             "latency_p50_ms"),
)  # fmt: skip
"""Key of ?sort=, head, and the entry's figure, all of them costs: the smallest comes first."""
HELP = {"tokens": "Tokens read per request, virtual ones after the plus; then those written",
        "trained": "Numbers that were learnt", "memory": "The most that the training held",
        "training": "One training, averaged over seeds; the search comes once on top"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Head:
    """A column's head: a second click turns the order round, and a third is the rank again."""

    key: str
    label: str
    help: str
    order: str
    """ascending, descending, or "" where the list is in another order."""
    next_sort: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry, and what it became in the library."""

    entry: BoardEntry
    version: AdapterVersion | PromptVersion | None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    groups: list[list[Line]]
    heads: list[Head]
    is_ranked: bool


def leaderboard(board: Board, cells: Sequence[CellView], sort: str = "") -> Leaderboard:
    """`sort` is a key of COLUMNS, `-` in front for the largest first; anything else is the rank."""
    figure = {key: name for key, _, name in COLUMNS}.get(sort.removeprefix("-"), "")
    groups = [_sorted(board.entries, figure, is_down=sort.startswith("-"))] if figure else board.groups
    versions = {cell.key: cell.entry.adapter_version or cell.entry.prompt_version for cell in cells if cell.entry}
    return Leaderboard(
        groups=[[Line(entry=one, version=versions.get(one.best_key)) for one in group] for group in groups],
        heads=[_head(key, label, sort if figure else "") for key, label, _ in COLUMNS], is_ranked=not figure,
    )  # fmt: skip


def _head(key: str, label: str, sort: str) -> Head:
    order = {key: "ascending", f"-{key}": "descending"}.get(sort, "")
    return Head(key=key, label=label, help=HELP.get(key, ""), order=order,
                next_sort={"": key, "ascending": f"-{key}", "descending": ""}[order])  # fmt: skip


def _cost(entry: BoardEntry, figure: str) -> float | None:
    if figure == "tokens":
        return sum(filter(None, (entry.tokens_in, entry.tokens_prefix, entry.tokens_out)))
    found: float | None = getattr(entry, figure)
    return found


def _sorted(entries: Sequence[BoardEntry], figure: str, *, is_down: bool) -> list[BoardEntry]:
    """What has no such figure comes last, either way round."""
    known = [entry for entry in entries if _cost(entry, figure) is not None]
    known.sort(key=lambda entry: _cost(entry, figure) or 0, reverse=is_down)
    return [*known, *(entry for entry in entries if entry not in known)]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A row of the matrix with what the board says of it."""

    row: MatrixRow
    entry: BoardEntry | None
    seed_s: float = 0.0
    """What the plan says that a seed takes, the search left out; 0 where nothing was planned."""

    @property
    def is_once(self) -> bool:
        """Measured with the first seed only, as there is no chance in it."""
        return len(self.row.cells) > 1 and all(cell is None for cell in self.row.cells[1:])


@dataclass(frozen=True, kw_only=True)
class MatrixGroup:
    title: str
    note: str
    rows: list[Placed]


def matrix_groups(
    matrix: Sequence[MatrixRow], board: Board | None, plan: Mapping[str, Any] | None = None
) -> list[MatrixGroup]:
    """What has no place yet first, then the groups of the leaderboard. `plan` is a `plan` event."""
    takes = _planned(plan or {})
    ranked: list[list[BoardEntry]] = board.groups if board else []
    placed = {entry.technique for group in ranked for entry in group}
    open_rows = [
        Placed(row=row, entry=None, seed_s=takes.get(row.technique, 0.0))
        for row in matrix if row.technique not in placed
    ]  # fmt: skip
    groups = [MatrixGroup(title="Not placed yet", note="no figure on the test rows", rows=open_rows)] * bool(open_rows)
    by_name: Mapping[str, MatrixRow] = {row.technique: row for row in matrix}
    for number, group in enumerate(ranked):
        rows = [
            Placed(row=by_name[one.technique], entry=one, seed_s=takes.get(one.technique, 0.0))
            for one in group if one.technique in by_name
        ]  # fmt: skip
        if rows:
            groups.append(MatrixGroup(rows=rows, **_named(number, len(group), len(ranked))))
    return groups


def _planned(plan: Mapping[str, Any]) -> dict[str, float]:
    """Seconds a seed by technique."""
    found = {}
    for one in plan.get("techniques") or []:
        parts = [one.get(name) for name in ("train_s", "measure_s")] if isinstance(one, Mapping) else []
        if parts and all(isinstance(part, (int, float)) for part in parts):
            found[str(one.get("technique"))] = float(sum(parts))
    return found


def _named(number: int, n_entries: int, n_groups: int) -> dict[str, Any]:
    if number == 0:
        title = "Leads" if n_entries == 1 else "Tied at the top"
        note = "not told apart so far" if n_entries > 1 else "nothing to tell it from yet" if n_groups == 1 else \
            "above the next for certain"  # fmt: skip
        return {"title": title, "note": note}
    return {"title": f"Group {number + 1}", "note": "its best is below the group above for certain"}
