"""The figures that a study's charts are drawn from, as plain data for the page's module (static/js/study.js).

Colours and places are those of the leaderboard, so that a technique looks the same in every chart. Values are per cent
where they are shares of 1. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.selectors.metrics import Measure
from webapp.selectors.study_boards import Board, BoardEntry

COSTS = {"latency": "latency_p50_ms", "size": "artifact_bytes", "training": "train_s"}
"""Cost of the chart → the entry's figure; what is not trained costs no training."""
MOST_SHOWN = 4
"""Curves that are drawn at first: as many as there are colours."""


def charts_of(board: Board) -> dict[str, Any]:
    """For `json_script`."""
    return {
        "metric": board.label,
        "points": [_point(entry, entry.measure) for entry in board.entries if entry.measure is not None],
        "curves": _curves(board), "sizes": _sizes(board),
        "reference": _percent(board.best_untrained.measure.value)
        if board.best_untrained and board.best_untrained.measure else None,
    }  # fmt: skip


def _percent(value: Any) -> float | None:
    return round(100 * value, 2) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _point(entry: BoardEntry, measure: Measure) -> dict[str, Any]:
    costs = {name: getattr(entry, figure) or 0 for name, figure in COSTS.items()}
    return {
        "n": entry.place, "label": entry.label, "y": _percent(measure.value), "lo": _percent(measure.low),
        "hi": _percent(measure.high), "costs": costs, "front": {name: bool(entry.front.get(name)) for name in COSTS},
    }  # fmt: skip


def _curves(board: Board) -> dict[str, Any]:
    """Looks at the validation rows: by the metric where every look has it, else by the loss."""
    found = [
        (entry, looks) for entry in board.entries
        if (looks := [look for look in board.curves.get(entry.technique) or [] if isinstance(look, Mapping)])
    ]  # fmt: skip
    by_value = bool(found) and all(_percent(look.get("value")) is not None for _, looks in found for look in looks)
    lines = [
        {"label": entry.label, "place": entry.place, "x": [look.get("step") for look in looks],
         "y": [_percent(look.get("value")) if by_value else look.get("loss") for look in looks]}
        for entry, looks in found
    ]  # fmt: skip
    return {"by": "value" if by_value else "loss", "lines": _with_shown(lines)}


def _with_shown(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**line, "shown": i < MOST_SHOWN} for i, line in enumerate(lines)]


def _sizes(board: Board) -> list[dict[str, Any]]:
    """Quality by number of training rows, for techniques that were measured with two shares or more."""
    lines = [
        {"label": entry.label, "place": entry.place, "x": [size["n_train_rows"] for size in sizes],
         "y": [_percent(size["value"]) for size in sizes]}
        for entry in board.entries if len(sizes := sizes_of(board, entry.technique)) > 1
    ]  # fmt: skip
    return _with_shown(lines)


def sizes_of(board: Board, technique: str) -> list[dict[str, Any]]:
    """The technique's measurements by share of the training rows, smallest first; only those with a figure."""
    found = [size for size in board.sizes.get(technique) or [] if isinstance(size, Mapping)]
    return [dict(size) for size in found if _percent(size.get("value")) is not None and size.get("n_train_rows")]


@dataclass(frozen=True, kw_only=True)
class SizeTable:
    """The same as a table: techniques down, numbers of training rows across."""

    heads: list[int]
    rows: list[tuple[BoardEntry, list[tuple[int, dict[str, Any] | None]]]]
    """With each number the measurement; None where that one is missing."""


def size_table(board: Board) -> SizeTable | None:
    """None where nothing was measured with several shares."""
    found = [(entry, sizes) for entry in board.entries if len(sizes := sizes_of(board, entry.technique)) > 1]
    heads = sorted({int(size["n_train_rows"]) for _, sizes in found for size in sizes})
    rows = [
        (entry, [(head, next((size for size in sizes if size["n_train_rows"] == head), None)) for head in heads])
        for entry, sizes in found
    ]
    return SizeTable(heads=heads, rows=rows) if found else None


SPENT = (("search", "search", "f-frost"), ("train", "training", "f-grown"), ("measure", "measuring", "f-soft"),
         ("load", "loading", "f-frostfill"), ("overhead", "the study itself", "f-ink"))  # fmt: skip
"""Key of `spent_s`, its name and look."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """A part of the bar of where the time went, in per cent of its width."""

    label: str
    look: str
    seconds: float
    x: str
    width: str


def spent_bar(spent: Any) -> list[Spent]:
    """Of `spent_s` in study.json; empty where it says nothing."""
    known = {name: float(spent.get(name) or 0) for name, _, _ in SPENT} if isinstance(spent, Mapping) else {}
    whole, at, parts = sum(known.values()), 0.0, []
    for name, label, look in SPENT:
        width = 100 * known[name] / whole if whole else 0.0
        if width:
            parts.append(Spent(label=label, look=look, seconds=known[name], x=f"{at:.2f}%", width=f"{width:.2f}%"))
        at += width
    return parts
