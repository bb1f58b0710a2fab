"""The set-up of the starter models as the web process reads it, over a real Redis."""

from __future__ import annotations

import pytest

from jobs import stream, stream_redis
from ml.errors import UnavailableError
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401


def test_nothing_was_told_yet(redis_child: RedisChild) -> None:  # noqa: F811
    assert stream.setup_progress() is None


def test_the_share_follows_from_done_and_total(redis_child: RedisChild) -> None:  # noqa: F811
    told = {"state": "running", "text": "converting", "done": 3, "total": 8}
    stream_redis.client().hset(stream.SETUP, mapping=told)
    assert stream.setup_progress() == {**told, "share": 37.5}


def test_a_failure_without_figures_is_read(redis_child: RedisChild) -> None:  # noqa: F811
    stream_redis.client().hset(stream.SETUP, mapping={"state": "failed", "text": "no network"})
    assert stream.setup_progress() == {"state": "failed", "text": "no network", "done": 0, "total": 0, "share": 0.0}


def test_redis_that_is_down_is_unavailable(redis_child: RedisChild) -> None:  # noqa: F811
    redis_child.process.kill()
    redis_child.process.wait()
    with pytest.raises(UnavailableError):
        stream.setup_progress()
