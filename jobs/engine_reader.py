"""A thread that reads Redis streams as part of the engines' consumer group, until it is told to stop.

Guarantee: nothing that Redis answers ends the thread while the engine's heartbeat goes on. A group that is gone is made
anew; any other failure of Redis is waited out with a growing pause, and said once. What a round does is `tick`.
"""

from __future__ import annotations

import logging
import threading

import redis

from jobs import stream
from jobs.engine_leaving import forget_gone
from jobs.stream_redis import client

LONGEST_PAUSE_S = 5.0
logger = logging.getLogger(__name__)


class StreamReader:
    """Base of the intake and of the services; `name` is the thread's and the log's."""

    name: str

    def __init__(self, engine_id: str, *keys: str) -> None:
        """`keys`: the streams."""
        self._engine_id, self._keys = engine_id, keys
        self._has_begun = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Reads no more after the round under way; returns at once."""
        self._stop.set()

    def stop(self) -> None:
        self.end()
        self._thread.join(3)

    def tick(self) -> None:
        """One round; may wait a moment for something to read."""
        raise NotImplementedError

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.is_set():
            try:
                self._round()
                pause_s = 0.0
            except (redis.RedisError, OSError) as error:
                if not pause_s:
                    logger.warning("%s cannot be read: %s; trying again", self.name, error)
                pause_s = min(max(2 * pause_s, 0.2), LONGEST_PAUSE_S)
                self._stop.wait(pause_s)

    def _round(self) -> None:
        try:
            if not self._has_begun:
                self._make_groups()
                for key in self._keys:
                    forget_gone(key, self._engine_id)
                self._has_begun = True
            self.tick()
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._make_groups()

    def _make_groups(self) -> None:
        for key in self._keys:
            try:
                client().xgroup_create(key, stream.GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
