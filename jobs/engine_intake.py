"""Requests from the stream: new ones, those of engines that died, and cancellations. Runs in a thread of its own.

Guarantees: an engine takes no more than it can hold, so that others get their share; a request stays in the stream
until its answer is done; the requests of an engine without a heartbeat (or whose process is gone on this machine) are
taken over by exactly one other; one that was delivered too often (it may kill engines) is refused. Survives Redis going
away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from jobs import stream
from jobs.engine_handover import handed
from jobs.engine_leaving import is_gone
from jobs.engine_reader import StreamReader
from jobs.engine_ticket import Ticket, Tickets
from jobs.engine_writer import OWNERS, AnswerWriter, Write, final_at
from jobs.stream_redis import client
from ml.errors import ColdframeError, SpecError, UnavailableError

MAX_ATTEMPTS = 4
RESCUE_EVERY_S = 2.0
_RESCUE_IDLE_MS = 1000
_TAKE = 8
logger = logging.getLogger(__name__)


class Intake(StreamReader):
    """Calls `take(ticket)` for each request, `refuse(ticket, error)` for one that must not be tried, `cancel(id)`."""

    name = "requests"

    def __init__(
        self,
        engine_id: str,
        base: str,
        tickets: Tickets,
        *,
        limit: int,
        writer: AnswerWriter,
        take: Callable[[Ticket], None],
        refuse: Callable[[Ticket, ColdframeError], None],
        cancel: Callable[[str], None],
    ) -> None:
        self._base, self._key = base, stream.requests_key(base)
        super().__init__(engine_id, self._key)
        self._tickets = tickets
        self._limit = limit
        self._writer = writer
        self._take, self._refuse, self._cancel = take, refuse, cancel
        self._rescue_at = 0.0
        self._is_closed = threading.Event()

    def close(self) -> None:
        """Takes no more requests after the round under way; cancellations are still heard."""
        self._is_closed.set()

    def tick(self) -> None:
        """One round: cancellations, orphans now and then, new requests (waits a moment for them)."""
        self._take_cancels()
        if self._is_closed.is_set():
            self._stop.wait(0.05)
            return
        if time.monotonic() >= self._rescue_at:
            self._rescue_at = time.monotonic() + RESCUE_EVERY_S
            self.rescue()
        room = self._limit - len(self._tickets)
        if room <= 0:
            self._stop.wait(0.05)
            return
        for entry_id, fields, attempt in handed(self._engine_id, self._base, room):
            room -= 1
            self._accept(entry_id, fields, attempt=attempt)
        if room <= 0:
            return
        found = client().xreadgroup(stream.GROUP, self._engine_id, {self._key: ">"}, count=min(room, _TAKE), block=100)
        for entry_id, fields in found[0][1] if found else ():
            self._accept(entry_id, fields, attempt=1)

    def _take_cancels(self) -> None:
        ids = self._tickets.ids()
        if not ids:
            return
        flags = client().mget([stream.cancel_key(request_id) for request_id in ids])
        for request_id, flag in zip(ids, flags, strict=True):
            if flag:
                self._cancel(request_id)

    def rescue(self) -> None:
        """Takes over the requests of engines that are gone."""
        pending = client().xpending_range(self._key, stream.GROUP, "-", "+", 1000, idle=_RESCUE_IDLE_MS)
        gone: dict[str, bool] = {self._engine_id: False}
        room = self._limit - len(self._tickets)
        for entry in pending:
            owner = entry["consumer"]
            if owner not in gone:
                gone[owner] = is_gone(client().hgetall(stream.engine_key(owner)))
            if gone[owner] and room > 0:
                room -= 1
                self._claim(entry["message_id"], entry["times_delivered"] + 1)

    def _claim(self, entry_id: str, attempt: int) -> None:
        claimed = client().xclaim(self._key, stream.GROUP, self._engine_id, _RESCUE_IDLE_MS, [entry_id])
        for claimed_id, fields in claimed:
            if fields:
                logger.info("taking over request %s, delivery %d", fields["id"], attempt)
                self._accept(claimed_id, fields, attempt=attempt)
        if not claimed:
            logger.debug("request entry %s was taken over by another engine", entry_id)

    def _accept(self, entry_id: str, fields: Mapping[str, str], *, attempt: int) -> None:
        client().hset(OWNERS, fields.get("id", ""), self._engine_id)
        try:
            ticket = Ticket.from_entry(entry_id, fields, attempt=attempt)
        except (ColdframeError, ValueError, KeyError, TypeError) as error:
            self._drop_unreadable(entry_id, fields.get("id", ""), error)
            return
        if not self._tickets.add(ticket):
            return
        replay(ticket, client().xrange(stream.answer_key(ticket.id)))
        if attempt > MAX_ATTEMPTS and ticket.final is None:
            self._refuse(
                ticket,
                UnavailableError(
                    f"The answer was begun {attempt - 1} times and each engine stopped on it.",
                    hint="Ask in another way; the engine's log says what happened.",
                    code="engine_lost",
                ),
            )
            return
        self._take(ticket)

    def _drop_unreadable(self, entry_id: str, request_id: str, error: Exception) -> None:
        logger.error("request %s cannot be read: %s", request_id, error)
        reason = error if isinstance(error, ColdframeError) else SpecError(f"The request cannot be read: {error}.")
        data = {"error": reason.as_dict()}
        self._writer.put(Write(id=request_id, at=final_at(0), event="error", data=data, acknowledge=entry_id))


def replay(ticket: Ticket, past: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Notes in the ticket what earlier engines have sent."""
    for _, fields in past:
        event = stream.parse_event(fields)
        if event["event"] == "token":
            ticket.emitted += event["ids"]
            ticket.text += event["text"]
        elif event["event"] == "sources":
            ticket.sources = event["sources"]
        elif event["event"] == "start":
            ticket.info = event
        elif event["event"] in stream.FINAL_EVENTS:
            ticket.final = event
    ticket.n_sent = len(ticket.emitted)
