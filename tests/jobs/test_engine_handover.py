"""What an engine with its model elsewhere cannot answer goes to one that holds it, whole and once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs import stream, stream_redis
from jobs.engine_handover import hand_over, handed, handed_key, local_engine
from jobs.engine_heartbeat import Heartbeat
from jobs.engine_ticket import Ticket
from jobs.engine_writer import OWNERS
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401

KEY = stream.requests_key("tiny")


@pytest.fixture(autouse=True)
def redis(redis_child: RedisChild) -> Iterator[None]:  # noqa: F811
    stream_redis.configure(redis_child.url)
    yield
    stream_redis.configure("")


def taken(by: str) -> Ticket:
    """A new request, as the intake of engine `by` has it."""
    request = stream.GenerateRequest(team_id=1, base="tiny", messages=[{"role": "user", "content": "?"}])
    stream.submit([request])
    redis = stream_redis.client()
    if not redis.xinfo_groups(KEY):
        redis.xgroup_create(KEY, stream.GROUP, id="0")
    entry_id, fields = redis.xreadgroup(stream.GROUP, by, {KEY: ">"}, count=1)[0][1][0]
    redis.hset(OWNERS, request.id, by)
    return Ticket.from_entry(entry_id, fields, attempt=2)


def beat(name: str, **fields: object) -> None:
    told = {"state": "ready", "device": "cpu", "rows": [], "queue": 0, "tokens_per_s": 0.0, "step_ms": 0.0, **fields}
    Heartbeat(name, base=str(told.pop("base", "tiny")), describe=lambda: told).beat()


def test_the_receiver_owns_the_request_and_finds_it_once():
    ticket = taken("remote")
    hand_over(ticket, sender="remote", to="local")
    [(entry_id, fields, attempt)] = handed("local", "tiny", 5)
    assert (entry_id, fields["id"], attempt) == (ticket.entry_id, ticket.id, 2)
    redis = stream_redis.client()
    assert redis.hget(OWNERS, ticket.id) == "local"
    assert [p["consumer"] for p in redis.xpending_range(KEY, stream.GROUP, "-", "+", 9)] == ["local"]
    assert list(handed("local", "tiny", 5)) == [] and not redis.exists(handed_key("local"))


def test_a_request_that_another_engine_has_taken_is_not_given_away():
    ticket = taken("remote")
    stream_redis.client().hset(OWNERS, ticket.id, "other")
    hand_over(ticket, sender="remote", to="local")
    assert list(handed("local", "tiny", 5)) == [] and stream_redis.client().hget(OWNERS, ticket.id) == "other"


def test_no_more_is_taken_than_there_is_room_for():
    for _ in range(3):
        hand_over(taken("remote"), sender="remote", to="local")
    assert len(list(handed("local", "tiny", 2))) == 2 and len(list(handed("local", "tiny", 2))) == 1


def test_a_note_is_kept_until_its_request_was_taken_in():
    hand_over(taken("remote"), sender="remote", to="local")
    next(handed("local", "tiny", 5))  # Redis went away before the next one was asked for
    assert len(list(handed("local", "tiny", 5))) == 1


def test_a_request_that_went_on_to_another_engine_meanwhile_is_left_to_it():
    ticket = taken("remote")
    hand_over(ticket, sender="remote", to="local")
    stream_redis.client().hset(OWNERS, ticket.id, "third")
    assert list(handed("local", "tiny", 5)) == []


def test_the_local_engine_with_the_fewest_rows_is_chosen():
    beat("busy", rows=[{}, {}], queue=3)
    beat("free", rows=[{}])
    beat("remote", device="vllm")
    beat("starting", state="loading the model")
    beat("another", base="other")
    assert local_engine("tiny") == "free" and local_engine("other") == "another"
    assert local_engine("third") is None
