"""Reads of the frozen part: base models, the engines that serve them, and the set-up of the starter models.

Redis down means no engine and no set-up to show, never an error page. Of another team's work only the amount is told.
"""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.db.models import Count, Q

from jobs import stream
from ml.errors import ColdframeError
from ml.specs import METHODS
from webapp.models import AdapterVersion, BaseModel, Collection, Team

logger = logging.getLogger(__name__)
FORM_GLYPHS = {"plain": "t-zero", **{method.form: method.glyph for method in reversed(METHODS.values())}}
PRECISIONS = (("fp32", 4), ("bf16", 2))


def engines() -> list[dict[str, Any]]:
    """Heartbeats of the live engines; none when Redis does not answer."""
    try:
        return stream.engines()
    except ColdframeError as error:
        logger.warning("engines cannot be listed: %s", error)
        return []


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
    for beat in beats:
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


def engine_panes(*, team: Team, beats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each engine with its live rows and resident tasks, as this team may see them."""
    versions = AdapterVersion.objects.for_team(team).select_related("adapter")
    own = {version.artifact: str(version) for version in versions}
    return [_engine(beat, team, own) for beat in beats]


def _engine(beat: dict[str, Any], team: Team, own: dict[str, str]) -> dict[str, Any]:
    rows = [_row(row, team) for row in beat.get("rows") or []]
    resident, foreign = [], []
    for task in beat.get("resident") or []:
        # The engine's label may be what another team calls the same files.
        label = own.get(task.get("artifact", ""))
        (foreign if label is None else resident).append({**task, "label": label})
    live = {row.get("slot", place) for place, row in enumerate(beat.get("rows") or [])}
    most = max((task.get("bytes") or 0 for task in resident), default=0) or 1
    return {
        "beat": beat, "rows": rows, "n_slots": beat.get("slots") or 0,
        "slots": _slots(live, beat.get("slots") or 0),
        "resident": [{**task, "share": 100 * (task.get("bytes") or 0) / most} for task in resident],
        "n_foreign": len(foreign), "foreign_bytes": sum(task.get("bytes") or 0 for task in foreign),
        "resident_bytes": sum(task.get("bytes") or 0 for task in [*resident, *foreign]),
    }  # fmt: skip


def _slots(live: set[int], n_slots: int) -> list[dict[str, Any]]:
    """Places of the slots on a bar of 100 per cent."""
    width = 100 / n_slots if n_slots else 100
    return [
        {"x": f"{i * width + 0.08 * width:.2f}", "width": f"{0.84 * width:.2f}", "is_live": i in live}
        for i in range(min(n_slots, 256))
    ]


def _row(row: dict[str, Any], team: Team) -> dict[str, Any]:
    """A live row; another team's keeps nothing that tells what it is about."""
    is_own = row.get("team_id") == team.pk
    capacity = row.get("capacity") or 1
    position, prefix = min(row.get("position") or 0, capacity), min(row.get("prefix_tokens") or 0, capacity)
    form = row.get("form") or "plain"
    if not is_own:
        return {"is_own": False, "form": form, "glyph": FORM_GLYPHS.get(form, "t-zero")}
    return {
        "is_own": True, "label": row.get("label") or "plain model", "form": form,
        "glyph": FORM_GLYPHS.get(form, "t-zero"), "state": row.get("state") or "", "position": position,
        "prefix": prefix, "capacity": capacity, "prefix_share": f"{100 * prefix / capacity:.2f}",
        "rest_share": f"{100 * max(0, position - prefix) / capacity:.2f}",
    }  # fmt: skip
