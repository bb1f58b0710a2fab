"""GET /v1/models: every name of the team that may stand in `model`, with what it stands for."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from webapp.models import AdapterVersion, PromptVersion, Team
from webapp.selectors.targets import (
    Entry,
    base_called,
    base_of,
    entries_of_team,
    resolve,
    target_of_prompt,
    why_unserved,
)

router = Router(tags=["models"])


def _about(version: AdapterVersion | PromptVersion | None, resolved: str) -> dict[str, Any]:
    """What OpenAI has no field for: how the name answers, how large it is, what it measured on test rows."""
    if version is None:
        return {"kind": "base", "method": "", "form": "plain", "base": base_called(resolved), "served": True}
    why = why_unserved(version) if isinstance(version, AdapterVersion) else target_of_prompt(version).unserved
    told = {"version": version.number, "served": not why, "why_not": why or None,
            "test": (version.metrics or {}).get("test")}  # fmt: skip
    if isinstance(version, AdapterVersion):
        return {
            "kind": "adapter", "method": version.method, "form": version.form, "base": version.base_name,
            "bytes": version.size_bytes, "n_trained": version.n_trainable, **told,
        }  # fmt: skip
    return {
        "kind": "prompt", "method": version.technique, "form": "plain", "base": base_of(version),
        "texts_that_vote": version.n_samples, "collection": version.collection_name or None, **told,
    }  # fmt: skip


def _model(team: Team, entry: Entry) -> dict[str, Any]:
    created = int(entry.made.timestamp()) if entry.made else 0
    return {
        "id": entry.name, "object": "model", "created": created, "owned_by": team.slug,
        "coldframe": {"resolved": entry.resolved, **_about(entry.version, entry.resolved)},
    }  # fmt: skip


@router.get("/models", url_name="models", summary="List the names")
def models(request: HttpRequest) -> dict[str, Any]:
    team = request.team  # type: ignore[attr-defined]
    return {"object": "list", "data": [_model(team, entry) for entry in entries_of_team(team)]}


@router.get("/models/{path:name}", url_name="model", summary="What a name stands for now")
def model(request: HttpRequest, name: str) -> dict[str, Any]:
    team = request.team  # type: ignore[attr-defined]
    target = resolve(team=team, name=name)
    made = target.version.created_at if target.version else None
    return _model(team, Entry(name=target.asked, made=made, version=target.version, resolved=target.name))
