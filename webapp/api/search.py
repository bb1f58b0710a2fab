"""POST /v1/collections/{name}/search: the passages alone, as an answer from the collection would stand on them."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from ninja import Router
from pydantic import Field

from jobs import stream
from webapp.api.bodies import body_of, described
from webapp.api.chat import need_engine
from webapp.api.limits import MAX_PASSAGES, SEARCH_S
from webapp.api.prepare import collection_named, whole_number
from webapp.api.schemas import Strict, Whole
from webapp.replies import CITED
from webapp.services.asking import clean_text

router = Router(tags=["collections"])


class SearchRequest(Strict):
    query: str
    top_k: Whole | None = Field(None, description="Passages at most; the collection's own number unless told.")


@router.post("/collections/{name}/search", url_name="collection_search", summary="Find passages",
             openapi_extra=described(SearchRequest))  # fmt: skip
async def search(request: HttpRequest, name: str) -> dict[str, Any]:
    team = request.team  # type: ignore[attr-defined]
    found = await sync_to_async(collection_named)(team, name)
    body = body_of(request, SearchRequest)
    top_k = whole_number("top_k", body.top_k, 1, MAX_PASSAGES, 0)
    query = clean_text(body.query, field="query").strip()
    await need_engine()
    asked = {"team_id": team.pk, "collection_id": found.pk, "query": query, "k": top_k or None}
    hits = (await stream.acall_service("search", asked, timeout_s=SEARCH_S))["hits"] if query else []
    return {"object": "list", "data": [{key: hit.get(key) for key in CITED} for hit in hits]}
