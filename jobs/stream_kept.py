"""What a reader needs to join an answer again that goes on without one. Import it from jobs.stream.

Guarantee: it is there for as long as the answers that it names, and an hour longer.
"""

from __future__ import annotations

import json
from typing import Any

from jobs.stream_redis import async_client, redis_errors

KEEP_ANSWER_S = 3600


def _key(name: str) -> str:
    return f"cf:kept:{name}"


async def akeep(name: str, record: dict[str, Any], *, deadline_s: float) -> None:
    """`deadline_s`: seconds after which the answers are given up."""
    with redis_errors("keep the answer"):
        await async_client().set(_key(name), json.dumps(record), ex=int(deadline_s) + KEEP_ANSWER_S)


async def akept(name: str) -> dict[str, Any] | None:
    with redis_errors("look for the answer"):
        found = await async_client().get(_key(name))
    return json.loads(found) if found else None
