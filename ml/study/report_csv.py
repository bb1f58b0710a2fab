"""The cells of a study as CSV: a line each, with all figures and what they depend on.

Numbers are written as they are, in full; texts that a spreadsheet would run as a formula get an apostrophe.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from ml.specs.csv_cells import neutral_cell
from ml.study.told import Cell, Told, why_of

_FIRST = ("key", "technique", "label", "kind", "seed", "share", "n_train_rows", "state")
_FIGURES = (
    "n_rows", "tokens_in", "tokens_prefix", "tokens_out", "latency_p50_ms", "latency_p95_ms", "first_token_p50_ms",
    "n_trainable", "artifact_bytes", "peak_bytes", "search_s", "train_s", "measure_s", "learning_rate", "steps",
    "kept_step", "valid_value", "valid_loss", "artifact", "identity",
)  # fmt: skip
_STUDY = ("dataset", "dataset_sha256", "base", "base_fingerprint", "command", "commit", "versions")


def as_csv(told: Told) -> str:
    metrics = sorted({name for cell in told.cells for name in cell.get("metrics") or {}})
    metrics.sort(key=lambda name: name != told.board["metric"])
    places = {entry["technique"]: entry for entry in told.board["entries"]}
    heads = [f"{name}{end}" for name in metrics for end in ("", "_low", "_high")]
    study = _study(told)
    lines: list[list[Any]] = [[*_FIRST, "why", "place", "group", *heads, *_FIGURES, "spec", *_STUDY]]
    for cell in told.cells:
        entry = places.get(cell["technique"], {})
        lines.append([
            *(cell.get(name) for name in _FIRST), why_of(cell), entry.get("place"), entry.get("group"),
            *_measured(cell, metrics), *(cell.get(name) for name in _FIGURES), _json(cell.get("spec")), *study,
        ])  # fmt: skip
    file = io.StringIO()
    csv.writer(file).writerows([_cell(value) for value in line] for line in lines)
    return file.getvalue()


def _measured(cell: Cell, metrics: list[str]) -> list[Any]:
    values, intervals = cell.get("metrics") or {}, cell.get("intervals") or {}
    return [found for name in metrics for found in (values.get(name), *(intervals.get(name) or (None, None)))]


def _study(told: Told) -> list[Any]:
    named = {**told.spec, **told.about, "command": told.command, "versions": _json(told.about.get("versions"))}
    return [named.get(name) for name in _STUDY]


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return repr(value)
    return neutral_cell(str(value))
