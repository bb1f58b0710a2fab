"""The messages between web and engine, over a real Redis."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from jobs import stream, stream_redis
from ml.errors import BusyError, NotFoundError, SpecError, UnavailableError
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401

HELLO = [{"role": "user", "content": "Hello"}]


def request_of(team: int = 1, **changes: object) -> stream.GenerateRequest:
    return stream.GenerateRequest(**({"team_id": team, "base": "tiny", "messages": HELLO} | changes))


def add_event(request_id: str, event: str, **data: object) -> str:
    fields = {"e": event, "d": json.dumps(data)}
    return stream_redis.client().xadd(stream.answer_key(request_id), fields)


def test_a_request_survives_the_journey_as_json():
    request = request_of(stop=["\n", "ö"], seed=3, artifact="a" * 64, message_id=9)
    assert stream.GenerateRequest.from_json(request.as_json()) == request


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 3}, {"temperature": float("nan")}, {"max_tokens": 0}, {"max_tokens": 1.5}, {"top_p": 0},
        {"top_k": -1}, {"stop": [""]}, {"stop": ["x"] * 17}, {"seed": 1.5}, {"messages": []}, {"n_logprobs": True},
        {"messages": [{"role": "user", "content": None}]}, {"frequency_penalty": 2.5}, {"presence_penalty": -3},
        {"text": "go on", "messages": HELLO}, {"text": "go on", "messages": [], "collection_id": 1},
        {"schema": "{}", "choices": ["a", "b"]},
    ],
)  # fmt: skip
def test_a_request_out_of_bounds_is_refused_by_field(changes):
    with pytest.raises(SpecError) as caught:
        request_of(**changes)
    assert caught.value.field == next(iter(changes))


def test_unknown_keys_in_a_request_are_refused():
    text = json.dumps(json.loads(request_of().as_json()) | {"surprise": 1})
    with pytest.raises(SpecError, match="surprise"):
        stream.GenerateRequest.from_json(text)


def test_a_group_is_queued_whole_and_known_ids_only_once(redis_child: RedisChild):  # noqa: F811
    group = [request_of(group="g"), request_of(group="g")]
    assert stream.submit(group) == 2
    stream.submit(group)
    entries = stream_redis.client().xrange(stream.requests_key("tiny"))
    assert [entry[1]["id"] for entry in entries] == [r.id for r in group]


def test_a_full_queue_refuses_the_whole_group_and_leaves_nothing(redis_child: RedisChild):  # noqa: F811
    stream.submit([request_of()], limit=2)
    late = [request_of(), request_of()]
    with pytest.raises(BusyError) as caught:
        stream.submit(late, limit=2)
    assert caught.value.status == 429
    assert stream_redis.client().xlen(stream.requests_key("tiny")) == 1
    with pytest.raises(NotFoundError):
        next(stream.iter_events(late[0].id))


def test_one_team_cannot_fill_the_queue_for_the_others(redis_child: RedisChild):  # noqa: F811
    stream.submit([request_of(1), request_of(1)], team_limit=2)
    with pytest.raises(BusyError, match="Your team"):
        stream.submit([request_of(1)], team_limit=2)
    stream.submit([request_of(2)], team_limit=2)


async def test_events_can_be_read_again_from_any_point(redis_child: RedisChild):  # noqa: F811
    request = request_of()
    await stream.asubmit([request])
    first = add_event(request.id, "token", text="a", ids=[1])
    add_event(request.id, "token", text="b", ids=[2])
    add_event(request.id, "done", finish_reason="stop")
    everything = [event["event"] async for _, event in stream.events(request.id)]
    assert everything == ["queued", "token", "token", "done"]
    rest = [event async for _, event in stream.events(request.id, after=first)]
    assert [event.get("text") for event in rest] == ["b", None]


async def test_a_reader_is_told_when_no_engine_is_alive(redis_child: RedisChild):  # noqa: F811
    request = request_of()
    await stream.asubmit([request])
    async for _, event in stream.events(request.id, block_s=0.05):
        if event["event"] == "waiting":
            assert event["engines"] == 0
            break


async def test_hundreds_of_readers_wait_at_once(redis_child: RedisChild):  # noqa: F811
    request = request_of()
    await stream.asubmit([request])
    readers = [stream.events(request.id, after="0-1", block_s=1) for _ in range(300)]
    heard = await asyncio.gather(*(anext(reader) for reader in readers))
    assert {event["event"] for _, event in heard} == {"waiting"}


async def test_an_answer_that_nobody_finished_ends_after_its_deadline(redis_child: RedisChild, monkeypatch):  # noqa: F811
    request = request_of(deadline_s=1)
    await stream.asubmit([request])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    with pytest.raises(UnavailableError, match="not finished in time"):
        [event async for event in stream.events(request.id, block_s=0.05)]


def test_a_reader_is_told_when_redis_forgot_the_answer(redis_child: RedisChild):  # noqa: F811
    request = request_of()
    stream.submit([request])
    reader = stream.iter_events(request.id, block_s=0.05)
    next(reader)
    stream_redis.client().flushall()
    with pytest.raises(UnavailableError, match="lost its memory"):
        list(reader)


def test_redis_down_is_said_at_submit(redis_child: RedisChild):  # noqa: F811
    redis_child.stop()
    with pytest.raises(UnavailableError, match="Redis does not answer"):
        stream.submit([request_of()])


def test_an_error_keeps_its_status_on_the_way():
    """An answer that was late became a 400: its code belongs to no class, and the status did not travel."""
    late = UnavailableError("Too late.", code="deadline")
    again = stream.error_from(json.loads(json.dumps(late.as_dict())))
    assert (again.status, again.code, again.permanent) == (503, "deadline", False)
    assert stream.error_from({"code": "busy", "message": "Full."}).status == 429


def test_a_service_call_returns_the_reply_or_its_error(redis_child: RedisChild, monkeypatch):  # noqa: F811
    monkeypatch.setattr("jobs.stream.new_id", lambda: "call")
    stream_redis.client().rpush(stream.reply_key("call"), json.dumps({"vectors": [[1.0]]}))
    assert stream.call_service("embed", {"texts": ["a"]}) == {"vectors": [[1.0]]}
    refusal = {"error": NotFoundError("No collection 7.").as_dict()}
    stream_redis.client().rpush(stream.reply_key("call"), json.dumps(refusal))
    with pytest.raises(NotFoundError, match="No collection 7"):
        stream.call_service("search", {})


async def test_a_service_call_that_nobody_answers_ends_in_time(redis_child: RedisChild):  # noqa: F811
    with pytest.raises(UnavailableError, match="No engine answered embed"):
        await stream.acall_service("embed", {"texts": []}, timeout_s=0.1)


def test_engines_lists_live_heartbeats_only(redis_child: RedisChild):  # noqa: F811
    redis = stream_redis.client()
    for name, beat in (("old", time.time() - 60), ("live", time.time())):
        redis.hset(stream.engine_key(name), mapping={"id": json.dumps(name), "rows": "[]"})
        redis.zadd(stream.ENGINES, {name: beat})
    assert stream.engines() == [{"id": "live", "rows": []}]


async def test_readers_end_whenever_they_are_told_to(redis_child: RedisChild):  # noqa: F811
    """A cancellation that came while a connection was made was lost, and whoever waited for the end waited for ever."""

    async def read(request_id: str) -> None:
        async for _ in stream.events(request_id, block_s=1):
            pass

    for n in range(30):
        request = request_of()
        await stream.asubmit([request])
        tasks = [asyncio.create_task(read(request.id)) for _ in range(3)]
        for _ in range(n % 10):
            await asyncio.sleep(0)
        await asyncio.wait_for(stream.end_tasks(tasks), timeout=20)
        assert all(task.done() for task in tasks)
