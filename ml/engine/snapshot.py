"""What the engine is doing, for pages and heartbeats: taken after each step, read from any thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.engine.types import Row

if TYPE_CHECKING:
    from ml.engine.engine import Engine

_WINDOW_S = 5.0


class Meter:
    """Speed over the last seconds, and sums since the start."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=2000)
        self.n_tokens = 0
        """Tokens chosen."""
        self.n_decodes = 0
        """Steps that decoded, and how long they took together."""
        self.decode_s = 0.0

    def add(self, *, n_tokens: int, n_decoded: int, seconds: float) -> None:
        self._steps.append((time.monotonic(), n_tokens, seconds if n_decoded else 0.0))
        self.n_tokens += n_tokens
        if n_decoded:
            self.n_decodes += 1
            self.decode_s += seconds

    def _recent(self) -> list[tuple[float, int, float]]:
        since = time.monotonic() - _WINDOW_S
        return [step for step in self._steps if step[0] >= since]

    @property
    def tokens_per_s(self) -> float:
        recent = self._recent()
        if not recent:
            return 0.0
        seconds = max(time.monotonic() - recent[0][0] + recent[0][2], 1e-3)
        return round(sum(n for _, n, _ in recent) / seconds, 1)

    @property
    def step_ms(self) -> float:
        """Median duration of the recent steps that decoded."""
        times = sorted(seconds for _, _, seconds in self._recent() if seconds)
        return round(times[len(times) // 2] * 1000, 1) if times else 0.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    slots: int
    """Of all batches."""
    length: int
    step: int
    queue: int
    """Rows that wait for a slot, for their adapter or for a model of their own."""
    rows: list[dict[str, Any]]
    """Rows in slots: id, label, artifact, team_id, form, position, prefix_tokens, capacity, state, slot, n_tokens,
    seconds (since it got its slot). Those of form own_backbone are in a batch of their own, whose slots are counted
    behind those of the batches before it."""
    shared_prefixes: dict[str, int]
    """Since the start: rows that were looked at, hits among them, tokens that these did not read; tasks' prefixes that
    were found and that were computed; bytes kept now. Empty: the engine does not know."""
    totals: dict[str, float]
    """Since the start; they only grow: steps, tokens, decodes, decode_s."""
    decoding: dict[str, Any]
    """How the main batch decodes: dtype, what computes attention, captured graphs (None: none are made)."""


def resident_of(engine: Engine) -> list[dict[str, Any]]:
    """Adapters in memory, with their computed prefixes, and models of their own: artifact, form, bytes, and whether
    they are pinned. Any thread."""
    own = engine.own.resident()
    shared = [
        {"artifact": a.artifact, "form": a.form, "bytes": a.n_bytes + engine.prefixes.store.bytes_of(a)}
        for a in engine.adapters.resident()
        if a.folder is None
    ]
    return [{**about, "pinned": engine.adapters.is_pinned(about["artifact"])} for about in (*shared, *own)]


def resident_by_form(engine: Engine) -> dict[str, dict[str, int]]:
    """n and bytes of all adapters in memory, models of their own among them, computed prefixes not. Any thread."""
    shared = [(a.form, a.n_bytes) for a in engine.adapters.resident(limit=0) if a.folder is None]
    return sums_by_form([*shared, *((own["form"], own["bytes"]) for own in engine.own.resident())])


def sums_by_form(held: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
    """n and bytes of (form, bytes) pairs."""
    found: dict[str, dict[str, int]] = {}
    for form, n_bytes in held:
        sums = found.setdefault(form, {"n": 0, "bytes": 0})
        sums["n"] += 1
        sums["bytes"] += n_bytes
    return found


def row_of(row: Row, n_before: int = 0) -> dict[str, Any]:
    """As in Snapshot.rows; `n_before` slots belong to batches before the row's own."""
    return {
        "id": row.request.id,
        "label": row.request.label,
        "artifact": row.request.artifact or "",
        "team_id": row.request.team_id,
        "form": row.form,
        "position": row.position,
        "prefix_tokens": row.prefix_tokens,
        "capacity": row.capacity,
        "state": row.state,
        "slot": n_before + row.slot,
        "n_tokens": len(row.answer),
        "seconds": round(time.monotonic() - row.entered, 1),
    }


def totals_of(meter: Meter, n_steps: int) -> dict[str, float]:
    return {"steps": n_steps, "tokens": meter.n_tokens, "decodes": meter.n_decodes, "decode_s": meter.decode_s}


def take_snapshot(engine: Engine) -> Snapshot:
    main, own, prefixes, meter = engine.scheduler, engine.own, engine.prefixes, engine.meter
    seen, store = prefixes.beginnings, prefixes.store
    rows, n_slots = [], 0
    for batch in engine.batches:
        rows += [row_of(row, n_slots) for row in batch.scheduler.live]
        n_slots += batch.scheduler.table.n_slots
    return Snapshot(
        slots=n_slots,
        length=main.length,
        step=engine.n_steps,
        queue=len(main.queue) + len(main.staged) + own.n_waiting,
        rows=rows,
        shared_prefixes={
            "rows": seen.n_rows, "hits": seen.n_hits, "tokens": seen.n_tokens,
            "found": store.n_found, "computed": store.n_computed, "bytes": store.n_bytes,
        },
        totals=totals_of(meter, engine.n_steps),
        decoding={
            "dtype": str(engine.runner.cache.dtype).removeprefix("torch."), "attention": engine.runner.reads_by,
            "graphs": engine.runner.n_graphs,
        },
    )  # fmt: skip
