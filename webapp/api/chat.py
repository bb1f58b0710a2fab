"""POST /v1/chat/completions and /v1/completions: check, resolve, queue, answer whole or as a stream."""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from ninja import Router

from jobs import stream
from ml.errors import UnavailableError
from webapp.api.answers import Asked, Chunks, Event, whole
from webapp.api.limits import FIRST_EVENT_S
from webapp.api.prepare import Prepared, chat, completion
from webapp.api.schemas import ChatRequest, CompletionRequest
from webapp.errors import request_id_of
from webapp.live import Guard

router = Router(tags=["chat"])


async def need_engine(base: str = "") -> None:
    """Raises UnavailableError at once rather than letting a client wait for an engine that is not there. `base`: the
    base model that it must serve; "" is any."""
    engines = await stream.aengines()
    if not (stream.serving(base, engines) if base else engines):
        raise UnavailableError(
            f"No engine of {base} is running." if base else "The engine is not running.",
            hint="Try again in some seconds.", code="engine_starting",
        )  # fmt: skip


@router.post("/chat/completions", url_name="chat_completions", summary="Ask a model, an adapter or a prompt")
async def chat_completions(request: HttpRequest, body: ChatRequest) -> Any:
    """Answers in OpenAI's shape; with `stream` as server-sent events that end in `[DONE]`."""
    prepared = await sync_to_async(chat)(request.team, body)  # type: ignore[attr-defined]
    return await _answered(request, prepared, is_stream=bool(body.stream))


@router.post("/completions", url_name="completions", summary="Continue texts")
async def completions(request: HttpRequest, body: CompletionRequest) -> Any:
    """OpenAI's older shape: texts are continued as they stand, without a chat template. Several are one batch."""
    prepared = await sync_to_async(completion)(request.team, body)  # type: ignore[attr-defined]
    return await _answered(request, prepared, is_stream=bool(body.stream))


async def _answered(request: HttpRequest, prepared: Prepared, *, is_stream: bool) -> Any:
    asked = Asked(
        requests=prepared.requests, reply=prepared.reply, request_id=request_id_of(request),
        guard=Guard(request, level="viewer"),
    )  # fmt: skip
    await need_engine(prepared.requests[0].base)
    await asked.submit()
    if is_stream:
        return await _streamed(asked)
    response = JsonResponse(await whole(asked), json_dumps_params={"ensure_ascii": False})
    asked.tell(response)
    return response


async def _streamed(asked: Asked) -> StreamingHttpResponse:
    """Waits for the first sign of the answer, so that what fails before it has a status of its own."""
    events = asked.events()
    first: list[Event] = []
    deadline = time.monotonic() + FIRST_EVENT_S
    async for answer, event in events:
        first.append((answer, event))
        if event["event"] in ("start", "token", "done") or time.monotonic() > deadline:
            break
    response = StreamingHttpResponse(Chunks(asked, first, events), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    asked.tell(response)
    return response
