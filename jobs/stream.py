"""Typed messages between web processes and engines, over Redis streams; the only way the two talk.

Light: redis and the standard library, so that a web process may import it. Guarantees: a request is queued whole or not
at all, together with its group, and at most once (an id that is known already is not queued twice); an answer's events
can be read again from any point until an hour after the end; every failure is a ColdframeError. Sync functions have an
async twin named with a leading `a`, as in Django; `events` is async and its sync twin is `iter_events`.
Not here: what an engine does with a request (jobs/engine_main.py).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jobs.stream_drains import Drain as Drain
from jobs.stream_drains import drain as drain
from jobs.stream_drains import drains as drains
from jobs.stream_drains import is_drained as is_drained
from jobs.stream_drains import undrain as undrain
from jobs.stream_kept import KEEP_ANSWER_S as KEEP_ANSWER_S
from jobs.stream_kept import akeep as akeep
from jobs.stream_kept import akept as akept
from jobs.stream_queue import LOAD as LOAD
from jobs.stream_queue import QUEUE_LIMIT as QUEUE_LIMIT
from jobs.stream_queue import TEAM_QUEUE_LIMIT as TEAM_QUEUE_LIMIT
from jobs.stream_queue import asubmit as asubmit
from jobs.stream_queue import requests_key as requests_key
from jobs.stream_queue import submit as submit
from jobs.stream_redis import async_client, client, redis_errors
from jobs.stream_redis import end_tasks as end_tasks
from jobs.stream_request import GenerateRequest as GenerateRequest
from jobs.stream_request import new_id as new_id
from ml.errors import ColdframeError, NotFoundError, UnavailableError

SERVICES = "cf:services"
"""Stream of questions that any engine can answer."""
GROUP = "engines"
"""Consumer group of every stream that engines read."""
SETUP = "cf:setup"
"""Hash, written by jobs/starter.py: state, text, done, total."""
ENDED = "cf:ended"
"""Hash: requests that have ended, by done, cancelled and failed."""
ENGINES = "cf:engines"
"""Sorted set: engine ids by the time of their last heartbeat."""
HEARTBEAT_TTL_S = 15
SAMPLE_S, N_SAMPLES = 5, 120
SERVICES_LIMIT = 1000
"""Questions kept; older ones are dropped, whoever asked has given up by then."""
FINAL_EVENTS = ("done", "error")
DRAINING, STOPPING, DRAINED = "draining", "stopping", "drained"
OUT = (DRAINING, STOPPING, DRAINED)
"""States of an engine that takes no more requests."""
Beat = TypeVar("Beat", bound=Mapping[str, Any])
Event = tuple[str, dict[str, Any]]
"""Event id (give it back as `after`) and `{"event": name, ...}`."""


def services_key(base: str) -> str:
    """Stream of the questions that only engines of this base model can answer."""
    return f"{SERVICES}:{base}"


def answer_key(request_id: str) -> str:
    return f"cf:answer:{request_id}"


def cancel_key(request_id: str) -> str:
    return f"cf:cancel:{request_id}"


def reply_key(call_id: str) -> str:
    return f"cf:reply:{call_id}"


def engine_key(engine_id: str) -> str:
    return f"cf:engine:{engine_id}"


def past_key(engine_id: str) -> str:
    """List of samples, one each SAMPLE_S, the latest at the end."""
    return f"cf:engine:{engine_id}:past"


def parse_event(fields_: Mapping[str, str]) -> dict[str, Any]:
    return {"event": fields_["e"], **json.loads(fields_["d"])}


def _asked(request_id: str, first: Sequence[Any]) -> tuple[float, str]:
    """The answer's deadline and the base model asked for, out of its first event."""
    if not first:
        raise NotFoundError(f"There is no answer {request_id}.", hint="Answers are kept for an hour after their end.")
    said = json.loads(first[0][1]["d"])
    return float(said.get("ends_ms", math.inf)), str(said.get("base", ""))


def _hopeless(request_id: str, ends_ms: float, n_known: int) -> UnavailableError | None:
    """Why waiting is in vain: Redis forgot the answer, or the deadline is past at which an engine would end it."""
    if not n_known:
        return UnavailableError("Redis lost its memory, and the answer with it.", hint="Ask again.")
    if time.time() * 1000 < ends_ms + 5000:
        return None
    return UnavailableError(f"Answer {request_id} was not finished in time.", hint="Look whether an engine is running.")


def _waiting(base: str, beats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"event": "waiting", "engines": len(serving(base, beats))}


def serving(base: str, beats: Sequence[Beat]) -> list[Beat]:
    """Of these heartbeats, those of engines that take (or will take) requests for the base model; "" is any."""
    return [beat for beat in beats if base in ("", beat.get("base")) and beat.get("state") not in OUT]


async def events(request_id: str, after: str = "0", *, block_s: float = 5) -> AsyncIterator[Event]:
    """Events of an answer after event id `after`, up to and with `done` or `error`; re-joinable at any time.

    While nothing happens for `block_s`, yields `(last id, {"event": "waiting", "engines": n})`: n = 0 means that no
    engine serves the base model. Raises NotFoundError (unknown or expired),
    UnavailableError (redis down, deadline passed).
    """
    key = answer_key(request_id)
    with redis_errors("read the answer"):
        ends_ms, base = _asked(request_id, await async_client().xrange(key, count=1))
    while True:
        with redis_errors("read the answer"):
            found = await async_client().xread({key: after}, count=500, block=int(block_s * 1000))
        for after, fields_ in found[0][1] if found else ():
            event = parse_event(fields_)
            yield after, event
            if event["event"] in FINAL_EVENTS:
                return
        if not found:
            with redis_errors("read the answer"):
                n_known = await async_client().exists(key)
            if error := _hopeless(request_id, ends_ms, n_known):
                raise error
            yield after, _waiting(base, await aengines())


def iter_events(request_id: str, after: str = "0", *, block_s: float = 5) -> Iterator[Event]:
    """As `events`, for sync code."""
    key = answer_key(request_id)
    with redis_errors("read the answer"):
        ends_ms, base = _asked(request_id, client().xrange(key, count=1))
    while True:
        with redis_errors("read the answer"):
            found = client().xread({key: after}, count=500, block=int(block_s * 1000))
        for after, fields_ in found[0][1] if found else ():
            event = parse_event(fields_)
            yield after, event
            if event["event"] in FINAL_EVENTS:
                return
        if not found:
            with redis_errors("read the answer"):
                n_known = client().exists(key)
            if error := _hopeless(request_id, ends_ms, n_known):
                raise error
            yield after, _waiting(base, engines())


def cancel(request_id: str) -> None:
    """Asks the engine to stop; the answer then ends with `done` and finish_reason `cancelled`."""
    with redis_errors("cancel the answer"):
        client().set(cancel_key(request_id), "1", ex=KEEP_ANSWER_S)


async def acancel(request_id: str) -> None:
    with redis_errors("cancel the answer"):
        await async_client().set(cancel_key(request_id), "1", ex=KEEP_ANSWER_S)


def error_from(given: Mapping[str, Any]) -> ColdframeError:
    """The ColdframeError that `as_dict()` made; of the class that has the code."""
    classes = {c.code: c for c in ColdframeError.__subclasses__()}
    code = str(given.get("code") or "error")
    status = int(given.get("status") or 0)
    kind = classes.get(code, UnavailableError if status == UnavailableError.status else ColdframeError)
    error = kind(
        str(given.get("message")), hint=str(given.get("hint") or ""), field=str(given.get("field") or ""), code=code,
        status=status,
    )  # fmt: skip
    error.permanent = bool(given.get("permanent", error.permanent))
    return error


def _call(kind: str, payload: Mapping[str, Any], timeout_s: float) -> tuple[str, str, dict[Any, Any]]:
    """The call's id, the stream it goes to and what is sent."""
    call_id, base = new_id(), payload.get("base")
    ends = int((time.time() + timeout_s) * 1000)
    fields_: dict[Any, Any] = {"id": call_id, "kind": kind, "d": json.dumps(payload), "ends_ms": str(ends)}
    return call_id, services_key(base) if base else SERVICES, fields_


def _result(kind: str, reply: Sequence[Any] | None, timeout_s: float) -> dict[str, Any]:
    if reply is None:
        raise UnavailableError(
            f"No engine answered {kind} in {timeout_s:g} s.", hint="Look at the Engine page whether one is running."
        )
    result: dict[str, Any] = json.loads(reply[1])
    if "error" in result:
        raise error_from(result["error"])
    return result


def call_service(kind: str, payload: Mapping[str, Any], timeout_s: float = 30) -> dict[str, Any]:
    """Asks any engine: `embed {texts}`, `search {team_id, collection_id, query, k, threshold}`,
    `plan {spec, labels, remedies}`, `nearest {team_id, dataset_version_id, query, k}`; or, since the payload names a
    base model, one that serves it: `count_tokens {base, messages}`."""
    call_id, key, fields_ = _call(kind, payload, timeout_s)
    with redis_errors(f"ask for {kind}"):
        client().xadd(key, fields_, maxlen=SERVICES_LIMIT)
        deadline, reply = time.monotonic() + timeout_s, None
        while reply is None and (left := deadline - time.monotonic()) > 0:
            reply = client().blpop([reply_key(call_id)], timeout=min(5, max(left, 0.05)))
    return _result(kind, reply, timeout_s)


async def acall_service(kind: str, payload: Mapping[str, Any], timeout_s: float = 30) -> dict[str, Any]:
    call_id, key, fields_ = _call(kind, payload, timeout_s)
    with redis_errors(f"ask for {kind}"):
        await async_client().xadd(key, fields_, maxlen=SERVICES_LIMIT)
        deadline, reply = time.monotonic() + timeout_s, None
        while reply is None and (left := deadline - time.monotonic()) > 0:
            reply = await async_client().blpop([reply_key(call_id)], timeout=min(5, max(left, 0.05)))
    return _result(kind, reply, timeout_s)


def _heartbeats(hashes: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    return [{name: json.loads(value) for name, value in fields_.items()} for fields_ in hashes if fields_]


def engines() -> list[dict[str, Any]]:
    """Heartbeats of the live engines: id, base, state, device, gpu, needs_bytes, total_bytes, pid, slots,
    rows, step, step_ms, tokens_per_s, queue, resident
    (artifact, label, form, bytes, pinned), totals (see jobs/engine_main.py)."""
    with redis_errors("look for engines"):
        ids = client().zrangebyscore(ENGINES, time.time() - HEARTBEAT_TTL_S, "+inf")
        pipe = client().pipeline(transaction=False)
        for engine_id in ids:
            pipe.hgetall(engine_key(engine_id))
        return _heartbeats(pipe.execute())


async def aengines() -> list[dict[str, Any]]:
    with redis_errors("look for engines"):
        ids = await async_client().zrangebyscore(ENGINES, time.time() - HEARTBEAT_TTL_S, "+inf")
        pipe = async_client().pipeline(transaction=False)
        for engine_id in ids:
            pipe.hgetall(engine_key(engine_id))
        return _heartbeats(await pipe.execute())


def unfinished(team_id: int) -> int:
    """Requests of the team that are not answered yet, by its count in the queue."""
    with redis_errors("look into the queue"):
        return int(client().hget(LOAD, str(team_id)) or 0)


def setup_progress() -> dict[str, Any] | None:
    """How far the starter models are: state (running, ready, failed), text, done, total, share in per cent; or None."""
    with redis_errors("look up the set-up"):
        found = client().hgetall(SETUP)
    if not found:
        return None
    done, total = int(found.get("done") or 0), int(found.get("total") or 0)
    share = round(100 * min(done, total) / total, 1) if total else 0.0
    said = {name: found.get(name, "") for name in ("state", "text")}
    return {**said, "done": done, "total": total, "share": share}


async def collect(request_id: str) -> list[dict[str, Any]]:
    """All events of an answer, when it is done."""
    return [event async for _, event in events(request_id)]
