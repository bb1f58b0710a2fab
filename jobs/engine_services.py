"""Small questions that need the engine's models: embed, search, count_tokens. A thread of its own beside the model's.

Each question is answered by one engine; one that nobody waits for any more is dropped; an error travels back as such.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from jobs import stream
from jobs.stream_redis import client
from ml.errors import ColdframeError, SpecError

Handler = Callable[[dict[str, Any]], dict[str, Any]]
_REPLY_TTL_S = 60
logger = logging.getLogger(__name__)


def embed(payload: dict[str, Any]) -> dict[str, Any]:
    from jobs.retrieve import embed

    return {"vectors": embed(payload["texts"])}


def search(payload: dict[str, Any]) -> dict[str, Any]:
    from jobs.retrieve import search

    return {"hits": search(**payload)}


HANDLERS: Mapping[str, Handler] = {"embed": embed, "search": search}


class Services:
    def __init__(self, engine_id: str, handlers: Mapping[str, Handler] = HANDLERS) -> None:
        self._engine_id = engine_id
        self._handlers = handlers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="services", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(3)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.is_set():
            try:
                self.tick()
                pause_s = 0.0
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                self._make_group()
            except (redis.RedisError, OSError) as error:
                if not pause_s:
                    logger.warning("service requests cannot be read: %s; trying again", error)
                pause_s = min(max(2 * pause_s, 0.2), 5.0)
                self._stop.wait(pause_s)

    def _make_group(self) -> None:
        try:
            client().xgroup_create(stream.SERVICES, stream.GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def tick(self, block_ms: int = 500) -> None:
        # NOACK: nobody takes a question over; whoever asked has a time limit and asks again.
        found = client().xreadgroup(
            stream.GROUP, self._engine_id, {stream.SERVICES: ">"}, count=4, block=block_ms, noack=True
        )
        for entry_id, fields in found[0][1] if found else ():
            client().xdel(stream.SERVICES, entry_id)
            if int(fields["ends_ms"]) < time.time() * 1000:
                continue
            reply = json.dumps(self.answer(fields["kind"], json.loads(fields["d"])))
            pipe = client().pipeline()
            pipe.rpush(stream.reply_key(fields["id"]), reply)
            pipe.expire(stream.reply_key(fields["id"]), _REPLY_TTL_S)
            pipe.execute()

    def answer(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The reply, or `{"error": …}`."""
        try:
            if kind not in self._handlers:
                raise SpecError(f"Unknown service {kind!r}.", hint="Services: " + ", ".join(self._handlers) + ".")
            return self._handlers[kind](payload)
        except ColdframeError as error:
            return {"error": error.as_dict()}
        except Exception as error:
            logger.exception("service %s failed", kind)
            return {"error": ColdframeError(f"{kind} failed: {type(error).__name__}: {error}.").as_dict()}
