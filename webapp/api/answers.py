"""From an engine's events to OpenAI's objects: the whole answer, or chunks as server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from jobs import stream
from ml.errors import ColdframeError
from webapp.api.errors import error_body
from webapp.citations import settle
from webapp.live import Guard

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}


@dataclass(kw_only=True)
class Asked:
    """One completion under way."""

    request: stream.GenerateRequest
    model: str
    """Resolved name, the version behind an alias."""
    request_id: str
    guard: Guard
    with_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    sources: list[dict[str, Any]] = field(default_factory=list)
    started: dict[str, Any] = field(default_factory=dict)
    is_over: bool = False

    @property
    def id(self) -> str:
        return f"chatcmpl-{self.request.id}"

    def usage(self, done: dict[str, Any]) -> dict[str, Any]:
        given = done.get("usage", {})
        prompt, answer = int(given.get("prompt_tokens", 0)), int(given.get("completion_tokens", 0))
        prefix = int(self.started.get("prefix_tokens") or 0)
        return {
            "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": min(prefix, prompt)},
        }  # fmt: skip

    def extras(self, done: dict[str, Any], cited: frozenset[int]) -> dict[str, Any]:
        """What OpenAI has no field for."""
        keys = ("n", "title", "page", "start", "end", "score", "text", "document_id", "document_version_id")
        citations = [
            {**{key: s.get(key) for key in keys}, "is_cited": s.get("n") in cited} for s in self.sources
        ]  # fmt: skip
        figures = {key: done.get(key) for key in ("first_step", "last_step", "first_token_ms", "tokens_per_s")}
        figures |= {"labels": done["labels"]} if done.get("labels") else {}
        found = {key: done[key] for key in ("answer", "agreement", "votes") if key in done}
        return {"citations": citations, "engine": self.started.get("engine"), **figures, **found}


async def events_of(asked: Asked) -> AsyncIterator[dict[str, Any]]:
    """The answer's events. Errors are raised; a reader that leaves, or may not read any more, stops the row."""
    try:
        async for _, event in stream.events(asked.request.id, block_s=1):
            if not await asked.guard.holds():
                raise ColdframeError(
                    "The token was revoked or its owner suspended.", code="invalid_api_key", status=401
                )  # fmt: skip
            asked.is_over = event["event"] in stream.FINAL_EVENTS
            if event["event"] == "error":
                raise stream.error_from(event["error"])
            if event["event"] == "sources":
                asked.sources = event.get("sources", [])
            elif event["event"] == "start":
                asked.started = event
            yield event
    finally:
        if not asked.is_over:
            asked.is_over = True
            await stream.acancel(asked.request.id)


async def whole(asked: Asked) -> dict[str, Any]:
    """The chat.completion object."""
    parts: list[str] = []
    done: dict[str, Any] = {}
    async for event in events_of(asked):
        parts.append(event.get("text", "") if event["event"] == "token" else "")
        done = event if event["event"] == "done" else done
    cited = settle("".join(parts), {int(s["n"]) for s in asked.sources})
    message = {"role": "assistant", "content": cited.text, "refusal": None}
    reason = FINISH.get(str(done.get("finish_reason")), "stop")
    return {
        "id": asked.id, "object": "chat.completion", "created": asked.created, "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": asked.usage(done), "coldframe": asked.extras(done, cited.numbers),
    }  # fmt: skip


def _chunk(asked: Asked, delta: dict[str, Any], reason: str | None = None, **extra: Any) -> str:
    body = {
        "id": asked.id, "object": "chat.completion.chunk", "created": asked.created, "model": asked.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}], **extra,
    }  # fmt: skip
    if asked.with_usage:
        body.setdefault("usage", None)
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


class Chunks:
    """The body of a streamed answer. `first` are events read before the headers were sent; an error after that is the
    stream's last object. Django calls `close` when the reader has left, whatever the generators were doing."""

    def __init__(self, asked: Asked, first: list[dict[str, Any]], rest: AsyncIterator[dict[str, Any]]) -> None:
        self._asked, self._first, self._rest = asked, first, rest

    def close(self) -> None:
        if not self._asked.is_over:
            self._asked.is_over = True
            stream.cancel(self._asked.request.id)

    async def __aiter__(self) -> AsyncIterator[str]:
        text: list[str] = []
        yield _chunk(self._asked, {"role": "assistant", "content": ""})
        for event in self._first:
            for line in _lines(self._asked, event, text):
                yield line
        try:
            async for event in self._rest:
                for line in _lines(self._asked, event, text):
                    yield line
        except ColdframeError as error:
            yield f"data: {json.dumps(error_body(error, self._asked.request_id))}\n\n"
        else:
            yield "data: [DONE]\n\n"


def _lines(asked: Asked, event: dict[str, Any], text: list[str]) -> list[str]:
    if event["event"] == "waiting":
        return [": waiting\n\n"]
    if event["event"] == "token":
        text.append(event.get("text", ""))
        return [_chunk(asked, {"content": event["text"]})] if event.get("text") else []
    if event["event"] != "done":
        return []
    cited = settle("".join(text), {int(s["n"]) for s in asked.sources})
    extras = asked.extras(event, cited.numbers)
    found = [_chunk(asked, {}, FINISH.get(str(event.get("finish_reason")), "stop"), coldframe=extras)]
    if asked.with_usage:
        body = {
            "id": asked.id, "object": "chat.completion.chunk", "created": asked.created, "model": asked.model,
            "choices": [], "usage": asked.usage(event),
        }  # fmt: skip
        found.append(f"data: {json.dumps(body)}\n\n")
    return found
