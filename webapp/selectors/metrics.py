"""One figure to judge a version by, out of what was measured.

A version's metrics are `{"test": {name: value, …, "intervals": {name: [low, high]}, "n_rows": n}, "plain": {…}}`, the
adapter's and the untouched model's on the same test rows. Only shares of 1 where more is better become a headline: a
loss has no place on an axis from 0 to 100. Nothing is computed here that was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is called and written; one that is a share of 1 is better when higher, the others when lower."""

    label: str
    is_share: bool
    help: str

    def text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


METRICS = {
    "accuracy": Metric(label="Accuracy", is_share=True, help="Rows whose label is right."),
    "macro_f1": Metric(label="Macro F1", is_share=True, help="F1 of each label, averaged: rare labels count as much."),
    "f1": Metric(label="F1", is_share=True, help="Harmonic mean of precision and recall."),
    "numeric": Metric(label="Numeric answer", is_share=True, help="Answers whose last number is the expected one."),
    "token_f1": Metric(label="Token F1", is_share=True, help="Words in common with the expected answer."),
    "exact_match": Metric(label="Exact match", is_share=True, help="Answers that are the expected text itself."),
    "chrf": Metric(label="chrF", is_share=True, help="Character n-grams in common with the expected answer."),
    "rouge_l": Metric(label="ROUGE-L", is_share=True, help="Longest common run of words, in order."),
    "bleu": Metric(label="BLEU", is_share=True, help="Word n-grams in common with the expected answer."),
    "loss": Metric(label="Loss", is_share=False, help="Nats a token of the expected answer; lower is better."),
    "ece": Metric(label="Calibration error", is_share=False, help="How far its sureness is off; lower is better."),
    "perplexity": Metric(label="Perplexity", is_share=False, help="e to the loss; lower is better."),
}
"""By name, in the order in which they are shown."""
HEADLINES = {name: metric.label for name, metric in METRICS.items() if metric.is_share}
"""Metrics that may head a version, the first that is there wins."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric's estimate on some rows, as a share of 1, with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    has_interval: bool
    n_rows: int

    @property
    def label(self) -> str:
        return HEADLINES.get(self.name, self.name.replace("_", " "))

    @property
    def bounds(self) -> tuple[float, float] | None:
        return (self.low, self.high) if self.has_interval else None

    def overlaps(self, other: Measure) -> bool:
        """True when the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else None


def _bounds(intervals: Any, name: str, value: float) -> tuple[float, float, bool]:
    pair = intervals.get(name) if isinstance(intervals, Mapping) else None
    if isinstance(pair, (list, tuple)) and len(pair) == 2:
        low, high = _number(pair[0]), _number(pair[1])
        if low is not None and high is not None:
            return low, high, True
    return value, value, False


def measure(metrics: Any, subject: str = "test", *, name: str = "") -> Measure | None:
    """The headline of `subject`, or the metric called `name`; None when it was not measured."""
    block = metrics.get(subject) if isinstance(metrics, Mapping) else None
    if not isinstance(block, Mapping):
        return None
    for key in (name,) if name else HEADLINES:
        value = _number(block.get(key))
        if value is not None:
            low, high, has_interval = _bounds(block.get("intervals"), key, value)
            rows = block.get("n_rows")
            return Measure(name=key, value=value, low=low, high=high, has_interval=has_interval,
                           n_rows=rows if isinstance(rows, int) else 0)  # fmt: skip
    return None


def with_headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics` with the headline beside them, so that a list can be sorted by it."""
    found = measure(metrics)
    if found is None:
        return dict(metrics)
    return {**metrics, "headline": {"name": found.name, "value": found.value, "low": found.low, "high": found.high}}
