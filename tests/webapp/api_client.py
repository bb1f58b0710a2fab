"""Calls of the API as a client makes them, and a thread that answers them by script."""

from __future__ import annotations

import json
import threading
from typing import Any

from django.test import AsyncClient

from tests.webapp.responder import SOURCES, Responder

HELLO = [{"role": "user", "content": "Hello?"}]


class Answering:
    """Answers the next requests, from a thread, with `act(responder, request)`."""

    def __init__(self, responder: Responder, act: Any) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(responder, act))

    def _run(self, responder: Responder, act: Any) -> None:
        while not self._over.wait(0.01):
            responder.reply_to_services()
            for request in responder.take():
                act(responder, request)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def echo(responder: Responder, request: Any) -> None:
    responder.answer(request, "Both owners [1], not [7].", SOURCES if request.collection_id else ())


async def call(token: str, path: str = "chat/completions", body: Any = None, **headers: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"} | headers
    client = AsyncClient()
    if body is None:
        return await client.get(f"/v1/{path}", headers=headers)
    text = body if isinstance(body, str) else json.dumps(body)
    return await client.post(f"/v1/{path}", text, content_type="application/json", headers=headers)


async def asked(token: str, **fields: Any) -> Any:
    return await call(token, body={"model": "base", "messages": HELLO} | fields)


def error_of(response: Any) -> dict[str, Any]:
    body = json.loads(response.content)
    assert set(body) == {"error"}
    assert body["error"]["message"]
    return body["error"]
