"""Streams that go on without their reader: joined again by the last event id, told once, whole or stopped by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from tests.webapp.api_client import Answering, asked, call, error_of
from tests.webapp.responder import Responder
from webapp import live
from webapp.models import ApiToken
from webapp.services.teams import token_create

pytestmark = pytest.mark.django_db(transaction=True)
WORDS = ["Both", " owners", " hold", " it."]


@dataclass
class Halfway:
    """Says the first two words of every answer, and the rest when it is told to."""

    engine: Responder
    requests: list[Any] = field(default_factory=list)
    is_saying: Lock = field(default_factory=Lock)

    def __call__(self, responder: Responder, request: Any) -> None:
        with self.is_saying:
            self.requests.append(request)
            responder.start(request)
            for word in WORDS[:2]:
                responder.say(request, word)

    def finish(self) -> None:
        with self.is_saying:
            requests = list(self.requests)
        for request in requests:
            for word in WORDS[2:]:
                self.engine.say(request, word)
            self.engine.finish(request, n_tokens=len(WORDS))


@dataclass
class Told:
    """What a reader has of a stream."""

    name: str = ""
    last_id: str = ""
    texts: dict[int, str] = field(default_factory=dict)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = False

    async def read(self, response: Any, *, until: int | None = None) -> Told:
        """Until so many chunks have text; None: to the end."""
        assert response.status_code == 200
        n_texts = 0
        async for part in response.streaming_content:
            for line in part.decode().splitlines():
                if line.startswith("id: "):
                    self.last_id = line.removeprefix("id: ")
                elif line == "data: [DONE]":
                    self.is_done = True
                elif line.startswith("data: "):
                    n_texts += self._take(json.loads(line.removeprefix("data: ")))
            if until is not None and n_texts >= until:
                break
        await sync_to_async(response.close)()
        return self

    def _take(self, chunk: dict[str, Any]) -> bool:
        self.name = chunk.get("id", self.name)
        self.chunks.append(chunk)
        texts = {choice["index"]: choice["delta"].get("content") for choice in chunk.get("choices", ())}
        for index, text in texts.items():
            self.texts[index] = self.texts.get(index, "") + (text or "")
        return any(texts.values())


@pytest.mark.parametrize("n", [1, 3])
async def test_a_reader_who_comes_back_is_told_the_rest_and_nothing_twice(engine, token, n):
    script = Halfway(engine)
    with Answering(engine, script):
        response = await asked(token, stream=True, background=True, n=n, stream_options={"include_usage": True})
        told = await Told().read(response, until=2 * n - 1)
        script.finish()
        path = f"chat/completions/{told.name}"
        rest = await Told().read(await call(token, path, **{"Last-Event-ID": told.last_id}))
    assert not any(engine.is_cancelled(request) for request in script.requests)
    assert [told.texts.get(i, "") + rest.texts[i] for i in range(n)] == ["".join(WORDS)] * n
    assert rest.is_done and rest.chunks[-1]["usage"]["completion_tokens"] == n * len(WORDS)
    ends = [choice["index"] for c in rest.chunks for choice in c["choices"] if choice["finish_reason"] == "stop"]
    assert sorted(ends) == list(range(n))
    assert rest.name == told.name


async def test_without_an_id_the_stream_begins_anew_and_behind_the_last_only_its_end_is_told(engine, token):
    script = Halfway(engine)
    with Answering(engine, script):
        told = await Told().read(await asked(token, stream=True, background=True), until=1)
        script.finish()
        path = f"chat/completions/{told.name}"
        anew = await Told().read(await call(token, f"{path}?stream=true"))
        end = await Told().read(await call(token, f"{path}?after={anew.last_id}"))
    assert anew.texts == {0: "".join(WORDS)} and anew.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert end.is_done and not end.chunks


async def test_it_is_told_whole_as_if_it_had_been_asked_for_so(engine, token):
    script = Halfway(engine)
    fields = {"logprobs": True, "top_logprobs": 2}
    with Answering(engine, script):
        told = await Told().read(await asked(token, stream=True, background=True, **fields), until=1)
        script.finish()
        body = json.loads((await call(token, f"chat/completions/{told.name}")).content)
    assert body["object"] == "chat.completion" and body["id"] == told.name
    assert body["choices"][0]["message"]["content"] == "".join(WORDS)
    assert [len(t["top_logprobs"]) for t in body["choices"][0]["logprobs"]["content"]] == [2] * len(WORDS)


async def test_texts_are_joined_with_what_they_echo(engine, token):
    script = Halfway(engine)
    with Answering(engine, script):
        body = {"model": "base", "prompt": "Once", "echo": True, "stream": True, "background": True}
        response = await call(token, "completions", body)
        first = await anext(aiter(response.streaming_content))
        await sync_to_async(response.close)()
        script.finish()
        name = json.loads(first.decode().removeprefix("data: "))["id"]
        found = json.loads((await call(token, f"completions/{name}")).content)
    assert (found["object"], found["choices"][0]["text"]) == ("text_completion", "Once" + "".join(WORDS))


async def test_it_is_stopped_by_name(engine, token):
    script = Halfway(engine)
    with Answering(engine, script):
        told = await Told().read(await asked(token, stream=True, background=True, n=2), until=3)
        response = await call(token, f"chat/completions/{told.name}/cancel", {})
    assert json.loads(response.content) == {"id": told.name, "object": "chat.completion", "cancelled": True}
    assert len(script.requests) == 2 and all(engine.is_cancelled(request) for request in script.requests)


async def test_a_reader_whose_token_is_revoked_stops_it(engine, token, monkeypatch):
    monkeypatch.setattr(live, "CHECK_S", 0.0)
    script = Halfway(engine)
    with Answering(engine, script):
        response = await asked(token, stream=True, background=True)
        await ApiToken.objects.aupdate(revoked_at=timezone.now())
        told = await Told().read(response)
    assert told.chunks[-1]["error"]["code"] == "invalid_api_key"
    assert engine.is_cancelled(script.requests[0])


async def test_nobody_else_finds_it_and_nobody_finds_what_is_not_kept(engine, token, other_team, stranger):
    theirs = (await sync_to_async(token_create)(team=other_team, user=stranger, name="probe"))[1]
    script = Halfway(engine)
    with Answering(engine, script):
        told = await Told().read(await asked(token, stream=True, background=True), until=1)
        other = await Told().read(await asked(token, stream=True), until=1)
    for who, name in ((theirs, told.name), (token, other.name), (token, "chatcmpl-none")):
        for path, body in ((name, None), (f"{name}/cancel", {})):
            response = await call(who, f"chat/completions/{path}", body)
            assert (response.status_code, error_of(response)["code"]) == (404, "completion_not_found")
    assert not engine.is_cancelled(script.requests[0]) and engine.is_cancelled(script.requests[1])


async def test_only_a_stream_can_go_on(engine, token):
    response = await asked(token, background=True)
    assert (response.status_code, error_of(response)["param"]) == (400, "background")
