"""Small questions that need the engine's models: embed, search, count_tokens. A thread of its own beside the model's.

Each question is answered by one engine; one that nobody waits for any more is dropped; an error travels back as such.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from jobs import stream
from jobs.engine_reader import StreamReader
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


class Services(StreamReader):
    key, name = stream.SERVICES, "services"

    def __init__(self, engine_id: str, handlers: Mapping[str, Handler] = HANDLERS) -> None:
        super().__init__(engine_id)
        self._handlers = handlers

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
