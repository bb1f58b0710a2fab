"""Which adapters are in production, over all teams: what an engine keeps in memory."""

from __future__ import annotations

from django.db import close_old_connections

from webapp.models import Alias
from webapp.selectors.targets import PRODUCTION

MOST = 1000
"""Artifacts that are told; an engine's memory is full long before."""


def artifacts_in_production(fingerprint: str) -> list[str]:
    """Artifacts for the base model with this fingerprint, the one promoted last first. For an engine's thread: leaves
    no stale database connection behind."""
    close_old_connections()
    live = Alias.objects.filter(
        name=PRODUCTION, adapter__is_retired=False, version__base_fingerprint=fingerprint
    ).order_by("-moved_at")
    return list(dict.fromkeys(live.values_list("version__artifact", flat=True)[:MOST]))
