"""Several texts, one vote: what is shown, what is told, how it ends when one fails or is stopped."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from jobs.engine_answers import Answers
from jobs.engine_ticket import Ticket, Tickets
from jobs.engine_votes import rows_of
from jobs.engine_writer import Write
from jobs.stream import GenerateRequest, new_id
from ml.engine.types import Done, Event, Failed, Request, Sampling, Started
from ml.errors import BusyError, UnavailableError

RULE = {"kind": "number"}


class Closer:
    def __init__(self) -> None:
        self.finished: list[tuple[str, dict[str, Any], str]] = []
        self.failed: list[dict[str, Any]] = []
        self.n_begun = 0

    def begin(self, ticket: Ticket) -> None:
        self.n_begun += 1

    def finish(self, ticket: Ticket, *, text: str, event: dict[str, Any], tail: str = "") -> None:
        self.finished.append((text, event, tail))

    def fail(self, ticket: Ticket, error: dict[str, Any], *, text: str = "") -> None:
        self.failed.append(error)


class Writer:
    def __init__(self) -> None:
        self.writes: list[Write] = []

    def put(self, *writes: Write) -> None:
        self.writes += writes


class Engine:
    def __init__(self, room: int = 99) -> None:
        self.room, self.rows, self.cancelled = room, [], []  # type: ignore[var-annotated]

    def submit(self, request: Request) -> None:
        if len(self.rows) == self.room:
            raise BusyError("The engine's queue is full.")
        self.rows.append(request)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


class Bench:
    """A request for three texts in a fake engine."""

    def __init__(self, room: int = 99, n_samples: int = 3) -> None:
        self.request = GenerateRequest(
            id=new_id(), team_id=1, base="b", messages=[{"role": "user", "content": "2 + 2?"}], rule=RULE,
            n_samples=n_samples, temperature=0.7,
        )  # fmt: skip
        self.engine, self.closer, self.writer, self.tickets = Engine(room), Closer(), Writer(), Tickets()
        ends_ms = int(time.time() * 1000) + 60_000
        self.ticket = Ticket(request=self.request, entry_id="1-1", ends_ms=ends_ms)
        self.tickets.add(self.ticket)
        self.answers = Answers(
            cast(Any, self.engine), "e", self.tickets, cast(Any, self.writer), cast(Any, self.closer), labels={}
        )

    def submit(self) -> None:
        request = Request(id=self.request.id, team_id=1, prompt_ids=(1, 2), sampling=Sampling(seed=5))
        self.answers._submit(self.ticket, request)

    def done(self, place: int, text: str, reason: Any = "stop") -> Done:
        return Done(
            id=f"{self.request.id}:{place}", finish_reason=reason, text=text, tail="", prompt_tokens=2,
            completion_tokens=3, first_step=place + 1, last_step=place + 5, first_token_ms=10.0 + place,
            tokens_per_s=2.0,
        )  # fmt: skip

    def handle(self, *events: Event) -> None:
        self.answers.handle(list(events))


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.submit()
    return made


def test_each_text_has_a_seed_of_its_own_that_the_requests_fixes(bench: Bench) -> None:
    assert [row.sampling.seed for row in bench.engine.rows] == [5, 6, 7]
    assert len({row.id for row in bench.engine.rows}) == 3


def test_one_text_is_the_request_itself() -> None:
    request = Request(id="x", team_id=1, prompt_ids=(1,))
    assert rows_of(request, 1) == [request]


def test_the_majoritys_first_text_is_the_answer_with_the_figures_of_all(bench: Bench) -> None:
    bench.handle(bench.done(2, "so 4"), bench.done(0, "so 5"), bench.done(1, "it is 4"))
    ((text, event, tail),) = bench.closer.finished
    assert (text, tail) == ("it is 4", "it is 4")
    assert (event["answer"], event["votes"]) == ("4", [{"answer": "4", "n": 2}, {"answer": "5", "n": 1}])
    assert event["agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert (event["usage"]["completion_tokens"], event["first_step"], event["last_step"]) == (9, 1, 7)


def test_nothing_is_sent_before_the_vote_but_how_many_are_written(bench: Bench) -> None:
    start = Started(id=f"{bench.request.id}:0", prompt_tokens=2, prefix_tokens=0)
    bench.handle(start, bench.done(1, "4"), bench.done(0, "4"))
    assert [(w.event, w.data) for w in bench.writer.writes if w.event == "chain"] == [
        ("chain", {"done": 1, "of": 3}), ("chain", {"done": 2, "of": 3}),
    ]  # fmt: skip
    assert not bench.closer.finished and bench.closer.n_begun == 1


def test_a_stop_ends_all_of_them_without_a_vote(bench: Bench) -> None:
    bench.answers.cancel(bench.request.id)
    assert bench.engine.cancelled == [row.id for row in bench.engine.rows]
    bench.handle(bench.done(0, "so 4"), bench.done(1, "so", "cancelled"), bench.done(2, "", "cancelled"))
    ((text, event, _),) = bench.closer.finished
    assert (text, event["finish_reason"]) == ("so", "cancelled") and "votes" not in event


def test_one_that_fails_fails_the_answer_once_and_stops_the_others(bench: Bench) -> None:
    bench.handle(Failed(id=f"{bench.request.id}:1", error=UnavailableError("Lost.")))
    bench.handle(bench.done(0, "4", "cancelled"), bench.done(2, "4", "cancelled"))
    assert [error["message"] for error in bench.closer.failed] == ["Lost."] and not bench.closer.finished
    assert f"{bench.request.id}:2" in bench.engine.cancelled


def test_a_queue_that_takes_only_some_of_them_takes_none() -> None:
    bench = Bench(room=2)
    with pytest.raises(BusyError):
        bench.submit()
    bench.handle(bench.done(0, "4", "cancelled"), bench.done(1, "4", "cancelled"))
    assert f"{bench.request.id}:0" in bench.engine.cancelled and not bench.closer.finished


def test_a_single_text_tells_the_answer_that_its_rule_finds() -> None:
    bench = Bench(n_samples=1)
    bench.submit()
    bench.handle(Done(
        id=bench.request.id, finish_reason="stop", text="so 4", tail="", prompt_tokens=2, completion_tokens=3,
        first_step=1, last_step=2, first_token_ms=1.0, tokens_per_s=1.0,
    ))  # fmt: skip
    assert bench.closer.finished[0][1]["answer"] == "4"
