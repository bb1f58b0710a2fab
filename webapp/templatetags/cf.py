"""Display only: icons, glyphs, sizes, times, bars, intervals, states. No queries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ml.specs import METHODS
from webapp.listing import Listing

register = template.Library()
STATE_CLASS = {
    "queued": "wait", "leased": "running", "running": "running", "publishing": "running", "succeeded": "done",
    "failed": "failed", "cancelled": "old", "waiting": "wait", "reading": "running", "live": "done",
    "replaced": "old", "refused": "failed", "ready": "done", "used": "done", "streaming": "running",
    "done": "done", "stopped": "old",
}  # fmt: skip


@register.simple_tag
def icon(name: str) -> SafeString:
    """An 18 px icon of the sprite, hidden from screen readers."""
    url = static("img/icons.svg")
    return format_html('<svg class="cf-i" aria-hidden="true"><use href="{}#{}"/></svg>', url, name)


@register.simple_tag
def glyph(name: str, size: str = "sm") -> SafeString:
    """A technique's glyph by sprite id or method name; the plain model's for anything else."""
    symbol = METHODS[name].glyph if name in METHODS else (name if name.startswith("t-") else "t-zero")
    extra = " cf-t-sm" if size == "sm" else ""
    return format_html(
        '<svg class="cf-t{}" aria-hidden="true"><use href="{}#{}"/></svg>', extra, static("img/icons.svg"), symbol
    )


@register.filter
def method_label(name: str) -> str:
    """`lora` → `LoRA`; a name that is no method comes back as it is."""
    return METHODS[name].label if name in METHODS else (name or "plain model")


@register.filter
def size(n_bytes: Any) -> str:
    """Bytes in decimal units, as file managers show them: 46 kB, 9.8 MB."""
    try:
        value = float(n_bytes)
    except (TypeError, ValueError):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return "–"


@register.filter
def duration(seconds: Any) -> str:
    """Seconds as people say them: 45 s, 5 min 50 s, 2 h 10 min."""
    try:
        total = round(float(seconds))
    except (TypeError, ValueError):
        return "–"
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


@register.filter
def percent(value: Any, digits: int = 1) -> str:
    """A share of 1 as a percentage without the sign."""
    try:
        return f"{100 * float(value):.{digits}f}"
    except (TypeError, ValueError):
        return "–"


@register.simple_tag
def ago(moment: datetime | None) -> SafeString | str:
    """A relative time with the exact one on hover."""
    if moment is None:
        return "–"
    exact = moment.strftime("%d %b %Y, %H:%M UTC")
    text = str(naturaltime(moment)).replace("\xa0", " ")
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, text)


@register.simple_tag
def bar(done: Any, total: Any = 100, kind: str = "grown") -> SafeString:
    """A thin progress bar whose geometry is in SVG attributes."""
    try:
        share = max(0.0, min(100.0, 100 * float(done) / float(total)))
    except (TypeError, ValueError, ZeroDivisionError):
        share = 0.0
    return format_html(
        '<svg class="cf-bar cf-bar-thin" aria-hidden="true"><rect class="f-{}" width="{}%"/></svg>',
        kind,
        f"{share:.1f}",
    )


@register.simple_tag
def state(value: str, label: str) -> SafeString:
    """A state as a shape and a word."""
    return format_html('<span class="cf-state cf-state-{}">{}</span>', STATE_CLASS.get(value, "old"), label)


@register.simple_tag
def interval(value: Any, bounds: Any = None) -> SafeString | str:
    """A metric in per cent with its 95 % interval; a dash when it was not measured."""
    if value is None or value == "":
        return "–"
    if not bounds:
        return format_html('<span class="cf-iv"><b>{}</b></span>', percent(value))
    low, high = bounds
    return format_html(
        '<span class="cf-iv"><b>{}</b> <span>[{}, {}]</span></span>', percent(value), percent(low), percent(high)
    )


@register.simple_tag
def sort_header(rows: Listing, key: str, label: str, css: str = "") -> SafeString:
    """A column head that sorts by `key`, the other way on a second click."""
    is_down, is_up = rows.sort == f"-{key}", rows.sort == key
    order = format_html(' aria-sort="{}"', "descending" if is_down else "ascending") if is_down or is_up else ""
    url = rows.url(sort=key if is_down else f"-{key}" if is_up else key, page=1)
    arrow = " ↓" if is_down else " ↑" if is_up else ""
    return format_html('<th scope="col" class="{}"{}><a href="{}">{}{}</a></th>', css, order, url, label, arrow)


@register.simple_tag
def page_url(rows: Listing, number: int) -> str:
    """The same list on another page."""
    return rows.url(page=number)


@register.filter
def midsentence(label: str) -> str:
    """A label inside a sentence: `Token F1` → `token F1`, while `BLEU` and `ROUGE-L` stay."""
    return label if label[1:2].isupper() else label[:1].lower() + label[1:]


@register.filter
def get(mapping: Any, key: Any) -> Any:
    """`mapping[key]`, or None."""
    return mapping.get(key) if hasattr(mapping, "get") else None
