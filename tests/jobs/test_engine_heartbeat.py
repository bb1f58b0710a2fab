"""The sign of life: what it says, what it remembers, and that it goes when the engine does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs import stream
from jobs.engine_heartbeat import Heartbeat
from jobs.stream_redis import client
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401

pytestmark = pytest.mark.usefixtures("redis_child")


def beating(**changes: Any) -> Heartbeat:
    fields = {"state": "ready", "rows": [{}, {}], "tokens_per_s": 80.5, "step_ms": 12.5, "queue": 3}
    return Heartbeat("e1", base="tiny", describe=lambda: fields | changes)


def past() -> list[dict[str, Any]]:
    return [json.loads(sample) for sample in client().lrange(stream.past_key("e1"), 0, -1)]


def test_it_says_what_it_serves_and_since_when() -> None:
    beating().beat()
    (beat,) = stream.engines()
    assert (beat["id"], beat["base"], beat["state"]) == ("e1", "tiny", "ready")
    assert beat["started_at"] <= beat["at"]


@pytest.mark.parametrize(("every_s", "n"), [(3600, 1), (0, 3)])
def test_figures_are_sampled_as_often_as_is_due(every_s: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SAMPLE_S", every_s)
    heart = beating()
    for _ in range(3):
        heart.beat()
    assert past() == [{"rows": 2, "tokens_per_s": 80.5, "step_ms": 12.5, "queue": 3}] * n


def test_only_the_last_minutes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "N_SAMPLES", 3)
    for n in range(5):
        beating(queue=n).beat()
    assert [sample["queue"] for sample in past()] == [2, 3, 4]


def test_nothing_is_left_of_an_engine_that_stopped() -> None:
    heart = beating()
    heart.start()
    heart.stop()
    assert stream.engines() == [] and client().exists(stream.engine_key("e1"), stream.past_key("e1")) == 0
