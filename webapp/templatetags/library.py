"""Display of measured figures: whiskers on an axis from 0 to 100. No queries."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webapp.selectors.metrics import Measure

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
