"""Answer events into Redis, from a thread of their own: the model never waits for Redis.

Guarantees: events of an answer are written in order and each once, also when Redis goes away and comes back, and also
when two engines hold the same request. For that an event's id in the stream follows from its place in the answer (token
n is `n-1`), so that a write whose reply was lost can be repeated; and only the engine that owns the request may write,
so that one taken for dead does not go on writing. Acknowledging takes the request out of the stream for good and
counts it once by how it ended, whoever answered it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import redis

from jobs import stream
from jobs.stream_redis import client

OWNERS = "cf:owners"
"""Hash: which engine answers a request."""
OUTCOMES = ("done", "cancelled", "failed")
_BATCH = 500
logger = logging.getLogger(__name__)

_WRITE = """
local me, out = ARGV[1], {}
for i = 2, #ARGV, 6 do
  local id, at, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local answer = 'cf:answer:' .. id
  local owner = redis.call('HGET', KEYS[1], id)
  if owner ~= me then
    out[#out + 1] = owner and 'taken' or 'gone'
  else
    if name ~= '' then redis.pcall('XADD', answer, at, 'e', name, 'd', ARGV[i + 3]) end
    if name == 'done' or name == 'error' then redis.call('EXPIRE', answer, 3600) end
    local entry = ARGV[i + 4]
    if entry ~= '' then
      local given = redis.call('XRANGE', KEYS[2], entry, entry)
      redis.call('XACK', KEYS[2], 'engines', entry)
      if redis.call('XDEL', KEYS[2], entry) == 1 then
        local team = given[1][2][4]
        if redis.call('HINCRBY', KEYS[3], team, -1) <= 0 then redis.call('HDEL', KEYS[3], team) end
        if ARGV[i + 5] ~= '' then redis.call('HINCRBY', KEYS[4], ARGV[i + 5], 1) end
      end
      redis.call('HDEL', KEYS[1], id)
      redis.call('DEL', 'cf:cancel:' .. id)
    end
    out[#out + 1] = 'ok'
  end
end
return out
"""


def sources_at() -> str:
    return "0-2"


def start_at(n_tokens: int, attempt: int) -> str:
    return f"{n_tokens}-{2 + attempt}"


def token_at(n_tokens: int) -> str:
    """`n_tokens` counts the token itself."""
    return f"{n_tokens}-1"


def tail_at(n_tokens: int) -> str:
    return f"{n_tokens}-90"


def final_at(n_tokens: int) -> str:
    return f"{n_tokens}-99"


@dataclass(frozen=True, kw_only=True)
class Write:
    id: str
    at: str = ""
    """Id in the answer's stream; see the functions `*_at`."""
    event: str = ""
    """Empty: nothing but an acknowledgement."""
    data: dict[str, Any] | None = None
    acknowledge: str = ""
    """Entry of the requests stream that is done with; empty: none."""

    @property
    def outcome(self) -> str:
        """How the request ended, of those that end one; else empty."""
        if not self.acknowledge or self.event not in stream.FINAL_EVENTS:
            return ""
        if self.event == "error":
            return "failed"
        return "cancelled" if (self.data or {}).get("finish_reason") == "cancelled" else "done"


class AnswerWriter:
    """`put` from any thread. `lost(id, state)` is called for a request that is not this engine's any more: `taken` by
    another engine, or `gone` with Redis' memory."""

    def __init__(self, engine_id: str, base: str, lost: Callable[[str, str], None], *, ended: dict[str, int]) -> None:
        """`ended` is counted up: requests that this engine ends, by outcome."""
        self._engine_id = engine_id
        self._requests = stream.requests_key(base)
        self._lost = lost
        self._ended = ended
        self._queue: SimpleQueue[Write] = SimpleQueue()
        self._batch: list[Write] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, *writes: Write) -> None:
        for write in writes:
            self._queue.put(write)

    def stop(self, timeout_s: float = 3) -> None:
        """Writes what is waiting, as long as that takes at most."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = 0.0
        while self._fill() or not self._stop.is_set():
            if not self._batch:
                continue
            try:
                self._flush()
                pause_s = 0.0
            except (redis.RedisError, OSError) as error:
                if not pause_s:
                    logger.warning("answers cannot be written: %s; trying again", error)
                pause_s = min(max(2 * pause_s, 0.1), 5.0)
                self._stop.wait(pause_s)
                if self._stop.is_set():
                    return

    def _fill(self) -> bool:
        """Waits a moment for the first write, then takes all there are."""
        while len(self._batch) < _BATCH:
            try:
                self._batch.append(self._queue.get(timeout=0 if self._batch else 0.1))
            except Empty:
                break
        return bool(self._batch)

    def _flush(self) -> None:
        arguments = [self._engine_id]
        for write in self._batch:
            data = json.dumps(write.data or {}, ensure_ascii=False)
            arguments += [write.id, write.at, write.event, data, write.acknowledge, write.outcome]
        keys = (OWNERS, self._requests, stream.LOAD, stream.ENDED)
        states = client().eval(_WRITE, len(keys), *keys, *arguments)
        for write, state in zip(self._batch, states, strict=True):
            if state == "ok" and write.outcome:
                self._ended[write.outcome] += 1
        lost = {write.id: state for write, state in zip(self._batch, states, strict=True) if state != "ok"}
        self._batch = []
        for request_id, state in lost.items():
            self._lost(request_id, state)
