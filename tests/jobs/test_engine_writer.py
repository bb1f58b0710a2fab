"""Requests are counted by how they ended: each once, whoever answered it and however often its end was written."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import stream
from jobs.engine_writer import OUTCOMES, OWNERS, AnswerWriter, Write, final_at
from jobs.stream_redis import client
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401

pytestmark = pytest.mark.usefixtures("redis_child")


def taken() -> tuple[str, str]:
    """Id and stream entry of a request that the engine `e` owns."""
    request = stream.GenerateRequest(team_id=1, base="x", messages=[{"role": "user", "content": "?"}])
    stream.submit([request])
    client().hset(OWNERS, request.id, "e")
    return request.id, client().xrange(stream.requests_key("x"))[-1][0]


def end_of(request: tuple[str, str], event: str = "done", **data: Any) -> Write:
    return Write(id=request[0], at=final_at(0), event=event, data=data, acknowledge=request[1])


def written(*writes: Write, engine: str = "e") -> dict[str, int]:
    """What the engine has counted when all is written."""
    ended = dict.fromkeys(OUTCOMES, 0)
    writer = AnswerWriter(engine, "x", lambda *_: None, ended=ended)
    writer.put(*writes)
    writer.start()
    writer.stop(20)
    return ended


def test_each_end_is_counted_by_its_kind() -> None:
    requests = [taken() for _ in range(4)]
    ended = written(
        end_of(requests[0], finish_reason="stop"), end_of(requests[1], finish_reason="length"),
        end_of(requests[2], finish_reason="cancelled"), end_of(requests[3], "error", error={"message": "no"}),
    )  # fmt: skip
    assert ended == {"done": 2, "cancelled": 1, "failed": 1}
    assert client().hgetall(stream.ENDED) == {"done": "2", "cancelled": "1", "failed": "1"}


def test_an_end_that_is_written_again_is_counted_once() -> None:
    request = taken()
    ended = written(*[end_of(request, finish_reason="stop")] * 3)
    assert ended["done"] == 1 and client().hgetall(stream.ENDED) == {"done": "1"}


def test_an_end_that_is_not_acknowledged_yet_is_not_counted() -> None:
    request = taken()
    assert written(Write(id=request[0], at=final_at(0), event="done", data={"finish_reason": "stop"}))["done"] == 0
    assert client().hgetall(stream.ENDED) == {}


def test_an_engine_that_lost_a_request_counts_nothing_of_it() -> None:
    request = taken()
    assert written(end_of(request, finish_reason="stop"), engine="another") == dict.fromkeys(OUTCOMES, 0)
    assert client().hgetall(stream.ENDED) == {}
