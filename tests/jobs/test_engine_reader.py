"""The thread that reads a stream outlives whatever Redis answers."""

from __future__ import annotations

import threading

import pytest
import redis

from jobs.engine_reader import StreamReader


class Reader(StreamReader):
    name = "test"

    def __init__(self, failures: list[Exception]) -> None:
        super().__init__("engine-1", "cf:test")
        self._has_begun = True
        self.failures = failures
        self.read = threading.Event()

    def tick(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.read.set()
        self._stop.wait(0.01)


@pytest.mark.parametrize(
    "failure",
    [
        redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        redis.ConnectionError("gone"),
        OSError("network is unreachable"),
    ],
)
def test_a_refusal_by_redis_is_waited_out(failure: Exception) -> None:
    """Found by reading: every reply error but NOGROUP ended the thread for good, so an engine whose Redis was full for
    a moment would take no request any more and go on beating as if it were well."""
    reader = Reader([failure, failure])
    reader.start()
    assert reader.read.wait(10)
    reader.stop()


def test_a_group_that_is_gone_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(Reader, "_make_groups", lambda self: made.extend(self._keys))
    reader = Reader([redis.ResponseError("NOGROUP No such key 'cf:test' or consumer group 'engines'")])
    reader.start()
    assert reader.read.wait(10)
    reader.stop()
    assert made == ["cf:test"]
