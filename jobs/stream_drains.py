"""Engines that an admin keeps out of service, so that a run may have their memory. Import it from jobs.stream.

Guarantees: a drain holds for the engines of one base model on one host, also those that start later, until `undrain`;
it is known as long as Redis keeps it. Not here: how an engine obeys (jobs/engine_drains.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from jobs.stream_redis import client, redis_errors

DRAINS = "cf:drains"
"""Hash: by base model and host, who keeps their engines out, and since when."""


@dataclass(frozen=True, kw_only=True)
class Drain:
    base: str
    host: str
    by: str
    """Name of the admin, which only their own team is told."""
    team_id: int
    at: float
    """Seconds since 1970."""


def _place(base: str, host: str) -> str:
    return json.dumps([base, host])


def drain(wanted: Drain) -> bool:
    """Keeps the engines out; False, with nothing changed, when they are out already. Raises UnavailableError."""
    with redis_errors("drain the engine"):
        return bool(client().hsetnx(DRAINS, _place(wanted.base, wanted.host), json.dumps(asdict(wanted))))


def undrain(base: str, host: str) -> bool:
    """Lets them serve again; False when nobody kept them out. Raises UnavailableError."""
    with redis_errors("let the engine serve again"):
        return bool(client().hdel(DRAINS, _place(base, host)))


def is_drained(base: str, host: str) -> bool:
    """Raises UnavailableError."""
    with redis_errors("ask whether the engine is drained"):
        return bool(client().hexists(DRAINS, _place(base, host)))


def drains() -> list[Drain]:
    """All that hold now. Raises UnavailableError."""
    with redis_errors("look for drained engines"):
        return [Drain(**json.loads(text)) for text in client().hvals(DRAINS)]
