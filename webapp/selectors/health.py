"""Whether each part answers. Parts that run in processes of their own say so themselves, by beating in redis.

Guarantees: every answer comes within seconds, whatever is down; nothing of addresses, credentials or other people's
data is in it, since anyone may ask. Does not start or mend anything.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection

from jobs import stream
from ml.errors import ColdframeError

ALIVE = {"worker_gpu": "cf:worker:gpu", "worker_cpu": "cf:worker:cpu",
         "worker_eval": "cf:worker:eval", "reconciler": "cf:reconciler"}  # fmt: skip
"""Keys that the processes keep alive; they fade some seconds after the last beat."""
SETUP = "cf:setup"
"""Hash: how far the starter models are (jobs/starter.py)."""
KEEP_ANSWER_S = 0.5
PARTS = ("database", "redis", "vector_store", "engine", "worker_gpu", "worker_cpu", "worker_eval", "reconciler",
         "models")  # fmt: skip
Part = dict[str, Any]

_lock = threading.Lock()
_kept: tuple[float, dict[str, Any]] = (0.0, {})


def health() -> dict[str, Any]:
    """`{"ready": bool, "parts": {name: {"state": "ready" | "starting" | "down", "text": str}}}`."""
    global _kept
    with _lock:
        asked_at, answer = _kept
        if not answer or time.monotonic() - asked_at > KEEP_ANSWER_S:
            answer = _ask_all()
            _kept = (time.monotonic(), answer)
        return answer


def forget() -> None:
    """Ask anew next time; for tests."""
    global _kept
    _kept = (0.0, {})


def _ask_all() -> dict[str, Any]:
    parts: dict[str, Part] = {"database": _guarded(_database), "redis": _guarded(_redis)}
    parts["vector_store"] = _guarded(_vector_store)
    if parts["redis"]["state"] == "ready":
        parts |= _guarded_beats()
    else:
        unknown = {"state": "down", "text": "cannot be asked while redis is down"}
        parts |= {name: unknown for name in PARTS if name not in parts}
    return {
        "ready": all(part["state"] == "ready" for part in parts.values()),
        "parts": {name: parts[name] for name in PARTS},
    }


def _guarded(check: Callable[[], Part]) -> Part:
    """Any failure to answer is the answer `down`; its kind is told, its text is not."""
    try:
        return check()
    except (ColdframeError, DatabaseError, OSError, ValueError) as error:
        return {"state": "down", "text": f"does not answer ({type(error).__name__})"}


def _database() -> Part:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
        if cursor.fetchone() is None:
            return {"state": "starting", "text": "waiting for its migrations"}
    return {"state": "ready", "text": connection.vendor}


def _redis() -> Part:
    with stream.redis_errors("ask redis"):
        stream.client().ping()
    return {"state": "ready", "text": "answers"}


def _vector_store() -> Part:
    url = f"{settings.CHROMA_URL.rstrip('/')}/api/v2/heartbeat"
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - the operator's own address
        answer.read(200)
    return {"state": "ready", "text": "answers"}


def _guarded_beats() -> dict[str, Part]:
    names = [name for name in PARTS if name not in ("database", "redis", "vector_store")]
    try:
        with stream.redis_errors("ask which parts are alive"):
            beats = stream.client().mget(list(ALIVE.values()))
            setup = stream.client().hgetall(SETUP)
        engines = stream.engines()
    except ColdframeError:
        return {name: {"state": "down", "text": "cannot be asked while redis is down"} for name in names}
    engine = engine_part(engines)
    return {
        "engine": engine,
        "models": models_part(setup, engine),
        **{name: _beating(bool(beat)) for name, beat in zip(ALIVE, beats, strict=True)},
    }


def _beating(is_alive: bool) -> Part:
    return {"state": "ready", "text": "works"} if is_alive else {"state": "down", "text": "no sign of life"}


def engine_part(engines: list[dict[str, Any]]) -> Part:
    """One engine that serves is enough, of each base model; while one has none, what its first one is busy with."""
    n_ready = 0
    for base in settings.BASE_MODELS:
        of_base = [engine for engine in engines if engine.get("base") == base]
        is_ready = [engine for engine in of_base if engine.get("state") == "ready"]
        n_ready += len(is_ready)
        whose = f" of {base}" if len(settings.BASE_MODELS) > 1 else ""
        if not of_base:
            return {"state": "down", "text": f"no engine{whose} is running"}
        if all(engine.get("state") == stream.DRAINED for engine in of_base):
            return {"state": "down", "text": f"drained{whose} by an admin"}
        if not is_ready:
            return {"state": "starting", "text": f"{of_base[0].get('state')}{whose}"}
    return {"state": "ready", "text": f"{n_ready} running", "count": n_ready}


def models_part(setup: dict[str, str], engine: Part) -> Part:
    """The models' folder may be on another machine: an engine that serves proves that they are there as well."""
    names = (*settings.BASE_MODELS, settings.EMBEDDING_MODEL)
    if engine["state"] == "ready" or all((settings.MODELS_DIR / name / "config.json").is_file() for name in names):
        return {"state": "ready", "text": ", ".join(names)}
    progress = {key: int(setup[key]) for key in ("done", "total") if setup.get(key, "").isdigit()}
    if setup.get("state") == "running":
        return {"state": "starting", "text": setup.get("text", ""), **progress}
    return {"state": "down", "text": setup.get("text") or "not fetched yet: run make models"}
