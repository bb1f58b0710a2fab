"""GET /v1/models: every name of the team that may stand in `model`."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from webapp.models import Team
from webapp.selectors.targets import Entry, entries_of_team, resolve

router = Router(tags=["models"])


def _model(team: Team, entry: Entry) -> dict[str, Any]:
    created = int(entry.made.timestamp()) if entry.made else 0
    return {"id": entry.name, "object": "model", "created": created, "owned_by": team.slug}


@router.get("/models", url_name="models", summary="List the names")
def models(request: HttpRequest) -> dict[str, Any]:
    return {"object": "list", "data": [_model(request.team, entry) for entry in entries_of_team(request.team)]}


@router.get("/models/{path:name}", url_name="model", summary="What a name stands for now")
def model(request: HttpRequest, name: str) -> dict[str, Any]:
    target = resolve(team=request.team, name=name)
    entry = Entry(name=target.asked, made=target.version.created_at if target.version else None)
    return {
        **_model(request.team, entry),
        "coldframe": {
            "resolved": target.name,
            "method": target.method,
            "form": target.form,
            "base": target.base,
            "served": not target.unserved,
            "why_not": target.unserved or None,
        },
    }
