"""How long runs took, and a paper by its authors and year, for display."""

from __future__ import annotations

import re

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


@register.filter
def cited(paper: str) -> str:
    """`Hu et al. 2021, LoRA: …` → `Hu et al. 2021`; the whole where there is no year."""
    found = re.match(r".*?\b\d{4}\b", paper)
    return found.group() if found else paper
