"""Doorbells: what Celery understands, what is still in line, and a broker that is away."""

from __future__ import annotations

import socket
import time

import pytest
import redis

from jobs import stream_redis
from jobs.queue import TIMEOUT_S, enqueue, waiting_in
from ml.errors import UnavailableError


def test_celery_reads_the_message_as_a_task_for_the_kinds_queue(redis_url: str) -> None:
    from jobs.celery import app

    enqueue("train", 7)
    with app.connection_for_read(url=redis_url) as connection:
        message = connection.SimpleQueue("gpu").get(timeout=5)
        message.ack()
    args, kwargs, _ = message.payload
    assert message.headers["task"] == "jobs.run" and args == [7] and kwargs == {}
    assert message.headers["task"] in app.tasks and message.content_type == "application/json"


def test_runs_in_line_are_found_by_their_messages(redis_url: str) -> None:
    enqueue("train", 7)
    enqueue("ingest", 9)
    enqueue("validate", 8)
    redis.Redis.from_url(redis_url).lpush("gpu", "{}")
    assert waiting_in("gpu") == {7, 9} and waiting_in("cpu") == {8}


def test_a_broker_that_refuses_connections_is_said_to_be_away() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        stream_redis.configure(f"redis://127.0.0.1:{probe.getsockname()[1]}/0")
    try:
        with pytest.raises(UnavailableError, match="does not answer"):
            enqueue("train", 1)
        with pytest.raises(UnavailableError):
            waiting_in("gpu")
    finally:
        stream_redis.configure("")


def test_a_broker_that_says_nothing_does_not_hold_up_the_page() -> None:
    """A listening socket that never answers: the call comes back by its own time limits."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        stream_redis.configure(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        try:
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                enqueue("train", 1)
            assert time.monotonic() - began < 20 * TIMEOUT_S
        finally:
            stream_redis.configure("")
