"""Between the requests' stream and the model: tickets in, the model's events out."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from jobs.attribute import marker_for
from jobs.engine_messages import Closer
from jobs.engine_prepare import Prepared, prepare
from jobs.engine_ticket import Ticket, Tickets
from jobs.engine_writer import AnswerWriter, Write, sources_at, start_at, token_at
from ml.engine.engine import Engine
from ml.engine.types import Done, Event, Failed, Started, Token
from ml.errors import ColdframeError, UnavailableError

logger = logging.getLogger(__name__)


def done_data(
    *, finish_reason: str, prompt_tokens: int = 0, completion_tokens: int = 0, **figures: Any
) -> dict[str, Any]:
    """Data of the `done` event."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    empty = {"first_step": 0, "last_step": 0, "first_token_ms": 0.0, "tokens_per_s": 0.0}
    return {"finish_reason": finish_reason, "usage": usage, **empty, **figures}


class Answers:
    def __init__(
        self,
        engine: Engine,
        engine_id: str,
        tickets: Tickets,
        writer: AnswerWriter,
        closer: Closer,
        *,
        labels: dict[str, str],
    ) -> None:
        """`labels` gets what people call each artifact, for the heartbeat."""
        self._engine = engine
        self._labels = labels
        self._engine_id = engine_id
        self._tickets = tickets
        self._writer = writer
        self._closer = closer
        self._pool = ThreadPoolExecutor(3, thread_name_prefix="prepare")
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()

    def take(self, ticket: Ticket) -> None:
        """A request from the stream; returns at once."""
        if ticket.request.artifact:
            self._labels[ticket.request.artifact] = ticket.request.label
        self._pool.submit(self._prepare, ticket)

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def cancel(self, request_id: str) -> None:
        """Repeated on each round of the intake until the answer is closed."""
        with self._lock:
            self._cancelled.add(request_id)
        self._engine.cancel(request_id)

    def drop(self, request_id: str, state: str) -> None:
        """Another engine has the request now (`taken`), or Redis lost it (`gone`): its row stops."""
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        logger.warning("request %s is not this engine's any more: %s", request_id, state)
        self._tickets.remove(request_id)
        self._engine.cancel(request_id)
        if state == "gone":
            lost = UnavailableError("Redis lost its memory, and the answer with it.", hint="Ask again.")
            self._closer.fail(ticket, lost.as_dict(), text=ticket.text)

    def refuse(self, ticket: Ticket, error: ColdframeError) -> None:
        self._closer.fail(ticket, error.as_dict(), text=ticket.text)

    def _prepare(self, ticket: Ticket) -> None:
        try:
            if ticket.final is not None:
                self._close_again(ticket, ticket.final)
                return
            prepared = prepare(ticket, self._engine)
            self._announce(ticket, prepared)
            if ticket.id in self._cancelled:
                self._finish_without_model(ticket, ticket.text, "cancelled")
            elif prepared.request is None:
                self._finish_without_model(ticket, prepared.refusal, "stop")
            else:
                self._engine.submit(prepared.request)
        except ColdframeError as error:
            self.refuse(ticket, error)
        except Exception as error:
            logger.exception("request %s could not be prepared", ticket.id)
            self.refuse(ticket, ColdframeError(f"The request could not be prepared: {error}.", code="not_prepared"))

    def _announce(self, ticket: Ticket, prepared: Prepared) -> None:
        ticket.info = {**ticket.info, "dropped": prepared.n_dropped}
        if prepared.sources is not None and ticket.sources is None:
            ticket.sources = prepared.sources
            data = {"sources": prepared.sources}
            self._writer.put(Write(id=ticket.id, at=sources_at(), event="sources", data=data))

    def _finish_without_model(self, ticket: Ticket, text: str, reason: str) -> None:
        tail = text if not ticket.n_sent else ""
        data = done_data(finish_reason=reason, completion_tokens=ticket.n_sent)
        self._closer.finish(ticket, text=text, event=data, tail=tail)

    def _close_again(self, ticket: Ticket, final: dict[str, Any]) -> None:
        """An earlier engine sent the end and died before the message was kept."""
        data = {key: value for key, value in final.items() if key != "event"}
        if final["event"] == "done":
            self._closer.finish(ticket, text=ticket.text, event=data)
        else:
            self._closer.fail(ticket, data["error"], text=ticket.text)

    def handle(self, events: list[Event]) -> None:
        """What the model's step has brought, in order."""
        for event in events:
            ticket = self._tickets.get(event.id)
            if ticket is not None:
                self._handle(ticket, event)
            if isinstance(event, Done | Failed):
                with self._lock:
                    self._cancelled.discard(event.id)

    def _handle(self, ticket: Ticket, event: Event) -> None:
        if isinstance(event, Token):
            data = {"text": event.text, "ids": list(event.ids), "step": event.step, "rows": event.rows, "n": event.n}
            if event.logprobs is not None:
                data["logprobs"] = event.logprobs
            ticket.n_sent, ticket.n_rows = event.n, event.rows
            ticket.text += event.text
            self._writer.put(Write(id=ticket.id, at=token_at(event.n), event="token", data=data))
        elif isinstance(event, Started):
            ticket.info = {
                "prompt_tokens": event.prompt_tokens,
                "prefix_tokens": event.prefix_tokens,
                "dropped": ticket.info.get("dropped", 0),
                "engine": self._engine_id,
            }
            at = start_at(ticket.n_sent, ticket.attempt)
            self._writer.put(Write(id=ticket.id, at=at, event="start", data=ticket.info))
            self._closer.begin(ticket)
        elif isinstance(event, Done):
            figures = {key: value for key, value in asdict(event).items() if key not in ("id", "text", "tail")}
            marker = "" if event.finish_reason == "cancelled" else marker_for(event.text, ticket.sources or [])
            done = done_data(**figures, is_marker_added=bool(marker))
            self._closer.finish(ticket, text=event.text + marker, event=done, tail=event.tail + marker)
        else:
            self._closer.fail(ticket, event.error.as_dict(), text=ticket.text)
