"""A study's leaderboard as the pages and the API read it: board.json with names, figures and groups.

The board is made by the study's own process (ml/study/board.py) and judged there: nothing is ranked or tested here. A
board that is older than a field of it reads as if that were empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from webapp.selectors.metrics import HEADLINES, Measure


@dataclass(frozen=True, kw_only=True)
class SeedFigure:
    """What a technique reached with one seed."""

    seed: int
    key: str
    """The cell's, as StudyEntry.key."""
    state: str
    measure: Measure | None


@dataclass(frozen=True, kw_only=True)
class BoardEntry:
    """A technique over all its seeds."""

    technique: str
    label: str
    glyph: str
    kind: str
    """prompt or trained."""
    place: int
    group: int
    """From 1; techniques of one group do not differ for certain from the group's best."""
    is_take: bool
    is_tied: bool
    """With the best one; the best is tied with itself."""
    measure: Measure | None
    """Its interval covers rows and seeds."""
    per_seed: list[SeedFigure]
    spread: float | None
    """Best seed minus worst seed, as a share of 1; None with one seed."""
    n_seeds_done: int
    n_seeds: int
    tokens_in: float | None
    tokens_prefix: float | None
    """Virtual ones, a request."""
    tokens_out: float | None
    n_trainable: int
    artifact_bytes: int
    train_s: float | None
    search_s: float | None
    peak_bytes: int | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    learning_rate: float | None
    best_key: str
    """The cell that is promoted: of the seed whose validation value is best."""
    has_weights: bool
    """Trained, and the best cell's artifact was kept."""
    front: Mapping[str, bool]
    """Whether nothing is both better and cheaper: by latency, size, training, tokens."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A cell that failed or was left out, and why."""

    technique: str
    label: str
    glyph: str
    seed: int
    share: float
    text: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class BoardPair:
    """Two techniques on the same rows, `a` ranked above `b`; differences are shares of 1."""

    a: str
    b: str
    label_a: str
    label_b: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    """Holm's, over all pairs."""
    is_certain: bool
    only_a: int
    only_b: int
    """Rows right for one alone, first seeds."""
    rows_needed: int | None
    """Test rows that would show the difference with 80 % power."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence that follows from the figures by a rule."""

    kind: str
    sure: str
    """certain, tied or open."""
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Board:
    metric: str
    label: str
    n_rows: int
    seeds: list[int]
    is_complete: bool
    counts: Mapping[str, int]
    """done, failed, left_out, waiting, total cells."""
    entries: list[BoardEntry]
    """Best first."""
    groups: list[list[BoardEntry]]
    failed: list[Missing]
    left_out: list[Missing]
    pairs: list[BoardPair]
    findings: list[Finding]
    digest: list[tuple[str, str]]
    """Terms and texts: what to take, the smallest file, the fastest answer …"""
    take: BoardEntry | None
    """The cheapest of the best group."""
    best: BoardEntry | None
    best_untrained: BoardEntry | None
    guess: float | None
    """What guessing the most common label reaches."""
    curves: Mapping[str, Any] = field(default_factory=dict)
    """By technique [{step, value, loss}], for charts; so are the next two."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """By technique [{share, n_train_rows, value, interval}]."""
    tries: Mapping[str, Any] = field(default_factory=dict)
    """By technique the learning rates that were tried."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The whole as it was made."""

    def entry(self, technique: str) -> BoardEntry | None:
        return next((entry for entry in self.entries if entry.technique == technique), None)

    @property
    def said(self) -> str:
        """The one sentence for a list: what the first finding says."""
        return self.findings[0].title if self.findings else ""


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _int(value: Any) -> int:
    return int(_float(value) or 0)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def measure_of(metric: str, value: Any, interval: Any, n_rows: int) -> Measure | None:
    """The study's metric with its interval; None where there is no figure."""
    number = _float(value)
    if number is None:
        return None
    bounds = [_float(bound) for bound in interval] if isinstance(interval, Sequence) else []
    if len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
        low, high, has_interval = bounds[0], bounds[1], True
    else:
        low, high, has_interval = number, number, False
    return Measure(name=metric, value=number, low=low, high=high, has_interval=has_interval, n_rows=n_rows)


def _entry(given: Mapping[str, Any], metric: str, n_rows: int) -> BoardEntry:
    seeds = [
        SeedFigure(seed=_int(one.get("seed")), key=str(one.get("key", "")), state=str(one.get("state", "")),
                   measure=measure_of(metric, one.get("value"), one.get("interval"), n_rows))
        for one in _dicts(given.get("per_seed"))
    ]  # fmt: skip
    floats = ("spread", "tokens_in", "tokens_prefix", "tokens_out", "train_s", "search_s", "latency_p50_ms",
              "latency_p95_ms", "learning_rate")  # fmt: skip
    peak = _float(given.get("peak_bytes"))
    return BoardEntry(
        **{name: str(given.get(name) or "") for name in ("technique", "label", "glyph", "kind", "best_key")},
        **{name: _int(given.get(name)) for name in ("place", "group", "n_seeds_done", "n_seeds", "n_trainable",
                                                    "artifact_bytes")},
        **{name: _float(given.get(name)) for name in floats},
        is_take=bool(given.get("is_take")), is_tied=bool(given.get("is_tied")), per_seed=seeds,
        measure=measure_of(metric, given.get("value"), given.get("interval"), n_rows),
        peak_bytes=None if peak is None else int(peak), has_weights=bool(given.get("artifact")),
        front=given["front"] if isinstance(given.get("front"), Mapping) else {},
    )  # fmt: skip


def _missing(given: Mapping[str, Any]) -> Missing:
    error = given.get("error") if isinstance(given.get("error"), Mapping) else {}
    return Missing(
        **{name: str(given.get(name) or "") for name in ("technique", "label", "glyph")},
        seed=_int(given.get("seed")), share=_float(given.get("share")) or 1.0,
        text=str(given.get("reason") or (error or {}).get("message") or ""), hint=str((error or {}).get("hint") or ""),
    )  # fmt: skip


def _pair(given: Mapping[str, Any], labels: Mapping[str, str]) -> BoardPair:
    a, b = str(given.get("a") or ""), str(given.get("b") or "")
    needed = _float(given.get("rows_needed"))
    return BoardPair(
        a=a, b=b, label_a=labels.get(a, a), label_b=labels.get(b, b), is_certain=bool(given.get("is_certain")),
        **{name: _float(given.get(name)) for name in ("difference", "low", "high", "p", "p_adjusted")},
        only_a=_int(given.get("only_a")), only_b=_int(given.get("only_b")),
        rows_needed=None if needed is None else int(needed),
    )  # fmt: skip


def board_of(given: Mapping[str, Any]) -> Board | None:
    """The board as data; None where nothing was ranked yet."""
    if not isinstance(given, Mapping) or not given.get("metric"):
        return None
    metric, n_rows = str(given["metric"]), _int(given.get("n_rows"))
    entries = [_entry(one, metric, n_rows) for one in _dicts(given.get("entries"))]
    by_name = {entry.technique: entry for entry in entries}
    labels = {entry.technique: entry.label for entry in entries}
    counts = given["n_cells"] if isinstance(given.get("n_cells"), Mapping) else {}
    charts = {name: given[name] for name in ("curves", "sizes", "tries") if isinstance(given.get(name), Mapping)}
    return Board(
        metric=metric, label=str(given.get("metric_label") or HEADLINES.get(metric, metric)), n_rows=n_rows,
        seeds=[_int(seed) for seed in given.get("seeds") or []], is_complete=bool(given.get("complete")),
        counts={name: _int(counts.get(name)) for name in ("done", "failed", "left_out", "waiting", "total")},
        entries=entries, groups=[list(group) for _, group in groupby(entries, key=lambda entry: entry.group)],
        failed=[_missing(one) for one in _dicts(given.get("failed"))],
        left_out=[_missing(one) for one in _dicts(given.get("left_out"))],
        pairs=[_pair(one, labels) for one in _dicts(given.get("pairs"))],
        findings=[
            Finding(**{name: str(one.get(name) or "") for name in ("kind", "sure", "title", "text")})
            for one in _dicts(given.get("findings"))
        ],
        digest=[(str(one.get("term")), str(one.get("text"))) for one in _dicts(given.get("digest"))],
        **{name: by_name.get(str(given.get(name) or "")) for name in ("take", "best", "best_untrained")},
        guess=_float(given.get("guess")), given=given, **charts,
    )  # fmt: skip
