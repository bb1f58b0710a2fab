"""Between the requests' stream and the model: tickets in, the model's events out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jobs.attribute import marker_for
from jobs.engine_handover import hand_over, local_engine
from jobs.engine_messages import Closer
from jobs.engine_prepare import Prepared, prepare
from jobs.engine_ticket import Ticket, Tickets
from jobs.engine_votes import Ballot, answer_in, owner_of, row_ids, rows_of
from jobs.engine_writer import AnswerWriter, Write, sources_at, start_at, token_at
from ml.engine.serving import Serving
from ml.engine.types import Done, Event, Failed, Request, Started, Token
from ml.errors import ColdframeError, StaysLocalError, UnavailableError
from ml.threads import helper_threads

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
    if not figures.get("labels"):
        figures.pop("labels", None)
    empty = {"first_step": 0, "last_step": 0, "first_token_ms": 0.0, "tokens_per_s": 0.0}
    return {"finish_reason": finish_reason, "usage": usage, **empty, **figures}


def _likeliest(choices: Sequence[str], scores: Sequence[float]) -> str:
    """The choice with the highest score, the first of equals; "" when nothing was to be chosen."""
    return choices[max(range(len(scores)), key=scores.__getitem__)] if choices and scores else ""


class Answers:
    def __init__(
        self,
        engine: Serving,
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
        self._pool = helper_threads(3, "prepare")
        self._slow = helper_threads(1, "prepare-nearest")
        """For requests that may wait for a data set's vectors to be computed: they wait for one another only."""
        self._ballots: dict[str, Ballot] = {}

    def take(self, ticket: Ticket) -> None:
        """A request from the stream; returns at once."""
        if ticket.request.artifact:
            self._labels[ticket.request.artifact] = ticket.request.label
        pool = self._pool if ticket.request.nearest is None else self._slow
        pool.submit(self._prepare, ticket)

    def stop(self) -> None:
        for pool in (self._pool, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)

    def cancel(self, request_id: str) -> None:
        """Repeated on each round of the intake until the answer is closed."""
        if ticket := self._tickets.get(request_id):
            ticket.is_cancelled = True
        self._cancel_rows(request_id)

    def _cancel_rows(self, request_id: str) -> None:
        ticket = self._tickets.get(request_id)
        n_samples = ticket.request.n_samples if ticket else 1
        for row_id in row_ids(request_id, n_samples):
            self._engine.cancel(row_id)

    def drop(self, request_id: str, state: str) -> None:
        """Another engine has the request now (`taken`) or shall have it (`handed back`), or Redis lost it (`gone`): its
        row stops."""
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        logger.warning("request %s is not this engine's any more: %s", request_id, state)
        self._cancel_rows(request_id)
        self._tickets.remove(request_id)
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
            if self._tickets.get(ticket.id) is not ticket:
                return
            self._announce(ticket, prepared)
            if ticket.is_cancelled:
                self._finish_without_model(ticket, ticket.text, "cancelled")
            elif prepared.request is None:
                self._finish_without_model(ticket, prepared.refusal, "stop")
            else:
                self._submit(ticket, prepared.request)
        except StaysLocalError as error:
            self._hand_over(ticket, error)
        except ColdframeError as error:
            self.refuse(ticket, error)
        except Exception as error:
            logger.exception("request %s could not be prepared", ticket.id)
            self.refuse(ticket, ColdframeError(f"The request could not be prepared: {error}.", code="not_prepared"))

    def _hand_over(self, ticket: Ticket, error: StaysLocalError) -> None:
        """To an engine that holds the model itself; refused where there is none."""
        try:
            to = local_engine(ticket.request.base)
            if to is None:
                raise error
            hand_over(ticket, sender=self._engine_id, to=to)
        except ColdframeError as refusal:
            self.refuse(ticket, refusal)
            return
        logger.info("request %s has gone to engine %s", ticket.id, to)
        self._tickets.remove(ticket.id)

    def _submit(self, ticket: Ticket, request: Request) -> None:
        n_samples = ticket.request.n_samples
        if n_samples > 1:
            self._ballots[ticket.id] = Ballot(n_samples, ticket.request.rule)
        try:
            for row in rows_of(request, n_samples):
                self._engine.submit(row)
        except ColdframeError:
            if self._ballots.pop(ticket.id, None):
                self._cancel_rows(ticket.id)
            raise

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

    def waiting(self) -> list[Ticket]:
        """Requests of which this engine has not begun the answer."""
        return [ticket for ticket in self._tickets.all() if ticket.info.get("engine") != self._engine_id]

    def handle(self, events: list[Event]) -> None:
        """What the model's step has brought, in order."""
        for event in events:
            request_id = owner_of(event.id)
            ticket, ballot = self._tickets.get(request_id), self._ballots.get(request_id)
            if ballot is not None:
                self._count(request_id, ticket, ballot, event)
            elif ticket is not None and event.id == request_id:
                self._handle(ticket, event)

    def _count(self, request_id: str, ticket: Ticket | None, ballot: Ballot, event: Event) -> None:
        """One of several texts of a request has moved on."""
        if isinstance(event, Started) and ticket is not None and not ticket.info.get("engine"):
            self._handle(ticket, event)
        if not isinstance(event, Done | Failed):
            return
        ballot.add(event)
        if ticket is not None and isinstance(event, Done):
            ticket.n_sent = len(ballot.done)
            data = {"done": len(ballot.done), "of": ballot.n_samples}
            self._writer.put(Write(id=ticket.id, at=token_at(ticket.n_sent), event="chain", data=data))
        if not ballot.is_over:
            return
        del self._ballots[request_id]
        if ballot.error is not None:
            self._cancel_rows(request_id)
        if ticket is not None and ballot.error is not None:
            self._closer.fail(ticket, ballot.error.error.as_dict())
        elif ticket is not None:
            done, outcome = ballot.result()
            self._finish(ticket, done, outcome)

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
                "cached_tokens": event.cached_tokens,
                "model": event.model,
                "dropped": ticket.info.get("dropped", 0),
                "engine": self._engine_id,
            }
            at = start_at(ticket.n_sent, ticket.attempt)
            self._writer.put(Write(id=ticket.id, at=at, event="start", data=ticket.info))
            self._closer.begin(ticket)
        elif isinstance(event, Done):
            self._finish(ticket, event, answer_in(ticket.request.rule, event.text))
        else:
            self._closer.fail(ticket, event.error.as_dict(), text=ticket.text)

    def _finish(self, ticket: Ticket, event: Done, found: dict[str, Any]) -> None:
        figures = {key: value for key, value in asdict(event).items() if key not in ("id", "text", "tail")}
        figures = {key: value for key, value in figures.items() if value != () or key not in ("scores", "n_scored")}
        # A classifier head has sent its label already.
        chosen = "" if event.labels else _likeliest(ticket.request.choices, event.scores)
        is_final = event.finish_reason == "cancelled" or bool(event.labels)
        marker = "" if is_final else marker_for(event.text, ticket.sources or [])
        done = done_data(**figures, **found, is_marker_added=bool(marker))
        self._closer.finish(ticket, text=chosen or event.text + marker, event=done, tail=chosen or event.tail + marker)
