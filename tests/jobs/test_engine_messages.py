"""The end of an answer: the message is kept, the last event sent, the request acknowledged, in this order."""

from __future__ import annotations

import time
from typing import Any

import pytest

from jobs import engine_messages
from jobs.engine_answers import done_data
from jobs.engine_messages import Closer
from jobs.engine_ticket import Ticket, Tickets
from jobs.stream import GenerateRequest


class FakeWriter:
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def put(self, *writes: Any) -> None:
        self.log += [(write.event, bool(write.acknowledge)) for write in writes]


class FakeMessages:
    def __init__(self, log: list[Any], n_failures: int) -> None:
        self.log, self.n_failures = log, n_failures

    def _call(self, name: str) -> None:
        if self.n_failures:
            self.n_failures -= 1
            raise OSError("database is locked")
        self.log.append(name)

    def started(self, **_: Any) -> None:
        self._call("started")

    def finished(self, **_: Any) -> None:
        self._call("finished")

    def failed(self, **_: Any) -> None:
        self._call("failed")


def close(*, message_id: int | None, n_failures: int = 0, tail: str = "") -> list[Any]:
    log: list[Any] = []
    tickets = Tickets()
    request = GenerateRequest(team_id=1, base="x", messages=[{"role": "user", "content": "?"}], message_id=message_id)
    ticket = Ticket(request=request, entry_id="1-1", ends_ms=0)
    tickets.add(ticket)
    closer = Closer(tickets, FakeWriter(log), FakeMessages(log, n_failures))  # type: ignore[arg-type]
    closer.start()
    closer.finish(ticket, text="hi", event=done_data(finish_reason="stop"), tail=tail)
    deadline = time.monotonic() + 20
    while len(tickets):
        assert time.monotonic() < deadline, log
        time.sleep(0.01)
    closer.stop()
    return log


def test_an_answer_without_a_message_is_closed_at_once():
    assert close(message_id=None, tail="!") == [("token", False), ("done", True)]


def test_a_message_is_kept_before_its_end_is_sent_and_acknowledged():
    assert close(message_id=3) == ["finished", ("done", True)]


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_messages, "RETRY_S", 0.01)
    monkeypatch.setattr(engine_messages, "MAX_TRIES", 4)


def test_a_database_that_fails_delays_the_acknowledgement_but_not_the_end(fast_retries: None):
    log = close(message_id=3, n_failures=2)
    assert log == [("done", False), "finished", ("done", True)]


def test_a_database_that_never_works_again_does_not_keep_the_request_for_ever(fast_retries: None):
    assert close(message_id=3, n_failures=1000)[-1] == ("done", True)
