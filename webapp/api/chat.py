"""/v1/chat/completions and /v1/completions: check, resolve, queue, answer whole or as a stream, join again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from ninja import Router

from jobs import stream
from ml.errors import UnavailableError
from webapp.api.answers import Asked, Chunks, Event, whole
from webapp.api.background import joined, keep
from webapp.api.limits import FIRST_EVENT_S
from webapp.api.prepare import Prepared, chat, completion
from webapp.api.schemas import ChatRequest, CompletionRequest
from webapp.errors import request_id_of
from webapp.event_ids import asked_after
from webapp.live import Guard, event_stream

router = Router(tags=["chat"])


async def need_engine(base: str = "") -> None:
    """Raises UnavailableError at once rather than letting a client wait for an engine that is not there. `base`: the
    base model that it must serve; "" is any."""
    engines = await stream.aengines()
    if not stream.serving(base, engines):
        is_drained = any(beat.get("state") == "drained" and base in ("", beat.get("base")) for beat in engines)
        raise UnavailableError(
            f"No engine of {base} is running." if base else "The engine is not running.", code="engine_starting",
            hint="An admin has drained it, and lets it serve again on the Engine page." if is_drained else
                 "Try again in some seconds.",
        )  # fmt: skip


@router.post("/chat/completions", url_name="chat_completions", summary="Ask a model, an adapter or a prompt")
async def chat_completions(request: HttpRequest, body: ChatRequest) -> Any:
    """Answers in OpenAI's shape; with `stream` as server-sent events that end in `[DONE]`."""
    prepared = await sync_to_async(chat)(request.team, body)  # type: ignore[attr-defined]
    return await _answered(request, prepared, is_stream=bool(body.stream), is_background=bool(body.background))


@router.post("/completions", url_name="completions", summary="Continue texts")
async def completions(request: HttpRequest, body: CompletionRequest) -> Any:
    """OpenAI's older shape: texts are continued as they stand, without a chat template. Several are one batch."""
    prepared = await sync_to_async(completion)(request.team, body)  # type: ignore[attr-defined]
    return await _answered(request, prepared, is_stream=bool(body.stream), is_background=bool(body.background))


@router.get("/chat/completions/{completion_id}", url_name="chat_completion", operation_id="chat_completion",
            summary="Join an answer again")  # fmt: skip
@router.get("/completions/{completion_id}", url_name="completion", operation_id="completion",
            summary="Join continued texts again")  # fmt: skip
async def completion_again(request: HttpRequest, completion_id: str, stream: bool = False, after: str = "") -> Any:
    """An answer that was asked for with `background`, whole when it is done, or as a stream: from the event behind
    `Last-Event-ID` (or `after`) on, else from its beginning. Leaving stops nothing."""
    asked = await joined(request, completion_id)
    is_stream = stream or bool(after) or "Last-Event-ID" in request.headers
    return await _told(asked, is_stream=is_stream, after=asked_after(request))


@router.post("/chat/completions/{completion_id}/cancel", url_name="chat_completion_cancel",
             operation_id="chat_completion_cancel", summary="Stop an answer")  # fmt: skip
@router.post("/completions/{completion_id}/cancel", url_name="completion_cancel",
             operation_id="completion_cancel", summary="Stop continued texts")  # fmt: skip
async def completion_cancel(request: HttpRequest, completion_id: str) -> Any:
    """Stops an answer that was asked for with `background`. What is written stays; its `finish_reason` is `stop`."""
    asked = await joined(request, completion_id)
    await asked.cancel()
    return JsonResponse({"id": completion_id, "object": asked.reply.name, "cancelled": True})


async def _answered(request: HttpRequest, prepared: Prepared, *, is_stream: bool, is_background: bool) -> Any:
    asked = Asked(
        ids=[one.id for one in prepared.requests], reply=prepared.reply, request_id=request_id_of(request),
        guard=Guard(request, level="viewer"), is_background=is_background,
    )  # fmt: skip
    await need_engine(prepared.requests[0].base)
    if is_background:
        await keep(asked, prepared.requests[0])
    await asked.submit(prepared.requests)
    return await _told(asked, is_stream=is_stream, after={})


async def _told(asked: Asked, *, is_stream: bool, after: Mapping[int, str]) -> Any:
    if is_stream:
        return await _streamed(asked, after)
    response = JsonResponse(await whole(asked), json_dumps_params={"ensure_ascii": False})
    asked.tell(response)
    return response


async def _streamed(asked: Asked, after: Mapping[int, str]) -> StreamingHttpResponse:
    """Waits for the first sign of the answer, so that what fails before it has a status of its own."""
    events = asked.events()
    first: list[Event] = []
    deadline = time.monotonic() + FIRST_EVENT_S
    async for item in events:
        first.append(item)
        if item[2]["event"] in ("start", "token", "done") or time.monotonic() > deadline:
            break
    response = event_stream(Chunks(asked, first, events, after))
    asked.tell(response)
    return response
