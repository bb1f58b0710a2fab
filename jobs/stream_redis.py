"""Connections to Redis for jobs/stream.py: one sync client a process, one async client an event loop.

The address is settings.REDIS_URL unless `configure` names another. Connections fail fast (a refused one at once, a
silent one after some seconds), so that a request never hangs on a Redis that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from ml.errors import UnavailableError

MOST_CONNECTIONS = 8000
"""Of a process. Whoever waits for an answer's next event holds one; redis-py stops at a hundred, Redis at 10,000."""
_url: str = ""
_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()


def configure(url: str) -> None:
    """Use this address from now on; an empty one means settings.REDIS_URL again."""
    global _url
    _url = url
    client.cache_clear()
    _by_loop.clear()


def redis_url() -> str:
    if _url:
        return _url
    from django.conf import settings

    return str(settings.REDIS_URL)


def _options() -> dict[str, Any]:
    # RESP 2: replies of XREAD are lists. Longer than any blocking call that we make, which are of 5 s at most.
    return {"decode_responses": True, "protocol": 2, "socket_connect_timeout": 3, "socket_timeout": 15,
            "max_connections": MOST_CONNECTIONS}  # fmt: skip


@lru_cache(maxsize=1)
def client() -> Any:
    """The process's sync client; safe for threads."""
    return redis.Redis.from_url(redis_url(), retry=Retry(ConstantBackoff(0.05), 1), **_options())


def async_client() -> Any:
    """The running event loop's client; connections belong to their loop."""
    loop = asyncio.get_running_loop()
    if loop not in _by_loop:
        retry = AsyncRetry(ConstantBackoff(0.05), 1)
        _by_loop[loop] = redis.asyncio.Redis.from_url(redis_url(), retry=retry, **_options())
    return _by_loop[loop]


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits for their end. More than once: redis-py takes a cancellation that comes while it connects
    for a connection that failed, and tries again."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)


@contextmanager
def redis_errors(doing: str) -> Iterator[None]:
    """Turns redis' connection errors into UnavailableError."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise UnavailableError(
            f"Could not {doing}: Redis does not answer ({type(error).__name__}).",
            hint="Try again in some seconds; /healthz shows which part is down.",
        ) from error
