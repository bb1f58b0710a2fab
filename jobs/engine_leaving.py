"""From one engine to the next: requests handed back unfinished, and consumers that are no more.

Guarantees: a request that is handed back is taken by another engine within seconds, goes on where it stood, and its
hand-over is not counted as an attempt that failed; one that another engine has taken meanwhile is left alone; a
consumer is forgotten only when it holds nothing, which Redis looks at and does in one step.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence

import redis

from jobs import stream
from jobs.engine_ticket import Ticket
from jobs.engine_writer import OWNERS
from jobs.stream_redis import client

BACK = "handed-back"
"""A consumer that never beats: what it holds is taken over like a dead engine's."""
logger = logging.getLogger(__name__)

_HAND_BACK = """
local n = 0
for i = 3, #ARGV, 3 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[1] then
    redis.call('XCLAIM', KEYS[2], 'engines', ARGV[2], 0, ARGV[i + 1],
               'IDLE', 3600000, 'RETRYCOUNT', ARGV[i + 2], 'JUSTID')
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[2])
    n = n + 1
  end
end
return n
"""

_FORGET = """
local n = 0
for _, held in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'engines')) do
  local found = {}
  for i = 1, #held, 2 do found[held[i]] = held[i + 1] end
  for _, name in ipairs(ARGV) do
    if found.name == name and found.pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'engines', name)
      n = n + 1
    end
  end
end
return n
"""


def is_gone(heartbeat: Mapping[str, str]) -> bool:
    """Whether the engine of this heartbeat is dead: it faded out, or its process on this machine has ended."""
    if not heartbeat:
        return True
    if json.loads(heartbeat.get("host", '""')) != socket.gethostname():
        return False
    try:
        os.kill(int(json.loads(heartbeat["pid"])), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def hand_back(engine_id: str, base: str, tickets: Sequence[Ticket]) -> None:
    """Gives up requests of this engine. A Redis that is away changes nothing: they are taken over when it is back."""
    if not tickets:
        return
    arguments = [str(value) for t in tickets for value in (t.id, t.entry_id, t.attempt - 1)]
    try:
        n = client().eval(_HAND_BACK, 2, OWNERS, stream.requests_key(base), engine_id, BACK, *arguments)
        logger.info("%d unfinished requests handed back", n)
    except (redis.RedisError, OSError) as error:
        logger.warning("unfinished requests could not be handed back: %s", error)


def forget_gone(key: str, engine_id: str) -> None:
    """Takes engines that are gone and hold nothing out of the stream's consumers, which would pile up otherwise."""
    names = [str(held["name"]) for held in client().xinfo_consumers(key, stream.GROUP)]
    gone = [
        name for name in names
        if name not in (engine_id, BACK) and is_gone(client().hgetall(stream.engine_key(name)))
    ]  # fmt: skip
    if gone:
        client().eval(_FORGET, 1, key, *gone)
