"""POST /v1/chat/completions: check, resolve, queue, answer whole or as a stream."""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from ninja import Router

from jobs import stream
from ml.errors import NotFoundError, SpecError, UnavailableError
from webapp.api.answers import Asked, Chunks, events_of, whole
from webapp.api.limits import FIRST_EVENT_S
from webapp.api.schemas import ChatRequest
from webapp.errors import request_id_of
from webapp.live import Guard
from webapp.models import Collection, Team
from webapp.selectors.targets import resolve
from webapp.services.asking import clean_text, request_for, sampling_from

router = Router(tags=["chat"])


def _only(body: ChatRequest, name: str, neutral: Any, hint: str) -> None:
    value = getattr(body, name)
    if value is not None and value != neutral:
        shown = str(neutral).lower()
        raise SpecError(f"{name} may only be {shown}, got {value!r}.", hint=hint, field=name)


def _check(body: ChatRequest) -> None:
    _only(body, "n", 1, "Send the request once for each answer; they share a batch.")
    _only(body, "logprobs", False, "Log-probabilities are not supported.")
    _only(body, "frequency_penalty", 0, "Use repetition_penalty.")
    _only(body, "presence_penalty", 0, "Use repetition_penalty.")
    if body.messages[-1].role != "user":
        raise SpecError(
            f"The last message must be the user's, got {body.messages[-1].role!r}.",
            hint="End messages with the question.", field="messages",
        )  # fmt: skip


def _collection(team: Team, name: str | None) -> Collection | None:
    if name is None:
        return None
    found = Collection.objects.for_team(team).filter(name=name.replace("\x00", "")).first()
    if found is None:
        raise NotFoundError(
            f"Your team has no collection {name[:80]!r}.", hint="The Collections page lists them.",
            field="collection", code="collection_not_found",
        )  # fmt: skip
    return found


def _prepare(request: HttpRequest, body: ChatRequest) -> Asked:
    _check(body)
    target = resolve(team=request.team, name=body.model)
    collection = _collection(request.team, body.collection)
    given = body.dict(exclude_none=True)
    given["max_tokens"] = given.pop("max_completion_tokens", None) or given.get("max_tokens")
    if 0 in (body.max_tokens, body.max_completion_tokens):
        raise SpecError("max_tokens must be at least 1, got 0.", field="max_tokens")
    messages = [message.as_dict() for message in body.messages]
    for message in messages:
        message["content"] = clean_text(message["content"], field="messages")
    generate = request_for(
        target=target, team_id=request.team.pk, messages=messages, sampling=sampling_from(given),
        collection_id=collection.pk if collection else None,
    )  # fmt: skip
    return Asked(
        request=generate, model=target.name, request_id=request_id_of(request), guard=Guard(request, level="viewer"),
        with_usage=bool(body.stream_options and body.stream_options.include_usage),
    )  # fmt: skip


async def need_engine() -> None:
    """Raises UnavailableError at once rather than letting a client wait for an engine that is not there."""
    if not await stream.aengines():
        raise UnavailableError(
            "The engine is not running.", hint="Try again in some seconds.", code="engine_starting"
        )  # fmt: skip


@router.post("/chat/completions", url_name="chat_completions", summary="Ask a model, an adapter or a prompt")
async def chat_completions(request: HttpRequest, body: ChatRequest) -> Any:
    """Answers in OpenAI's shape; with `stream` as server-sent events that end in `[DONE]`."""
    asked = await sync_to_async(_prepare)(request, body)
    await need_engine()
    await stream.asubmit([asked.request])
    if body.stream:
        return await _streamed(asked)
    response = JsonResponse(await whole(asked), json_dumps_params={"ensure_ascii": False})
    response.headers["X-Request-ID"] = asked.request_id
    return response


async def _streamed(asked: Asked) -> StreamingHttpResponse:
    """Waits for the first sign of the answer, so that what fails before it has a status of its own."""
    events = events_of(asked)
    first: list[dict[str, Any]] = []
    deadline = time.monotonic() + FIRST_EVENT_S
    async for event in events:
        first.append(event)
        if event["event"] in ("start", "token", "done") or time.monotonic() > deadline:
            break
    response = StreamingHttpResponse(Chunks(asked, first, events), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["X-Request-ID"] = asked.request_id
    return response
