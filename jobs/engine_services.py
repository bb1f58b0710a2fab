"""Small questions that need the engine's models: embed, search, count_tokens. A thread of its own beside the model's.

From two streams: questions that any engine can answer, and those that name this engine's base model. Each is answered
by one engine; one that nobody waits for any more is dropped; an error travels back as such.
Kinds in `later` are handed on to somebody with a thread of its own (the memory plan: jobs/planner.py).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import redis

from jobs import stream
from jobs.engine_reader import StreamReader
from jobs.stream_redis import client
from ml.errors import ColdframeError, SpecError
from ml.threads import compute_alone

Handler = Callable[[dict[str, Any]], dict[str, Any]]
Later = Callable[[dict[str, Any], float, Callable[[dict[str, Any]], None]], None]
"""Takes (payload, time by which an answer is wanted, what to call with it)."""
_REPLY_TTL_S = 60
logger = logging.getLogger(__name__)


def embed(payload: dict[str, Any]) -> dict[str, Any]:
    from jobs.retrieve import embed_counted

    return embed_counted(payload["texts"])


def search(payload: dict[str, Any]) -> dict[str, Any]:
    from jobs.retrieve import search

    return {"hits": search(**payload)}


HANDLERS: Mapping[str, Handler] = {"embed": embed, "search": search}


class Services(StreamReader):
    name = "services"

    def __init__(
        self, engine_id: str, base: str, handlers: Mapping[str, Handler] = HANDLERS,
        later: Mapping[str, Later] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(engine_id, stream.SERVICES, stream.services_key(base))
        self._handlers, self._later = handlers, later or {}

    def _run(self) -> None:
        compute_alone()
        super()._run()

    def tick(self, block_ms: int = 500) -> None:
        # NOACK: nobody takes a question over; whoever asked has a time limit and asks again.
        found = client().xreadgroup(
            stream.GROUP, self._engine_id, dict.fromkeys(self._keys, ">"), count=4, block=block_ms, noack=True
        )
        for key, entry_id, fields in ((key, *entry) for key, entries in found for entry in entries):
            client().xdel(key, entry_id)
            if int(fields["ends_ms"]) < time.time() * 1000:
                continue
            kind, payload, send = fields["kind"], json.loads(fields["d"]), partial(_send, fields["id"])
            if kind in self._later:
                self._later[kind](payload, int(fields["ends_ms"]) / 1000, partial(_send_later, fields["id"]))
            else:
                send(self.answer(kind, payload))

    def answer(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The reply, or `{"error": …}`."""
        try:
            if kind not in self._handlers:
                raise SpecError(
                    f"Unknown service {kind!r}.", hint="Services: " + ", ".join([*self._handlers, *self._later]) + "."
                )
            return self._handlers[kind](payload)
        except ColdframeError as error:
            return {"error": error.as_dict()}
        except Exception as error:
            logger.exception("service %s failed", kind)
            return {"error": ColdframeError(f"{kind} failed: {type(error).__name__}: {error}.").as_dict()}


def _send(call_id: str, reply: dict[str, Any]) -> None:
    key = stream.reply_key(call_id)
    pipe = client().pipeline()
    pipe.rpush(key, json.dumps(reply))
    pipe.expire(key, _REPLY_TTL_S)
    pipe.execute()


def _send_later(call_id: str, reply: dict[str, Any]) -> None:
    """From another thread, which a Redis that is away must not end: whoever asked has a time limit."""
    try:
        _send(call_id, reply)
    except redis.RedisError as error:
        logger.warning("an answer could not be sent: %s", error)
