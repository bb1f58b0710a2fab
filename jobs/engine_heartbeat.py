"""The sign of life of an engine, twice a second: what it serves, its rows, its speed. Fades out after 15 s.

Beside it a sample of its figures every five seconds, those of ten minutes, which a page draws.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from jobs import stream
from jobs.stream_redis import client

EVERY_S = 0.5
SAMPLED = ("tokens_per_s", "step_ms", "queue")
logger = logging.getLogger(__name__)


def engine_id() -> str:
    """Names this process's engine; never used again by another."""
    return f"{socket.gethostname()}-{os.getpid()}-{stream.new_id()[:6]}"


class Heartbeat:
    """`describe` gives the fields that change; called from the heartbeat's thread."""

    def __init__(self, name: str, *, base: str, describe: Callable[[], dict[str, Any]]) -> None:
        self._name = name
        self._fixed = {
            "id": name, "base": base, "pid": os.getpid(), "host": socket.gethostname(), "started_at": time.time()
        }  # fmt: skip
        self._sample_at = 0.0
        self._describe = describe
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self.beat_quietly()
        self._thread.start()

    def stop(self) -> None:
        """Takes the sign of life away, so that others take over at once."""
        self._stop.set()
        self._thread.join(3)
        try:
            client().delete(stream.engine_key(self._name), stream.past_key(self._name))
            client().zrem(stream.ENGINES, self._name)
        except (redis.RedisError, OSError) as error:
            logger.debug("the heartbeat could not be taken away: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.beat_quietly()

    def beat_quietly(self) -> None:
        try:
            self.beat()
        except (redis.RedisError, OSError) as error:
            logger.debug("no heartbeat: %s", error)

    def beat(self) -> None:
        fields = {**self._fixed, "at": time.time(), **self._describe()}
        key, pipe = stream.engine_key(self._name), client().pipeline(transaction=True)
        pipe.hset(key, mapping={name: json.dumps(value) for name, value in fields.items()})
        pipe.expire(key, stream.HEARTBEAT_TTL_S)
        pipe.zadd(stream.ENGINES, {self._name: time.time()})
        pipe.zremrangebyscore(stream.ENGINES, 0, time.time() - 3600)
        if time.monotonic() >= self._sample_at:
            self._sample_at = time.monotonic() + stream.SAMPLE_S
            sample = {"rows": len(fields["rows"]), **{name: fields[name] for name in SAMPLED}}
            past = stream.past_key(self._name)
            pipe.rpush(past, json.dumps(sample)).ltrim(past, -stream.N_SAMPLES, -1).expire(past, stream.HEARTBEAT_TTL_S)
        pipe.execute()
