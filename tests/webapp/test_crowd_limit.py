"""More requests at once than the web process carries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from webapp.crowd_limit import CrowdLimit


class House:
    """An app whose requests stay until they are let go."""

    def __init__(self, limit: int) -> None:
        self.gate = asyncio.Event()
        self.app = CrowdLimit(self._serve, limit=limit)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/broken":
            raise RuntimeError("broken")
        if scope["path"] not in ("/healthz", "/metrics"):
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, path: str = "/v1/models", kind: str = "http") -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": kind, "path": path, "headers": []}, None, send)
        return sent


async def test_one_too_many_is_told_when_to_try_again_and_the_others_go_on():
    house = House(2)
    inside = [asyncio.create_task(house.ask()) for _ in range(2)]
    await asyncio.sleep(0)
    start, body = await house.ask()
    assert start["status"] == 503 and dict(start["headers"])[b"retry-after"] == b"5"
    error = json.loads(body["body"])["error"]
    assert error["code"] == "queue_full" and error["message"].startswith("2 requests are under way")
    house.gate.set()
    assert [(await task)[0]["status"] for task in inside] == [200, 200]
    assert (await house.ask())[0]["status"] == 200


async def test_a_page_is_refused_in_plain_text():
    house = House(1)
    inside = asyncio.create_task(house.ask("/"))
    await asyncio.sleep(0)
    start, body = await house.ask("/runs/")
    assert dict(start["headers"])[b"content-type"].startswith(b"text/plain") and b"WEB_REQUESTS" in body["body"]
    house.gate.set()
    await inside


async def test_a_full_house_is_healthy():
    house = House(1)
    inside = asyncio.create_task(house.ask())
    await asyncio.sleep(0)
    assert (await house.ask("/healthz"))[0]["status"] == (await house.ask("/metrics"))[0]["status"] == 200
    house.gate.set()
    await inside


async def test_a_request_that_breaks_leaves_its_place():
    house = House(1)
    house.gate.set()
    for _ in range(3):
        with contextlib.suppress(RuntimeError):
            await house.ask("/broken")
    assert (await house.ask())[0]["status"] == 200
