"""A completion under way: its answers' events put together, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse

from jobs import stream
from ml.errors import ColdframeError
from webapp.api.limits import RESET_S
from webapp.event_ids import event_id, is_behind
from webapp.live import Guard
from webapp.replies import Answer, Reply, error_body

Event = tuple[Answer, str, dict[str, Any]]
"""Answer, position in its own stream, event."""
_AHEAD = 64
"""Events read before they are wanted, where a request has several answers."""


@dataclass(kw_only=True)
class Asked:
    """A request to the API that has become requests to the engines: one an answer, in the reply's order."""

    ids: Sequence[str]
    reply: Reply
    request_id: str
    guard: Guard
    is_background: bool = False
    """The answers go on when their reader leaves."""
    n_unfinished: int | None = None
    """Of the team, with these; None: these were not asked just now."""

    def __post_init__(self) -> None:
        self._open = set(self.ids)

    async def submit(self, requests: Sequence[stream.GenerateRequest]) -> None:
        """Queues all or none. Raises BusyError or UnavailableError."""
        self.n_unfinished = await stream.asubmit(requests)

    async def events(self) -> AsyncIterator[Event]:
        """The answers' events. Errors are raised; a reader that leaves, or may not read any more, stops the rows."""
        try:
            async with aclosing(_merged(self.ids)) as merged:
                async for place, position, event in merged:
                    await self._check(self.ids[place], event)
                    yield self.reply.answers[place], position, event
        finally:
            if not self.is_background:
                await self.cancel()

    async def _check(self, request_id: str, event: dict[str, Any]) -> None:
        """Raises what ends the reply: an answer's error, or that nobody may read it any more."""
        if not await self.guard.holds():
            await self.cancel()
            raise ColdframeError(
                "The token was revoked or its owner suspended.", code="invalid_api_key", status=401
            )  # fmt: skip
        if event["event"] in stream.FINAL_EVENTS:
            self._open.discard(request_id)
        if event["event"] == "error":
            await self.cancel()
            raise stream.error_from(event["error"])

    async def cancel(self) -> None:
        """Stops the answers that are not over as far as was read."""
        for request_id in list(self._open):
            self._open.discard(request_id)
            await stream.acancel(request_id)

    def left(self) -> None:
        """The reader has left."""
        for request_id in () if self.is_background else list(self._open):
            self._open.discard(request_id)
            stream.cancel(request_id)

    def tell(self, response: HttpResponse) -> None:
        """The headers of an answer: its request, and what is left of the team's queue."""
        response.headers["X-Request-ID"] = self.request_id
        if self.n_unfinished is None:
            return
        left = max(stream.TEAM_QUEUE_LIMIT - self.n_unfinished, 0)
        response.headers["X-RateLimit-Limit-Requests"] = str(stream.TEAM_QUEUE_LIMIT)
        response.headers["X-RateLimit-Remaining-Requests"] = str(left)
        response.headers["X-RateLimit-Reset-Requests"] = "0s" if left else f"{RESET_S}s"


async def _merged(ids: Sequence[str]) -> AsyncGenerator[tuple[int, str, dict[str, Any]], None]:
    """(place of the answer, position, event) until every answer has ended."""
    if len(ids) == 1:
        async for position, event in stream.events(ids[0], block_s=1):
            yield 0, position, event
        return
    queue: asyncio.Queue[tuple[int, str, dict[str, Any] | Exception]] = asyncio.Queue(_AHEAD)

    async def pump(place: int, request_id: str) -> None:
        try:
            async for position, event in stream.events(request_id, block_s=1):
                await queue.put((place, position, event))
        except Exception as error:
            await queue.put((place, "", error))

    tasks = [asyncio.create_task(pump(place, request_id)) for place, request_id in enumerate(ids)]
    n_open = len(ids)
    try:
        while n_open:
            place, position, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            n_open -= item["event"] in stream.FINAL_EVENTS
            yield place, position, item
    finally:
        await stream.end_tasks(tasks)


async def whole(asked: Asked) -> dict[str, Any]:
    async for answer, _, event in asked.events():
        answer.take(event)
    return asked.reply.whole()


class Chunks:
    """The body of a streamed answer. `first` are events read before the headers were sent; an error after that is the
    stream's last object. Django calls `close` when the reader has left, whatever the generators were doing.

    An answer that goes on without its reader gives each chunk an id. `after`, such an id's positions, is where a reader
    goes on: events up to there are taken again, for what the later ones build on, and not told."""

    def __init__(
        self, asked: Asked, first: Sequence[Event], rest: AsyncIterator[Event], after: Mapping[int, str]
    ) -> None:
        self._asked, self._first, self._rest = asked, first, rest
        self._positions = dict(after)

    def close(self) -> None:
        self._asked.left()

    async def __aiter__(self) -> AsyncIterator[str]:
        reply = self._asked.reply
        for chunk in () if self._positions else reply.opening():
            yield _line(chunk)
        for item in self._first:
            for line in self._lines(*item):
                yield line
        try:
            async for item in self._rest:
                for line in self._lines(*item):
                    yield line
        except ColdframeError as error:
            yield _line(error_body(error, self._asked.request_id))
        else:
            if reply.with_usage:
                yield _line(reply.of_usage())
            yield "data: [DONE]\n\n"

    def _lines(self, answer: Answer, position: str, event: dict[str, Any]) -> list[str]:
        if event["event"] == "waiting":
            return [": waiting\n\n"]
        piece = answer.take(event)
        is_told = piece is not None or event["event"] == "done"
        last = self._positions.get(answer.index)
        if not is_told or (last is not None and not is_behind(position, last)):
            return []
        reply = self._asked.reply
        chunk = reply.closing(answer) if piece is None else reply.of_piece(answer, piece)
        if not self._asked.is_background:
            return [_line(chunk)]
        self._positions[answer.index] = position
        return [f"id: {event_id(self._positions)}\n{_line(chunk)}"]


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
