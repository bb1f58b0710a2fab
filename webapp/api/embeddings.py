"""POST /v1/embeddings: vectors of the embedding model that collections use."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Router

from jobs import stream
from webapp.api.chat import need_engine
from webapp.api.limits import EMBEDDING_NAME
from webapp.api.prepare import EMBED_S, check_dimensions, embedding
from webapp.api.schemas import EmbeddingRequest
from webapp.errors import request_id_of
from webapp.replies import embedding_list

router = Router(tags=["embeddings"])


@router.post("/embeddings", url_name="embeddings", summary="Vectors of texts")
async def embeddings(request: HttpRequest, body: EmbeddingRequest) -> HttpResponse:
    """`model` is `minilm`. Floats, or base64 of little-endian float32. `coldframe.cut` names the texts that were longer
    than what the model reads; their beginnings count."""
    texts = embedding(body)
    await need_engine()
    found = await stream.acall_service("embed", {"texts": texts}, timeout_s=EMBED_S)
    check_dimensions(body, found)
    response = JsonResponse(embedding_list(found, model=EMBEDDING_NAME, encoding=body.encoding_format))
    response.headers["X-Request-ID"] = request_id_of(request)
    return response
