"""The end of each answer: the chat message is kept, then the last event is sent and the request acknowledged.

A thread of its own, since a database may be slow. Guarantees: a request is acknowledged only when its message is kept
(so that another engine makes up for one that died in between); a database that fails delays nobody's stream: the last
event is sent all the same, and keeping is tried again with growing pauses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from jobs.engine_ticket import Ticket, Tickets
from jobs.engine_writer import AnswerWriter, Write, final_at, tail_at

MAX_TRIES = 12
RETRY_S = 1.0
"""Pause after the first failure; it doubles, up to a minute."""
logger = logging.getLogger(__name__)


class Messages(Protocol):
    """Where chat messages are completed; each call may be repeated."""

    def started(self, *, message_id: int, info: Mapping[str, Any]) -> None: ...

    def finished(
        self, *, message_id: int, text: str, sources: list[dict[str, Any]], event: Mapping[str, Any]
    ) -> None: ...

    def failed(self, *, message_id: int, text: str, error: Mapping[str, Any], info: Mapping[str, Any]) -> None: ...


class DjangoMessages:
    """The messages of webapp. Django must be set up; each call leaves no stale database connection behind."""

    def started(self, *, message_id: int, info: Mapping[str, Any]) -> None:
        from webapp.services.chat import answer_started

        self._call(answer_started, message_id=message_id, info=info)

    def finished(self, *, message_id: int, text: str, sources: list[dict[str, Any]], event: Mapping[str, Any]) -> None:
        from webapp.services.chat import answer_finished

        info = {key: value for key, value in event.items() if key not in ("event", "finish_reason", "usage")}
        self._call(
            answer_finished, message_id=message_id, text=text, sources=sources, info=info,
            finish_reason=event["finish_reason"], usage=event["usage"],
        )  # fmt: skip

    def failed(self, *, message_id: int, text: str, error: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        from webapp.services.chat import answer_failed

        self._call(answer_failed, message_id=message_id, text=text, error=error, info=info)

    def _call(self, function: Callable[..., object], **arguments: Any) -> None:
        from django.db import close_old_connections

        close_old_connections()
        function(**arguments)


@dataclass(eq=False, kw_only=True)
class _Job:
    ticket: Ticket
    keep: Callable[[], None]
    """Writes to the database."""
    final: Write | None
    """Sent after the first try to keep; None for a beginning."""
    tail: Write | None = None
    tries: int = 0
    due: float = 0.0


class Closer:
    def __init__(self, tickets: Tickets, writer: AnswerWriter, messages: Messages) -> None:
        self._tickets = tickets
        self._writer = writer
        self._messages = messages
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._waiting: list[_Job] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="messages", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5) -> None:
        self._stop.set()
        self._thread.join(timeout_s)

    def begin(self, ticket: Ticket) -> None:
        message_id = ticket.request.message_id
        if message_id is not None:
            info = {key: value for key, value in ticket.info.items() if key != "event"}
            self._put(ticket, lambda: self._messages.started(message_id=message_id, info=info), None)

    def finish(self, ticket: Ticket, *, text: str, event: dict[str, Any], tail: str = "") -> None:
        """`event` is the data of `done`; `tail` the text that no token event has carried."""
        message_id, sources = ticket.request.message_id, ticket.sources or []

        def keep() -> None:
            if message_id is not None:
                self._messages.finished(message_id=message_id, text=text, sources=sources, event=event)

        last = None
        if tail:
            data = {"text": tail, "ids": [], "step": event["last_step"], "rows": ticket.n_rows, "n": ticket.n_sent}
            last = Write(id=ticket.id, at=tail_at(ticket.n_sent), event="token", data=data)
        self._put(ticket, keep, self._final(ticket, "done", event), last)

    def fail(self, ticket: Ticket, error: Mapping[str, Any], *, text: str = "") -> None:
        message_id = ticket.request.message_id

        def keep() -> None:
            if message_id is not None:
                info = {key: value for key, value in ticket.info.items() if key != "event"}
                self._messages.failed(message_id=message_id, text=text, error=error, info=info)

        self._put(ticket, keep, self._final(ticket, "error", {"error": dict(error)}))

    def _final(self, ticket: Ticket, event: str, data: dict[str, Any]) -> Write:
        return Write(id=ticket.id, at=final_at(ticket.n_sent), event=event, data=data)

    def _put(self, ticket: Ticket, keep: Callable[[], None], final: Write | None, tail: Write | None = None) -> None:
        job = _Job(ticket=ticket, keep=keep, final=final, tail=tail)
        if ticket.request.message_id is None:
            self._close(job)
        else:
            self._queue.put(job)

    def _run(self) -> None:
        while not (self._stop.is_set() and self._queue.empty()):
            with suppress(Empty):
                self._do(self._queue.get(timeout=0.2))
            due = [job for job in self._waiting if job.due <= time.monotonic()]
            self._waiting = [job for job in self._waiting if job not in due]
            for job in due:
                self._do(job)

    def _do(self, job: _Job) -> None:
        try:
            job.keep()
        except Exception:
            job.tries += 1
            logger.warning(
                "chat message %s could not be kept, try %d", job.ticket.request.message_id, job.tries, exc_info=True
            )
            if job.final is None:
                return
            if job.tries == 1:
                self._writer.put(*filter(None, (job.tail, job.final)))
            if job.tries < MAX_TRIES:
                job.due = time.monotonic() + min(RETRY_S * 2.0 ** (job.tries - 1), 60.0)
                self._waiting.append(job)
                return
        self._close(job)

    def _close(self, job: _Job) -> None:
        """Sends the end (once more, if it was sent before: a repetition changes nothing) and acknowledges."""
        if job.final is None:
            return
        if job.tail:
            self._writer.put(job.tail)
        final = job.final
        self._writer.put(
            Write(id=final.id, at=final.at, event=final.event, data=final.data, acknowledge=job.ticket.entry_id)
        )
        self._tickets.remove(job.ticket.id)
