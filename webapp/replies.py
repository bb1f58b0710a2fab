"""OpenAI's objects from an engine's events: whole answers, chunks, log-probabilities, usage. Pure: no Django, no Redis.

The API and batches share it, so that a request has the same answer in both. Guarantees: a token's log-probability is
told with the text that it became part of, never for text that was held back for a stop string; what a prompt's tokens
are counted as is what the engine read (`usage.prompt_tokens_details.cached_tokens`: of those, how many it copied).
"""

from __future__ import annotations

import base64
import codecs
import math
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ml.errors import ColdframeError
from webapp.citations import settle

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}
CITED = ("n", "title", "page", "start", "end", "score", "text", "document_id", "document_version_id")
FIGURES = ("first_step", "last_step", "first_token_ms", "tokens_per_s")
FOUND = ("answer", "agreement", "votes")
"""What a prompt's rule and its votes say."""
CODES = {"invalid_spec": "invalid_request", "context_too_long": "context_length_exceeded", "busy": "queue_full"}
"""What clients know some of our codes as."""
Kind = Literal["chat", "text"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Text that became final, and the log-probabilities of its tokens where they were asked for."""

    text: str
    tokens: list[dict[str, Any]]


@dataclass(kw_only=True, eq=False)
class Answer:
    """One answer as its events come in."""

    index: int = 0
    text: str = ""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    """Log-probabilities, each with `offset`: the character of the text that its token begins at."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    started: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    _held: list[dict[str, Any]] = field(default_factory=list)
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    _n_characters: int = 0

    def take(self, event: dict[str, Any]) -> Piece | None:
        """The piece that this event made final, if any."""
        name = event["event"]
        if name == "sources":
            self.sources = event.get("sources", [])
        elif name == "start":
            self.started = event
        elif name == "done":
            self.done = event
        elif name == "token":
            return self._take_token(event)
        return None

    def _take_token(self, event: dict[str, Any]) -> Piece | None:
        if event.get("logprobs"):
            self._held.append({**event["logprobs"], "offset": self._n_characters})
            self._n_characters += len(self._decoder.decode(bytes(event["logprobs"]["bytes"])))
        text = event.get("text", "")
        if not text:
            return None
        piece = Piece(text=text, tokens=self._held)
        self.text += text
        self.tokens += self._held
        self._held = []
        return piece

    @property
    def finish_reason(self) -> str:
        return FINISH.get(str(self.done.get("finish_reason")), "stop")

    def usage(self, name: str) -> int:
        return int((self.done.get("usage") or {}).get(name) or 0)

    def cited(self) -> tuple[str, frozenset[int]]:
        """The text without markers that stand for nothing, and the numbers of the passages that it cites."""
        found = settle(self.text, {int(s["n"]) for s in self.sources})
        return found.text, found.numbers

    def extras(self) -> dict[str, Any]:
        """What OpenAI has no field for."""
        _, numbers = self.cited()
        citations = [{**{key: s.get(key) for key in CITED}, "is_cited": s.get("n") in numbers} for s in self.sources]
        return {
            "citations": citations, "engine": self.started.get("engine"),
            "prefix_tokens": int(self.started.get("prefix_tokens") or 0),
            **{key: self.done.get(key) for key in FIGURES},
            **({"labels": self.done["labels"]} if self.done.get("labels") else {}),
            **{key: self.done[key] for key in FOUND if key in self.done},
        }  # fmt: skip


@dataclass(kw_only=True, eq=False)
class Reply:
    """The answers to one request: `n` to each of its prompts, in the prompts' order."""

    id: str
    model: str
    """Resolved name, the version behind an alias."""
    kind: Kind = "chat"
    answers: list[Answer]
    n: int = 1
    n_logprobs: int | None = None
    """Alternatives that each token is told with; None: no log-probabilities at all."""
    echo: Sequence[str] = ()
    """Text that each answer's own is told behind."""
    choices: Sequence[str] = ()
    """Texts that each answer was chosen from."""
    with_usage: bool = False
    """Whether the last chunk of a stream tells the usage."""
    created: int = field(default_factory=lambda: int(time.time()))

    def shape(self) -> dict[str, Any]:
        """All of it but what the answers have taken, for `of_shape`."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "answers"}
        return {**values, "n_answers": len(self.answers)}

    @classmethod
    def of_shape(cls, shape: Mapping[str, Any]) -> Reply:
        answers = [Answer(index=index) for index in range(shape["n_answers"])]
        return cls(answers=answers, **{name: value for name, value in shape.items() if name != "n_answers"})

    @property
    def name(self) -> str:
        return "chat.completion" if self.kind == "chat" else "text_completion"

    def usage(self) -> dict[str, Any]:
        """A prompt counts once, however many answers it has."""
        firsts = self.answers[:: self.n]
        prompt = sum(answer.usage("prompt_tokens") for answer in firsts)
        answered = sum(answer.usage("completion_tokens") for answer in self.answers)
        cached = sum(int(answer.started.get("cached_tokens") or 0) for answer in firsts)
        return {
            "prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered,
            "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
        }  # fmt: skip

    def whole(self) -> dict[str, Any]:
        """The chat.completion or text_completion object, once every answer is done."""
        extras = self._extras(self.answers[0])
        if len(self.answers) > 1:
            extras["answers"] = [{"index": answer.index, **self._extras(answer)} for answer in self.answers]
        choices = [self._choice(answer) for answer in self.answers]
        return {**self._head(self.name), "choices": choices, "usage": self.usage(), "coldframe": extras}

    def _extras(self, answer: Answer) -> dict[str, Any]:
        scores = answer.done.get("scores") or ()
        if len(scores) != len(self.choices) or not self.choices:
            return answer.extras()
        chances = sorted(zip(self.choices, _softmax(scores), strict=True), key=lambda pair: -pair[1])
        return {**answer.extras(), "scores": {choice: round(chance, 4) for choice, chance in chances}}

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _choice(self, answer: Answer) -> dict[str, Any]:
        text, _ = answer.cited()
        rest = {"finish_reason": answer.finish_reason, "logprobs": self._logprobs(answer, answer.tokens)}
        if self.kind == "chat":
            message = {"role": "assistant", "content": text, "refusal": None}
            return {"index": answer.index, "message": message, **rest}
        return {"index": answer.index, "text": self._echoed(answer) + text, **rest}

    def _echoed(self, answer: Answer) -> str:
        return self.echo[answer.index] if self.echo else ""

    def _logprobs(self, answer: Answer, tokens: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        if self.n_logprobs is None:
            return None
        shown = [{**token, "top_logprobs": token["top_logprobs"][: self.n_logprobs]} for token in tokens]
        if self.kind == "chat":
            return {"content": [{k: v for k, v in t.items() if k != "offset"} for t in shown], "refusal": None}
        return {
            "tokens": [token["token"] for token in shown],
            "token_logprobs": [token["logprob"] for token in shown],
            "top_logprobs": [{other["token"]: other["logprob"] for other in t["top_logprobs"]} for t in shown],
            "text_offset": [token["offset"] + len(self._echoed(answer)) for token in shown],
        }  # fmt: skip

    # Chunks of a stream

    def _chunk(self, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        usage = {"usage": None} if self.with_usage else {}
        return self._head(name) | {"choices": choices} | usage | extra

    def _part(self, answer: Answer, text: str | None, **values: Any) -> dict[str, Any]:
        """The choice of a chunk; None: no text."""
        rest = {"finish_reason": None, "logprobs": None, **values}
        if self.kind == "text":
            return {"index": answer.index, "text": text or "", **rest}
        return {"index": answer.index, "delta": {} if text is None else {"content": text}, **rest}

    def opening(self) -> list[dict[str, Any]]:
        if self.kind == "text":
            return [self._chunk([self._part(a, self._echoed(a))]) for a in self.answers if self._echoed(a)]
        start = {"role": "assistant", "content": ""}
        return [self._chunk([{**self._part(answer, None), "delta": start}]) for answer in self.answers]

    def of_piece(self, answer: Answer, piece: Piece) -> dict[str, Any]:
        return self._chunk([self._part(answer, piece.text, logprobs=self._logprobs(answer, piece.tokens))])

    def closing(self, answer: Answer) -> dict[str, Any]:
        """The chunk with the reason for the end, and with all that OpenAI has no field for."""
        return self._chunk(
            [self._part(answer, None, finish_reason=answer.finish_reason)], coldframe=self._extras(answer)
        )

    def of_usage(self) -> dict[str, Any]:
        return self._chunk([], usage=self.usage())


def _softmax(scores: Sequence[float]) -> list[float]:
    """Probabilities from log probabilities, among these alone."""
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def embedding_list(found: Mapping[str, Any], *, model: str, encoding: str) -> dict[str, Any]:
    """The list of vectors, from what the engine's service `embed` says."""

    def encoded(vector: Sequence[float]) -> Any:
        packed = struct.pack(f"<{len(vector)}f", *vector)
        return base64.b64encode(packed).decode() if encoding == "base64" else vector

    data = [
        {"object": "embedding", "index": place, "embedding": encoded(vector)}
        for place, vector in enumerate(found["vectors"])
    ]
    n_tokens = int(found.get("n_tokens") or 0)
    return {
        "object": "list", "data": data, "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        "coldframe": {"cut": list(found.get("cut") or ()), "max_tokens": found.get("most")},
    }  # fmt: skip


def error_body(error: ColdframeError, request_id: str) -> dict[str, Any]:
    """`{"error": {message, type, param, code, request_id}}`, as OpenAI's clients expect it."""
    kind = "invalid_request_error" if error.status < 500 and error.status != 429 else "server_error"
    return {
        "error": {
            "message": f"{error.message} {error.hint}".strip(), "type": kind, "param": error.field or None,
            "code": CODES.get(error.code, error.code), "request_id": request_id,
        }
    }  # fmt: skip
