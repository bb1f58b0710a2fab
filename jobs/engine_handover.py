"""Requests that an engine with its model elsewhere cannot answer go to one that holds the model itself.

Guarantees: a request is handed over whole and owned by exactly one engine at any time; it stays in the requests stream,
so that it is taken over as usual when the other engine dies. Chosen is the local engine of the same base with the
fewest rows. Not here: who cannot answer what (ml.vllm.adapters).
"""

from __future__ import annotations

from collections.abc import Iterator

from jobs import stream
from jobs.engine_ticket import Ticket
from jobs.engine_writer import OWNERS
from jobs.stream_redis import client, redis_errors

NOT_LOCAL = ("vllm",)
"""Devices, as heartbeats call them, that are no place for what stays local."""

_HAND_OVER = """
local me, to, id, entry, note = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HGET', KEYS[1], id) ~= me then return 'taken' end
redis.call('XCLAIM', KEYS[2], 'engines', to, 0, entry, 'JUSTID')
redis.call('HSET', KEYS[1], id, to)
redis.call('RPUSH', KEYS[3], note)
redis.call('EXPIRE', KEYS[3], 3600)
return 'ok'
"""


def handed_key(engine_id: str) -> str:
    return f"cf:handed:{engine_id}"


def local_engine(base: str) -> str | None:
    """Id of the engine that a request for `base` can be handed to."""
    ready = [
        engine
        for engine in stream.engines()
        if engine.get("base") == base and engine.get("state") == "ready" and engine.get("device") not in NOT_LOCAL
    ]
    free = sorted(ready, key=lambda engine: len(engine.get("rows") or ()) + int(engine.get("queue") or 0))
    return str(free[0]["id"]) if free else None


def hand_over(ticket: Ticket, *, sender: str, to: str) -> None:
    """The request is `to`'s from now on, unless it was not the sender's any more. Raises UnavailableError."""
    keys = (OWNERS, stream.requests_key(ticket.request.base), handed_key(to))
    note = f"{ticket.entry_id} {ticket.attempt}"
    with redis_errors("hand the request over"):
        client().eval(_HAND_OVER, len(keys), *keys, sender, to, ticket.id, ticket.entry_id, note)


def handed(engine_id: str, base: str, n: int) -> Iterator[tuple[str, dict[str, str], int]]:
    """Up to `n` requests that others have handed to this engine: entry, its fields, which delivery it is. A note goes
    when the caller comes back for the next, so that none is lost with Redis."""
    key = handed_key(engine_id)
    for note in client().lrange(key, 0, n - 1):
        entry_id, attempt = note.split()
        for _, fields in client().xrange(stream.requests_key(base), entry_id, entry_id):
            if client().hget(OWNERS, fields["id"]) == engine_id:
                yield entry_id, fields, int(attempt)
        client().lpop(key)
