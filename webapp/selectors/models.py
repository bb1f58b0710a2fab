"""Reads of the frozen part: base models with who serves them, and the set-up of the starter models.

Redis down means no set-up to show, never an error page.
"""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.db.models import Count, Q

from jobs import stream
from ml.errors import ColdframeError
from webapp.models import AdapterVersion, BaseModel, Collection, Team

logger = logging.getLogger(__name__)
PRECISIONS = (("fp32", 4), ("bf16", 2))


def setup() -> dict[str, Any] | None:
    """How far the starter models are, while they are not all there; None when nothing is to be shown."""
    try:
        progress = stream.setup_progress()
    except ColdframeError as error:
        logger.warning("the set-up cannot be looked up: %s", error)
        return None
    return progress if progress and progress["state"] != "ready" else None


def base_models(*, team: Team, beats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Language models first, each with what it weighs, who serves it and how much this team grew on it."""
    grown = AdapterVersion.objects.for_team(team).filter(adapter__is_retired=False)
    counts = dict(grown.values_list("base_name").annotate(n=Count("adapter", distinct=True)))
    served: dict[str, list[dict[str, Any]]] = {}
    for beat in stream.serving("", beats):
        served.setdefault(str(beat.get("base", "")), []).append(beat)
    rows = sorted(BaseModel.objects.all(), key=lambda row: (row.family == "embedding", row.name))
    return [
        {"model": row, "memory": _memory(row), "engines": served.get(row.name, []), "n_grown": counts.get(row.name, 0),
         "is_default": row.name == settings.BASE_MODEL}
        for row in rows if row.family != "embedding"
    ]  # fmt: skip


def embedding_models(*, team: Team) -> list[dict[str, Any]]:
    """Models that turn passages into vectors, with the team's collections that use them."""
    counts = dict(Collection.objects.for_team(team).values_list("embedder").annotate(n=Count("pk")))
    rows = BaseModel.objects.filter(Q(family="embedding"))
    return [{"model": row, "n_collections": counts.get(row.name, 0)} for row in rows]


def _memory(row: BaseModel) -> list[dict[str, Any]]:
    """Bytes that the weights take by precision, and their share of the largest."""
    parameters = row.config.get("parameters") or 0
    return [
        {"name": name, "bytes": parameters * width, "share": 100 * width / PRECISIONS[0][1]}
        for name, width in PRECISIONS if parameters
    ]  # fmt: skip
