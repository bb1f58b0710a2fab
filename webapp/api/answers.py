"""A completion under way: its answers' events put together, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpResponse

from jobs import stream
from ml.errors import ColdframeError
from webapp.api.limits import RESET_S
from webapp.live import Guard
from webapp.replies import Answer, Reply, error_body

Event = tuple[Answer, dict[str, Any]]
_AHEAD = 64
"""Events read before they are wanted, where a request has several answers."""


@dataclass(kw_only=True)
class Asked:
    """A request to the API that has become requests to the engines: one an answer, in the reply's order."""

    requests: Sequence[stream.GenerateRequest]
    reply: Reply
    request_id: str
    guard: Guard
    n_unfinished: int = 0
    """Of the team, with these."""
    _open: set[str] = field(default_factory=set)

    async def submit(self) -> None:
        """Queues all or none. Raises BusyError or UnavailableError."""
        self.n_unfinished = await stream.asubmit(self.requests)
        self._open = {request.id for request in self.requests}

    async def events(self) -> AsyncIterator[Event]:
        """The answers' events. Errors are raised; a reader that leaves, or may not read any more, stops the rows."""
        try:
            async with aclosing(_merged([request.id for request in self.requests])) as merged:
                async for place, event in merged:
                    if not await self.guard.holds():
                        raise ColdframeError(
                            "The token was revoked or its owner suspended.", code="invalid_api_key", status=401
                        )  # fmt: skip
                    if event["event"] in stream.FINAL_EVENTS:
                        self._open.discard(self.requests[place].id)
                    if event["event"] == "error":
                        raise stream.error_from(event["error"])
                    yield self.reply.answers[place], event
        finally:
            for request_id in list(self._open):
                self._open.discard(request_id)
                await stream.acancel(request_id)

    def stop(self) -> None:
        """Stops what is not over; for a reader that has left."""
        for request_id in list(self._open):
            self._open.discard(request_id)
            stream.cancel(request_id)

    def tell(self, response: HttpResponse) -> None:
        """The headers of an answer: its request, and what is left of the team's queue."""
        left = max(stream.TEAM_QUEUE_LIMIT - self.n_unfinished, 0)
        response.headers["X-Request-ID"] = self.request_id
        response.headers["X-RateLimit-Limit-Requests"] = str(stream.TEAM_QUEUE_LIMIT)
        response.headers["X-RateLimit-Remaining-Requests"] = str(left)
        response.headers["X-RateLimit-Reset-Requests"] = "0s" if left else f"{RESET_S}s"


async def _merged(ids: Sequence[str]) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
    """(place of the answer, event) until every answer has ended."""
    if len(ids) == 1:
        async for _, event in stream.events(ids[0], block_s=1):
            yield 0, event
        return
    queue: asyncio.Queue[tuple[int, dict[str, Any] | Exception]] = asyncio.Queue(_AHEAD)

    async def pump(place: int, request_id: str) -> None:
        try:
            async for _, event in stream.events(request_id, block_s=1):
                await queue.put((place, event))
        except Exception as error:
            await queue.put((place, error))

    tasks = [asyncio.create_task(pump(place, request_id)) for place, request_id in enumerate(ids)]
    n_open = len(ids)
    try:
        while n_open:
            place, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            n_open -= item["event"] in stream.FINAL_EVENTS
            yield place, item
    finally:
        await stream.end_tasks(tasks)


async def whole(asked: Asked) -> dict[str, Any]:
    async for answer, event in asked.events():
        answer.take(event)
    return asked.reply.whole()


class Chunks:
    """The body of a streamed answer. `first` are events read before the headers were sent; an error after that is the
    stream's last object. Django calls `close` when the reader has left, whatever the generators were doing."""

    def __init__(self, asked: Asked, first: list[Event], rest: AsyncIterator[Event]) -> None:
        self._asked, self._first, self._rest = asked, first, rest

    def close(self) -> None:
        self._asked.stop()

    async def __aiter__(self) -> AsyncIterator[str]:
        reply = self._asked.reply
        for chunk in reply.opening():
            yield _line(chunk)
        for answer, event in self._first:
            for line in _lines(reply, answer, event):
                yield line
        try:
            async for answer, event in self._rest:
                for line in _lines(reply, answer, event):
                    yield line
        except ColdframeError as error:
            yield _line(error_body(error, self._asked.request_id))
        else:
            if reply.with_usage:
                yield _line(reply.of_usage())
            yield "data: [DONE]\n\n"


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _lines(reply: Reply, answer: Answer, event: dict[str, Any]) -> list[str]:
    if event["event"] == "waiting":
        return [": waiting\n\n"]
    piece = answer.take(event)
    if piece is not None:
        return [_line(reply.of_piece(answer, piece))]
    return [_line(reply.closing(answer))] if event["event"] == "done" else []
