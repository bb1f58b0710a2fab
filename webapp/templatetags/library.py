"""Display of measured figures: whiskers on an axis from 0 to 100. No queries."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webapp.selectors.evaluation_pairs import Difference
from webapp.selectors.metrics import Measure, Metric

register = template.Library()

_WHISKER = (
    '<svg class="cf-whisker{}" role="img" aria-label="{}">'
    '<line class="axis" x1="0" x2="100%" y1="50%" y2="50%"/><line class="axis" x1="50%" x2="50%" y1="30%" y2="70%"/>'
    '{}<circle class="pt" cx="{}%" cy="50%" r="3.5"/></svg>'
)
_INTERVAL = (
    '<line class="iv" x1="{0}%" x2="{1}%" y1="50%" y2="50%"/><line class="iv" x1="{0}%" x2="{0}%" y1="32%" y2="68%"/>'
    '<line class="iv" x1="{1}%" x2="{1}%" y1="32%" y2="68%"/>'
)


@register.simple_tag
def whisker(measure: Measure | None, kind: str = "grown") -> SafeString | str:
    """The estimate and its interval on 0 to 100 per cent; `kind` is grown (trained) or frozen (the plain model)."""
    if measure is None:
        return "–"
    value, low, high = (f"{100 * x:.1f}" for x in (measure.value, measure.low, measure.high))
    text = f"{value} %" + (f", 95 % interval {low} to {high}" if measure.has_interval else ", interval not measured")
    lines = format_html(_INTERVAL, low, high) if measure.has_interval else ""
    return format_html(_WHISKER, " cf-whisker-frozen" if kind == "frozen" else "", text, lines, value)


@register.filter
def count(value: object) -> str:
    """A number of things in few characters: 11,520 as it is, 2442240 as 2.4 M."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:,.0f}"


@register.filter
def short(digest: object) -> str:
    """The first eight characters of a hash."""
    return str(digest or "")[:8] or "–"


@register.simple_tag
def difference(found: Difference) -> SafeString | str:
    """A difference with its interval, signed: points for shares, the metric's own unit otherwise."""
    if found.difference is None:
        return "–"
    values = [None if x is None else found.scale * x for x in (found.difference, found.low, found.high)]
    digits = 1 if found.metric.is_share else 3
    text = [f"{x:+.{digits}f}".replace("-", "−") for x in values if x is not None]
    if len(text) < 3:
        return format_html('<span class="cf-iv"><b>{}</b></span>', text[0])
    return format_html('<span class="cf-iv"><b>{}</b> <span>[{}, {}]</span></span>', *text)


@register.simple_tag
def metric_text(metric: Metric, value: float | None) -> str:
    """A metric's value on its own scale."""
    return "–" if value is None else metric.text(value)


@register.filter
def pvalue(value: object) -> str:
    """`= 0.031`-like text without the sign: small ones as a bound."""
    if not isinstance(value, (int, float)):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


@register.filter
def latency(ms: object) -> str:
    """Milliseconds, or seconds from one on."""
    if not isinstance(ms, (int, float)):
        return "–"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
