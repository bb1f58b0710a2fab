"""The answers of one turn as server-sent events, all on one connection, re-joinable at any point.

An event's id says how far each answer was read (webapp.event_ids). Without one the stream begins at the answers' first
tokens. Closing it stops nothing: the engine goes on and keeps the answers. 204 means that there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.http import require_GET

from jobs import stream
from ml.errors import ColdframeError, NotFoundError
from webapp.event_ids import asked_after, event_id
from webapp.live import Guard, event_stream
from webapp.models import Message
from webapp.policy import policy
from webapp.selectors import chat as selectors
from webapp.selectors.chat_page import source_of_event
from webapp.selectors.engines import in_short
from webapp.services.answers import OVERDUE, answer_failed

logger = logging.getLogger(__name__)
BEAT_S = 2.0
"""Silence after which a comment keeps the connection open."""
SETTLE_S = 5.0
"""How long the row may take to follow its stream's end."""
BATCH_S = 1.0
Item = tuple[int, str, dict[str, Any]]
"""Message, position in its stream ("" for none), event."""


def _open_answers(request: HttpRequest, pk: int, turn: int) -> list[Message]:
    conversation = selectors.conversation_of(team=request.team, user=request.user, pk=pk)
    rows = conversation.messages.filter(turn=turn, role=Message.Role.ASSISTANT, is_superseded=False)
    return [message for message in rows if selectors.is_open(message)]


@policy("viewer")
@require_GET
async def events(request: HttpRequest, pk: int, turn: int) -> HttpResponse | StreamingHttpResponse:
    waiting = await sync_to_async(_open_answers)(request, pk, turn)
    if not waiting:
        return HttpResponse(status=204)
    return event_stream(_stream(Guard(request), waiting, asked_after(request)))


def _line(name: str, data: Any, event_id: str = "") -> str:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _stream(guard: Guard, waiting: list[Message], after: dict[int, str]) -> AsyncIterator[str]:
    queue: asyncio.Queue[Item] = asyncio.Queue(maxsize=500)
    tasks = [asyncio.create_task(_pump(m, after.get(m.pk, "0"), queue)) for m in waiting]
    tasks.append(asyncio.create_task(_watch_batch(waiting, queue)))
    positions, n_open = dict(after), len(waiting)
    yield "retry: 2000\n\n"
    try:
        while n_open:
            if not await guard.holds():
                yield _line("cut", {})
                return
            try:
                message, position, event = await asyncio.wait_for(queue.get(), BEAT_S)
            except TimeoutError:
                if all(task.done() for task in tasks[:-1]):
                    return
                yield ": beat\n\n"
                continue
            if position:
                positions[message] = position
            name = event.pop("event")
            n_open -= name == "ended"
            yield _line(name, {"m": message, **event}, event_id(positions))
    finally:
        await _end(tasks)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    await stream.end_tasks(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()):
            logger.error("a reader of answers failed", exc_info=error)


async def _pump(message: Message, after: str, queue: asyncio.Queue[Item]) -> None:
    """One answer's events into the queue; `ended` comes last, when the row can be shown."""
    try:
        async for position, event in stream.events(message.request_id.hex, after, block_s=BEAT_S):
            if event["event"] in stream.FINAL_EVENTS:
                break
            if event["event"] == "sources":
                collection_id = message.info.get("asked", {}).get("collection")
                found = [source_of_event(source, collection_id) for source in event.get("sources", [])]
                event = {"event": "sources", "sources": found}
            event.pop("logprobs", None)
            await queue.put((message.pk, position, event))
    except NotFoundError:
        # The stream is kept for an hour; what is older is in the row.
        await sync_to_async(_fail_if_overdue)(message)
    except ColdframeError as error:
        if not await sync_to_async(_fail_if_overdue)(message):
            await queue.put((message.pk, "", {"event": "lost", "error": error.as_dict()}))
            return
    await _settled(message)
    await queue.put((message.pk, "", {"event": "ended"}))


def _fail_if_overdue(message: Message) -> bool:
    return selectors.is_overdue(message) and answer_failed(message_id=message.pk, error=OVERDUE)


async def _settled(message: Message) -> None:
    """The engine keeps the answer's row at about the same time as it ends the stream."""
    for _ in range(int(SETTLE_S / 0.1)):
        row = await Message.objects.filter(pk=message.pk).only("state", "created_at").afirst()
        if row is None or not selectors.is_open(row):
            return
        await asyncio.sleep(0.1)


async def _watch_batch(waiting: list[Message], queue: asyncio.Queue[Item]) -> None:
    """What else is in the batch. Rows of other teams are counted, never named."""
    ours = {m.request_id.hex: m.pk for m in waiting}
    team_id = waiting[0].team_id
    while True:
        await asyncio.sleep(BATCH_S)
        with suppress(ColdframeError):
            for engine in await stream.aengines():
                if any(str(row.get("id")).partition(":")[0] in ours for row in engine.get("rows", [])):
                    await queue.put((0, "", {"event": "batch", **_batch_of(engine, ours, team_id)}))


def _batch_of(engine: dict[str, Any], ours: dict[str, int], team_id: int) -> dict[str, Any]:
    def lane(row: dict[str, Any]) -> dict[str, Any]:
        if row.get("team_id") != team_id:
            return {"label": "another team", "mine": None}
        request_id = str(row.get("id")).partition(":")[0]  # a text of several that vote: id:n
        return {"label": row.get("label") or "plain model", "mine": ours.get(request_id)}

    return {**in_short(engine), "rows": [lane(row) for row in engine.get("rows", [])]}
