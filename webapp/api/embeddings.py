"""POST /v1/embeddings: vectors of the embedding model that collections use."""

from __future__ import annotations

import base64
import struct
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Router

from jobs import stream
from ml.errors import NotFoundError, SpecError
from webapp.api.chat import need_engine
from webapp.api.limits import EMBEDDING_NAME, MAX_INPUT_CHARS, MAX_INPUTS
from webapp.api.schemas import EmbeddingRequest
from webapp.errors import request_id_of
from webapp.services.asking import clean_text

router = Router(tags=["embeddings"])


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_INPUTS:
        n = len(texts) if isinstance(texts, list) else type(texts).__name__
        raise SpecError(f"input must be a text or a list of 1 to {MAX_INPUTS} texts, got {n}.", field="input")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise SpecError(
                f"input {number} must be a text that is not empty, got {text!r:.60}.",
                hint="Token ids are not taken: send the text.", field="input",
            )  # fmt: skip
    return [clean_text(text, field="input", limit=MAX_INPUT_CHARS) for text in texts]


def _encoded(vector: list[float], encoding: str) -> Any:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@router.post("/embeddings", url_name="embeddings", summary="Vectors of texts")
async def embeddings(request: HttpRequest, body: EmbeddingRequest) -> HttpResponse:
    """`model` is `minilm`. Floats, or base64 of little-endian float32."""
    if body.model not in (EMBEDDING_NAME, settings.EMBEDDING_MODEL):
        raise NotFoundError(
            f"There is no embedding model {body.model[:80]!r}.", hint=f"Did you mean {EMBEDDING_NAME}?",
            field="model", code="model_not_found",
        )  # fmt: skip
    texts = _texts(body.input)
    await need_engine()
    reply = await stream.acall_service("embed", {"texts": texts}, timeout_s=60)
    vectors = reply["vectors"]
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        raise SpecError(f"dimensions may only be {len(vectors[0])}, got {body.dimensions}.", field="dimensions")
    n_tokens = int(reply.get("n_tokens") or 0)
    data = [
        {"object": "embedding", "index": i, "embedding": _encoded(vector, body.encoding_format)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    response = JsonResponse({"object": "list", "data": data, "model": EMBEDDING_NAME, "usage": usage})
    response.headers["X-Request-ID"] = request_id_of(request)
    return response
