"""Signs of life of the processes that serve no port: workers and reconciler beat in redis, /healthz reads it.

A Celery worker beats from its own event loop's timer, so that a loop which hangs, or has lost redis, stops beating.
Best effort: a beat that fails is logged once and tried again at the next.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any

from jobs import stream_redis
from ml.errors import UnavailableError
from webapp.selectors.health import ALIVE

BEAT_S = 5.0
FORGET_S = 3600.0
logger = logging.getLogger(__name__)


class Beat:
    """Call it every few seconds; `part` is a name that /healthz knows."""

    def __init__(self, part: str) -> None:
        self.member = f"{part}:{socket.gethostname()}:{os.getpid()}"
        self.failed = False

    def __call__(self) -> None:
        now = time.time()
        try:
            with stream_redis.redis_errors("say that this process is alive"):
                pipe = stream_redis.client().pipeline(transaction=False)
                pipe.zadd(ALIVE, {self.member: now})
                pipe.zremrangebyscore(ALIVE, 0, now - FORGET_S)
                pipe.execute()
            self.failed = False
        except UnavailableError as error:
            if not self.failed:
                logger.warning("%s", error)
            self.failed = True

    def stop(self) -> None:
        """Leaves at once instead of fading out."""
        try:
            with stream_redis.redis_errors("say that this process ends"):
                stream_redis.client().zrem(ALIVE, self.member)
        except UnavailableError as error:
            logger.info("%s", error)


def beat_from_worker(sender: Any, **_: Any) -> None:
    """For Celery's `worker_ready` signal: one part a queue the worker consumes."""
    for queue in sender.app.amqp.queues.consume_from:
        beat = Beat(f"worker_{queue}")
        beat()
        sender.timer.call_repeatedly(BEAT_S, beat)
