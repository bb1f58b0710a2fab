"""Bodies that are too large, of no sensible length, or too slow."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler

from webapp.body_limit import OVERHEAD_BYTES, BodyLimit

LIMIT = 1024


async def ask(
    chunks: list[bytes | None], *, length: str | None = None, accept: str = "*/*", app: Any = None, idle_s: float = 0.05
) -> tuple[int, bytes, int]:
    """Sends `chunks` (None: a pause for ever); returns status, body and how many chunks were taken."""
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if taken == len(chunks):
            return {"type": "http.disconnect"}
        chunk = chunks[taken]
        taken += 1
        if chunk is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunk, "more_body": taken < len(chunks)}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept", accept.encode())] + ([(b"content-length", length.encode())] if length is not None else [])
    scope = {
        "type": "http", "method": "POST", "path": "/datasets/uploads/", "headers": headers, "query_string": b"",
        "http_version": "1.1", "server": ("localhost", 80), "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    await BodyLimit(app or _reads_all, limit_bytes=LIMIT, idle_s=idle_s)(scope, receive, send)
    return sent[0]["status"], sent[1]["body"], taken


async def _reads_all(scope: Any, receive: Any, send: Any) -> None:
    """As Django does: reads the body, gives up silently when the other side is gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_declared_length_over_the_limit_is_413_before_a_byte_is_read() -> None:
    status, body, taken = asyncio.run(ask([b"x"], length=str(10 * 1024**3)))
    assert (status, taken) == (413, 0)
    assert b"too large" in body


def test_an_undeclared_length_is_cut_off_at_the_limit() -> None:
    status, _, taken = asyncio.run(ask([b"x" * OVERHEAD_BYTES] * 50))
    assert (status, taken) == (413, 2)


@pytest.mark.parametrize("length", ["-1", "many", "1e9", ""])
def test_a_length_without_sense_is_400(length: str) -> None:
    assert asyncio.run(ask([b"x"], length=length))[0] == 400


def test_a_body_that_stops_coming_is_408() -> None:
    status, body, _ = asyncio.run(ask([b"x", None]))
    assert status == 408
    assert b"Nothing was kept" in body


def test_a_small_body_passes() -> None:
    assert asyncio.run(ask([b"x", b"y"], length="2"))[:2] == (200, b"ok")


def test_scripts_are_answered_in_json() -> None:
    body = asyncio.run(ask([b"x"], length="999999999", accept="application/json"))[1]
    assert "uploads may have" in json.loads(body)["error"]["message"]


def test_django_itself_gives_up_without_an_answer_of_its_own() -> None:
    status, _, _ = asyncio.run(ask([b"x" * OVERHEAD_BYTES] * 3, app=ASGIHandler()))
    assert status == 413
