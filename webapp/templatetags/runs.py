"""How long runs took, for display."""

from __future__ import annotations

from django import template

from webapp.models import Run
from webapp.templatetags.cf import duration

register = template.Library()


@register.simple_tag
def took(run: Run) -> str:
    """From the first start to the end; a dash for runs that never began or are not over."""
    if run.started_at is None or run.finished_at is None:
        return "–"
    return duration((run.finished_at - run.started_at).total_seconds())
