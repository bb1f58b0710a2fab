"""What a training run measured, warned of and kept, in words and rows for its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.models import Run
from webapp.selectors.metrics import METRICS, Metric

MAX_WARNINGS = 20
LONG = 70
"""An answer or expected text of more characters, or of several lines, is shown as a text, not in a line."""
EARLY = "stopped early"
"""How the trainer begins the phase that ends a run before its last step."""

Evals = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One value with its interval, on its metric's own scale."""

    metric: Metric
    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        return self.metric.text(self.value)

    @property
    def interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return f"[{self.metric.text(self.low)}, {self.metric.text(self.high)}]".replace(" %", "")


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """A metric of the trained model beside the untouched one's on the same rows."""

    metric: Metric
    own: Figure
    plain: Figure | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    split: str
    n_rows: int
    rows: list[MeasuredRow]
    has_plain: bool


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _figure(data: Mapping[str, Any], name: str) -> Figure | None:
    value = (data.get("metrics") or {}).get(name)
    if not _is_number(value):
        return None
    pair = (data.get("intervals") or {}).get(name)
    has_pair = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(_is_number(bound) for bound in pair)
    low, high = pair if has_pair else (None, None)
    return Figure(metric=metric_named(name), value=value, low=low, high=high)


def metric_named(name: str) -> Metric:
    return METRICS.get(name) or Metric(label=name.replace("_", " "), is_share=False, help="")


def measured(evals: Evals) -> Measured | None:
    """Every metric of the newest look: on the test rows when they were measured, else on the validation rows."""
    for split in ("test", "validation"):
        here = [data for data in evals if data.get("split") == split]
        own = [data for data in here if data.get("subject") != "plain"]
        if not own:
            continue
        plain = next((data for data in reversed(here) if data.get("subject") == "plain"), {})
        names = own[-1].get("metrics") or {}
        ordered = [*(n for n in METRICS if n in names), *(n for n in names if n not in METRICS)]
        rows = [
            MeasuredRow(metric=figure.metric, own=figure, plain=_figure(plain, name))
            for name in ordered
            if (figure := _figure(own[-1], name))
        ]
        return Measured(split=split, n_rows=own[-1].get("n_rows") or 0, rows=rows, has_plain=bool(plain))
    return None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Which step's weights are the result, or would be so far."""

    step: int
    is_final: bool
    label: str = ""
    """The metric that decided."""
    text: str = ""
    early: str = ""
    """Why the run ended before its last step."""


def _last(run: Run, name: str) -> dict[str, Any]:
    return run.events.filter(name=name).order_by("-pk").values_list("data", flat=True).first() or {}


def kept(run: Run) -> Kept | None:
    """None before the first best look, and for runs that know of none."""
    best, finished = _last(run, "best"), _last(run, "finished")
    step = finished.get("kept_step") or best.get("step")
    if not isinstance(step, int):
        return None
    metric = metric_named(str(best.get("metric", "")))
    has_value = best.get("step") == step and _is_number(best.get("value"))
    early = run.events.filter(name="phase", data__text__startswith=EARLY).order_by("-pk")
    return Kept(
        step=step, is_final=bool(finished), label=metric.label if has_value else "",
        text=metric.text(best["value"]) if has_value else "",
        early=str((early.values_list("data", flat=True).first() or {}).get("text", "")),
    )  # fmt: skip


def warnings(run: Run) -> list[str]:
    """What the trainer warned of, the newest last; the same warning once."""
    said = run.events.filter(name="warning").order_by("-pk").values_list("data", flat=True)[:MAX_WARNINGS]
    return list(dict.fromkeys(str(data.get("text", "")) for data in reversed(said) if data.get("text")))


def is_long(sample: Mapping[str, Any]) -> bool:
    """Whether a sample's texts need lines of their own."""
    texts = [str(sample.get(name) or "") for name in ("expected", "got")]
    return any(len(text) > LONG or "\n" in text for text in texts)
