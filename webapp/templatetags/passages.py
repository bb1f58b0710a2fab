"""Bars of the retrieval test. Display only."""

from __future__ import annotations

import re

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def excerpt(text: str) -> str:
    """A chunk on a few lines: Markdown's headings as words with a colon, no emphasis marks, blanks collapsed."""
    lines = (re.sub(r"^#{1,6}\s+(.*?)[\s:]*$", r"\1:", line.strip()) for line in str(text).splitlines())
    return " ".join(" ".join(lines).replace("**", "").split())


@register.simple_tag
def score_bar(score: float, threshold: float) -> SafeString:
    """A similarity from 0 to 1 as a bar, with the evidence threshold as a line."""
    kind = "grown" if score >= threshold else "soil"
    width, line = f"{100 * min(max(score, 0.0), 1.0):.1f}%", f"{100 * threshold:.1f}%"
    return format_html(
        '<svg aria-hidden="true"><rect class="f-line" width="100%" height="5"/>'
        '<rect class="f-{}" width="{}" height="5"/>'
        '<line class="s-ink" x1="{}" x2="{}" y1="-2" y2="7" stroke-width="1.5"/></svg>',
        kind, width, line, line,
    )  # fmt: skip
