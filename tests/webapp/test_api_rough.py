"""Rough clients against a really running server: many idle connections, readers slower than the answer."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator

import httpx
import pytest

from tests.webapp.api_server import running

N_WORDS = 400
WORDS = " ".join(["word"] * N_WORDS)


@pytest.fixture(scope="module")
def server(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, token)"""
    play = ("tests.webapp.responder", redis_address, "--words", WORDS)
    with running(redis_address, tmp_path_factory.mktemp("var"), *play, WEB_REQUESTS="12") as found:
        yield found


def request_of(token: str) -> bytes:
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "Well?"}], "stream": True})
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}",
             "Content-Type: application/json", f"Content-Length: {len(body)}", "", body)  # fmt: skip
    return "\r\n".join(lines).encode()


def words_of(text: str) -> int:
    return text.count("word")


async def open_to(address: str, **settings: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port), **settings)


async def whole(address: str, token: str) -> str:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        body = {"model": "base", "messages": [{"role": "user", "content": "Well?"}], "stream": True}
        answer = await client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
        return answer.text


async def test_a_reader_of_one_byte_at_a_time_holds_nobody_up_and_misses_nothing(server):
    address, token = server
    reader, writer = await open_to(address, limit=1)
    writer.write(request_of(token))
    slow = await reader.readexactly(1)
    assert words_of(await whole(address, token)) == N_WORDS, "another reader gets its answer meanwhile"
    while b"[DONE]" not in slow[-8:]:
        slow += await reader.readexactly(1)
    writer.close()
    assert words_of(slow.decode()) == N_WORDS


async def test_ten_thousand_idle_connections_hold_nobody_up(server):
    address, token = server
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[asyncio.StreamWriter] = []
    try:
        for _ in range(20):
            opened = await asyncio.gather(*(open_to(address) for _ in range(500)))
            idle += [writer for _, writer in opened]
        for writer in idle[::100]:
            writer.write(b"GET /v1/mod")
        assert words_of(await whole(address, token)) == N_WORDS
    finally:
        for writer in idle:
            writer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_more_requests_at_once_than_there_may_be_are_told_so(server):
    address, token = server
    pairs = [await open_to(address, limit=64) for _ in range(40)]
    for _, writer in pairs:
        writer.write(request_of(token))
    statuses = [int((await reader.readexactly(12))[9:]) for reader, _ in pairs]
    for _, writer in pairs:
        writer.close()
    assert set(statuses) == {200, 503} and statuses.count(200) >= 12
