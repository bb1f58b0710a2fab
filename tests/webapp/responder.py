"""Plays the engine's part over the real streams, by script: what the web does is tested without a model.

In a test: `take()` what was asked, then `start`, `say`, `finish` or `fail`, each when the test wants it. By itself,
`python -m tests.webapp.responder REDIS_URL [--keep] [--pause SECONDS]` answers everything word by word until it is
stopped; `--keep` completes chat messages, which needs Django's settings in the environment.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from jobs import stream, stream_redis
from ml.errors import ColdframeError

NAME, BASE = "scripted-1", "smollm2-135m-instruct"
WORDS = "You asked: {question} A tree on the line belongs to both owners [1]. The fence [9] does not."
SOURCES = [
    {"n": 1, "document_id": 0, "document_version_id": None, "chunk_id": 0, "title": "boundary-tree-opinion.pdf",
     "page": 6, "start": 10, "end": 90, "score": 0.83,
     "text": "A tree standing directly upon the line between adjoining owners is the common property of both."},
    {"n": 2, "document_id": 0, "document_version_id": None, "chunk_id": 1, "title": "survey.md", "page": None,
     "start": 0, "end": 60, "score": 0.71, "text": "The lot line passes through the trunk of a 34 inch Douglas fir."},
]  # fmt: skip


class Responder:
    def __init__(self, *, keeps: bool = True) -> None:
        """`keeps`: completes chat messages, as the engine does."""
        self.keeps = keeps
        self.step = 100
        self.texts: dict[str, str] = {}
        self.sources: dict[str, list[dict[str, Any]]] = {}

    def beat(self, rows: Sequence[dict[str, Any]] = (), **fields: Any) -> None:
        """A sign of life, good for 15 seconds."""
        told = {"id": NAME, "base": BASE, "state": "ready", "step": self.step, "step_ms": 33.0, "slots": 8,
                "length": 2048, "rows": list(rows), **fields}  # fmt: skip
        client = stream_redis.client()
        key = stream.engine_key(told["id"])
        client.hset(key, mapping={name: json.dumps(value) for name, value in told.items()})
        client.expire(key, stream.HEARTBEAT_TTL_S)
        client.zadd(stream.ENGINES, {told["id"]: time.time()})

    def take(self) -> list[stream.GenerateRequest]:
        """What waits in the queue, taken out of it."""
        client = stream_redis.client()
        found = []
        for key in client.scan_iter(stream.requests_key("*")):
            for entry_id, fields in client.xrange(key):
                client.xdel(key, entry_id)
                client.hincrby(stream.LOAD, fields["team"], -1)
                found.append((entry_id, stream.GenerateRequest.from_json(fields["d"])))
        return [request for _, request in sorted(found, key=lambda entry: entry[0])]

    def _event(self, request: stream.GenerateRequest, name: str, **data: Any) -> None:
        stream_redis.client().xadd(stream.answer_key(request.id), {"e": name, "d": json.dumps(data)})

    def _keep(self, function: str, request: stream.GenerateRequest, **arguments: Any) -> None:
        if self.keeps and request.message_id:
            from webapp.services import chat

            getattr(chat, function)(message_id=request.message_id, **arguments)

    def start(self, request: stream.GenerateRequest, sources: Sequence[dict[str, Any]] = (), **figures: Any) -> None:
        info = {"engine": NAME, "prompt_tokens": 30, "prefix_tokens": 0, "dropped": 0, **figures}
        self.sources[request.id] = list(sources)
        if sources:
            self._event(request, "sources", sources=list(sources))
        self._keep("answer_started", request, info=info)
        self._event(request, "start", **info)

    def say(self, request: stream.GenerateRequest, text: str, *, rows: int = 1, token: str | None = None) -> None:
        """`token`: what the token itself says, where that differs from the text that became final with it."""
        self.texts[request.id] = self.texts.get(request.id, "") + text
        told = text if token is None else token
        logprobs = {"logprobs": _logprobs(told, request.n_logprobs)} if request.n_logprobs else {}
        self._event(request, "token", text=text, ids=[1], step=self.step, rows=rows, **logprobs)

    def finish(self, request: stream.GenerateRequest, *, reason: str = "stop", n_tokens: int = 3, **more: Any) -> None:
        usage = {"prompt_tokens": 30, "completion_tokens": n_tokens, "total_tokens": 30 + n_tokens}
        figures = {"first_step": self.step - n_tokens + 1, "last_step": self.step, "first_token_ms": 40.0,
                   "tokens_per_s": 30.0}  # fmt: skip
        self._keep(
            "answer_finished", request, text=self.texts.get(request.id, ""), finish_reason=reason, usage=usage,
            sources=self.sources.get(request.id, []), info=figures,
        )  # fmt: skip
        self._event(request, "done", finish_reason=reason, usage=usage, **figures, **more)

    def fail(self, request: stream.GenerateRequest, error: ColdframeError) -> None:
        self._keep("answer_failed", request, error=error.as_dict(), text=self.texts.get(request.id, ""))
        self._event(request, "error", error=error.as_dict())

    def answer(self, request: stream.GenerateRequest, text: str, sources: Sequence[dict[str, Any]] = ()) -> None:
        """All of it at once."""
        self.start(request, sources)
        for word in text.split(" "):
            self.step += 1
            self.say(request, word if self.texts.get(request.id) is None else f" {word}")
        self.finish(request, n_tokens=len(text.split(" ")))

    def is_cancelled(self, request: stream.GenerateRequest) -> bool:
        return bool(stream_redis.client().exists(stream.cancel_key(request.id)))

    def reply_to_services(self) -> None:
        """Embeddings: the text's length and its first letter, as a unit of their own."""
        client = stream_redis.client()
        for entry_id, fields in client.xrange(stream.SERVICES):
            client.xdel(stream.SERVICES, entry_id)
            texts = json.loads(fields["d"]).get("texts", [])
            vectors = [[float(len(text)), float(ord(text[0])), 0.5] for text in texts]
            reply = {"vectors": vectors, "n_tokens": sum(map(len, texts)), "cut": [], "most": 256}
            client.rpush(stream.reply_key(fields["id"]), json.dumps(reply))

    def serve(self, *, pause_s: float = 0.02, words: str = WORDS) -> None:
        """Until stopped: everything is answered, one word of each live row a step."""
        live: dict[str, tuple[stream.GenerateRequest, list[str]]] = {}
        n_said: dict[str, int] = {}
        while True:
            for request in self.take():
                text = words.format(question=request.text or request.messages[-1]["content"])
                self.start(request, SOURCES if request.collection_id else ())
                live[request.id] = (request, [part for word in text.split(" ") for part in (word, " ")][:-1])
            self.reply_to_services()
            self.beat([_row(r, n_said.get(r.id, 0)) for r, _ in live.values()])
            self.step += 1
            for request, left in list(live.values()):
                stopped = self.is_cancelled(request)
                if left and not stopped:
                    self.say(request, left.pop(0), rows=len(live))
                    n_said[request.id] = n_said.get(request.id, 0) + 1
                else:
                    del live[request.id]
                    self.finish(request, reason="cancelled" if stopped else "stop", n_tokens=n_said.get(request.id, 0))
            time.sleep(pause_s)


def _logprobs(text: str, n: int) -> dict[str, Any]:
    chosen = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    return {**chosen, "top_logprobs": [{**chosen, "token": f"{text}{place or ''}"} for place in range(n)]}


def _row(request: stream.GenerateRequest, n_said: int) -> dict[str, Any]:
    return {"id": request.id, "label": request.label, "team_id": request.team_id, "position": 30 + n_said,
            "capacity": 30 + request.max_tokens, "prefix_tokens": 0, "state": "decode"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--words", default=WORDS)
    given = parser.parse_args()
    if given.keep:
        import django

        django.setup()
    stream_redis.configure(given.redis_url)
    Responder(keeps=given.keep).serve(pause_s=given.pause, words=given.words)


if __name__ == "__main__":
    main()
