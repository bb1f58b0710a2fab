"""The matrix of a study, technique by seed: what was measured, what is at work just now, what waits.

Published cells are StudyEntry rows; while a run goes on, the newest `cell` event of each key says more. A cell that
neither knows waits. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ml.specs.study import TECHNIQUES, Technique
from webapp.models import Run, RunEvent, Study, StudyEntry
from webapp.selectors.metrics import Measure
from webapp.selectors.study_boards import measure_of

AT_WORK = ("searching", "training", "measuring")
OVER = ("done", "failed", "left_out")
STATE_LABELS = {
    "waiting": "waits", "searching": "searching", "training": "training", "measuring": "measuring", "done": "done",
    "failed": "failed", "left_out": "left out",
}  # fmt: skip
Events = Mapping[str, Mapping[str, Any]]
"""The newest `cell` event by key."""


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell as it is now."""

    key: str
    technique: str
    label: str
    glyph: str
    kind: str
    seed: int
    share: float
    state: str
    """A key of STATE_LABELS."""
    text: str = ""
    """What it does just now, why it failed, or why it was left out."""
    hint: str = ""
    measure: Measure | None = None
    learning_rate: float | None = None
    step: int = 0
    n_steps: int = 0
    seconds: float | None = None
    n_train_rows: int = 0
    entry: StudyEntry | None = None
    """Once it is published."""

    @property
    def state_label(self) -> str:
        return STATE_LABELS.get(self.state, self.state)

    @property
    def is_at_work(self) -> bool:
        return self.state in AT_WORK

    @property
    def step_share(self) -> float:
        """Of the training's steps, 0 to 1."""
        return min(1.0, self.step / self.n_steps) if self.n_steps else 0.0

    @property
    def has_weights(self) -> bool:
        """Whether its trained weights were kept, so that it can be promoted."""
        return bool(self.entry and self.entry.summary.get("artifact"))

    @property
    def can_be_promoted(self) -> bool:
        """Into the library, as an adapter or a prompt; the untouched model has nothing to promote."""
        if self.entry is None or self.state != "done":
            return False
        return self.has_weights if self.kind == "trained" else self.technique != "plain" and self.share == 1


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A technique with its cells: one a seed with all rows, and those with smaller shares."""

    technique: str
    label: str
    glyph: str
    kind: str
    cells: list[CellView | None]
    """In the order of the study's seeds; None where the technique has no chance in it and is measured once."""
    shares: list[CellView]
    """Smaller shares of the training rows, by the first seed, smallest first."""

    @property
    def every(self) -> list[CellView]:
        return [*(cell for cell in self.cells if cell), *self.shares]


def key_of(technique: str, seed: int, share: float = 1.0) -> str:
    return f"{technique}-s{seed}" + ("" if share == 1 else f"-{share:g}")


def learns_from_rows(technique: Technique) -> bool:
    """Whether more training rows can make it better, so that it has a place on the data-size curve."""
    return technique.kind == "trained" or technique.name == "few_shot_nearest"


def planned_cells(spec: Mapping[str, Any]) -> list[tuple[Technique, int, float]]:
    """(technique, seed, share) of every cell that a spec asks for; as ml/study/cells.py, in the table's order."""
    seeds, found = list(spec.get("seeds") or [17]), []
    on_curve = spec.get("curve_techniques") or spec.get("techniques") or []
    for technique in (TECHNIQUES[name] for name in spec.get("techniques") or [] if name in TECHNIQUES):
        found += [(technique, seed, 1.0) for seed in (seeds if technique.has_chance else seeds[:1])]
        if technique.name in on_curve and learns_from_rows(technique):
            found += [(technique, seeds[0], float(share)) for share in spec.get("shares") or []]
    return found


def events_of(runs: Iterable[int]) -> dict[int, dict[str, dict[str, Any]]]:
    """The newest `cell` event of each key, by run."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    rows = RunEvent.objects.filter(run_id__in=list(runs), name="cell").order_by("pk").values_list("run_id", "data")
    for run, data in rows:
        found.setdefault(run, {})[str(data.get("key", ""))] = data
    return found


def cells_of(study: Study, entries: Iterable[StudyEntry], events: Events) -> list[CellView]:
    """Every cell of the study, in the order of the plan; those that only child or database know come last."""
    known = {entry.key: entry for entry in entries}
    is_active = study.run is not None and not study.run.is_over
    keys: dict[str, tuple[str, int, float]] = {
        key_of(technique.name, seed, share): (technique.name, seed, share)
        for technique, seed, share in planned_cells(study.spec)
    }
    for entry in known.values():
        keys.setdefault(entry.key, (entry.technique, entry.seed, entry.share))
    for key, data in events.items():
        keys.setdefault(key, (str(data.get("technique", "")), int(data.get("seed") or 0), data.get("share") or 1.0))
    return [
        _cell(study, key, *about, entry=known.get(key), event=events.get(key) or {}, is_active=is_active)
        for key, about in keys.items()
    ]


def _cell(
    study: Study, key: str, name: str, seed: int, share: float, *, entry: StudyEntry | None, event: Mapping[str, Any],
    is_active: bool,
) -> CellView:  # fmt: skip
    technique = TECHNIQUES.get(name)
    about: dict[str, Any] = {
        "key": key, "technique": name, "label": technique.label if technique else name, "seed": seed, "share": share,
        "glyph": technique.glyph if technique else "", "kind": technique.kind if technique else "trained",
    }  # fmt: skip
    said = str(event.get("state", ""))
    is_news = said in OVER or (is_active and said in AT_WORK)
    # An entry of the same outcome knows more than the event does.
    if is_news and (entry is None or entry.state != said):
        return CellView(**about, **_from_event(study, event))
    if entry is None:
        return CellView(**about, state="waiting")
    return CellView(**about, entry=entry, **_from_entry(study, entry))


def _from_event(study: Study, event: Mapping[str, Any]) -> dict[str, Any]:
    n_rows = int(study.spec.get("test_rows") or 0)
    error = event.get("error") or {}
    return {
        "state": str(event["state"]), "hint": str(error.get("hint") or ""),
        "text": str(event.get("text") or event.get("reason") or error.get("message") or ""),
        "measure": measure_of(study.metric, event.get("value"), event.get("interval"), n_rows),
        "learning_rate": event.get("learning_rate"), "step": int(event.get("step") or 0),
        "n_steps": int(event.get("n_steps") or 0), "seconds": event.get("seconds"),
    }  # fmt: skip


def _from_entry(study: Study, entry: StudyEntry) -> dict[str, Any]:
    about = entry.summary
    error = about.get("error") or {}
    return {
        "state": entry.state, "text": str(about.get("reason") or error.get("message") or ""),
        "hint": str(error.get("hint") or ""), "seconds": seconds_of(entry),
        "measure": measure_of(study.metric, entry.value, (entry.low, entry.high), int(about.get("n_rows") or 0)),
        "learning_rate": about.get("learning_rate"), "n_steps": int(about.get("steps") or 0),
        "step": int(about.get("steps") or 0), "n_train_rows": int(about.get("n_train_rows") or 0),
    }  # fmt: skip


def seconds_of(entry: StudyEntry) -> float:
    """Device time that the cell took: search, training, measurement."""
    return sum(float(entry.summary.get(name) or 0) for name in ("search_s", "train_s", "measure_s"))


def matrix_of(study: Study, cells: Iterable[CellView]) -> list[MatrixRow]:
    """The cells by technique; the order is that of the techniques' table."""
    seeds = [int(seed) for seed in study.spec.get("seeds") or []]
    by_technique: dict[str, list[CellView]] = {}
    for cell in cells:
        by_technique.setdefault(cell.technique, []).append(cell)
    rows = []
    for found in by_technique.values():
        whole = {cell.seed: cell for cell in found if cell.share == 1}
        cells = [whole.get(seed) for seed in [*seeds, *(seed for seed in whole if seed not in seeds)]]
        shares = sorted((cell for cell in found if cell.share != 1), key=lambda cell: cell.share)
        about = {name: getattr(found[0], name) for name in ("technique", "label", "glyph", "kind")}
        rows.append(MatrixRow(**about, cells=cells, shares=shares))
    return rows


def live_events(study: Study, found: Mapping[int, Events]) -> Events:
    """What still counts of a run's events: nothing once its results are published."""
    run = study.run
    return found.get(run.pk, {}) if run is not None and run.state != Run.State.SUCCEEDED else {}
