"""Display of studies: their progress as a bar in parts, shares, learning rates. No queries."""

from __future__ import annotations

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from webapp.selectors.studies import Counts

register = template.Library()
_PARTS = (("done", "f-grown"), ("at_work", "f-soft"), ("failed", "f-clay"), ("left_out", "f-ink"))
_WORDS = {"done": "done", "at_work": "at work", "failed": "failed", "left_out": "left out", "waiting": "waiting"}


def _said(counts: Counts, names: tuple[str, ...]) -> str:
    return ", ".join(f"{n} {_WORDS[name]}" for name in names if (n := getattr(counts, name)))


@register.simple_tag
def cells_bar(counts: Counts, size: str = "thin") -> SafeString:
    """Cells by what became of them, as parts of one bar."""
    parts, at = [], 0.0
    for name, css in _PARTS:
        width = 100 * getattr(counts, name) / max(1, counts.total)
        if width:
            parts.append((css, f"{at:.2f}", f"{width:.2f}"))
        at += width
    rects = format_html_join("", '<rect class="{}" x="{}%" width="{}%"/>', parts)
    label = _said(counts, tuple(_WORDS)) or "nothing yet"
    return format_html('<svg class="cf-bar cf-bar-{}" role="img" aria-label="{}">{}</svg>', size, label, rects)


@register.filter
def besides_done(counts: Counts) -> str:
    """`2 at work, 1 failed, 3 waiting`; "" when all are done."""
    return _said(counts, ("at_work", "failed", "left_out", "waiting"))


@register.filter
def share_text(share: object) -> str:
    """0.1 → `10 %`."""
    return f"{100 * share:g} %" if isinstance(share, (int, float)) else "–"


@register.filter
def rate(value: object) -> str:
    """A learning rate as people write it: 0.003, 2e-05."""
    return f"{value:.3g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "–"


@register.filter
def points(value: object) -> str:
    """A difference of shares in points: 0.0132 → `1.3`."""
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "–"


@register.filter
def below(part: object, whole: object) -> float:
    """`part` of `whole` as a share of 1 that never passes it."""
    if not isinstance(part, (int, float)) or not isinstance(whole, (int, float)) or not whole:
        return 0.0
    return min(1.0, max(0.0, part / whole))
