"""One row of an evaluation: asked of the engines, its events gathered, its answer read. No files, no database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs import stream
from jobs.stream import GenerateRequest
from ml.errors import ColdframeError, NotFoundError, UnavailableError
from ml.evaluate.answers import kept_answers, label_in
from ml.retrieval.sources import without_markers

MOST_CHARACTERS = 20_000
"""Of an answer or a question that are kept."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line of requests.jsonl."""

    place: int
    row: int
    question: str
    expected: str
    request: Any
    """Fields of a GenerateRequest without its id."""
    answers: tuple[str, ...] = ()
    """Every answer that counts as right, where there are several."""

    def __post_init__(self) -> None:
        fields = dict(self.request)
        object.__setattr__(self, "request", lambda: GenerateRequest(**fields))


@dataclass(kw_only=True)
class Outcome:
    """What came back for one request."""

    text: str = ""
    started: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    latency_ms: float | None = None
    """What the engine took for it once it had a slot; None when the row was begun more than once."""
    error: ColdframeError | None = None
    is_half: bool = False
    """The engine that ended the answer had not scored the expected one."""


async def ask_once(request: GenerateRequest, *, on_wait: Callable[[int], None]) -> Outcome:
    """Submits the request and follows it to its end. Raises the ColdframeError that ended it."""
    await stream.asubmit([request])
    outcome, texts, n_starts = Outcome(), [], 0
    try:
        async for _, event in stream.events(request.id):
            name = event["event"]
            if name == "waiting":
                on_wait(event["engines"])
            elif name == "start":
                outcome.started = event
                n_starts += 1
            elif name == "token":
                texts.append(event["text"])
            elif name == "done":
                outcome.done = event
            elif name == "error":
                raise stream.error_from(event["error"])
    except NotFoundError as error:
        raise UnavailableError("Redis lost its memory, and the answer with it.") from error
    if outcome.done.get("finish_reason") == "cancelled":
        raise UnavailableError("The answer was cancelled.", code="engine_lost")
    outcome.text = "".join(texts)
    outcome.latency_ms = outcome.done.get("slot_ms") if n_starts == 1 else None
    asked = request.choices or request.references
    outcome.is_half = bool(asked) and not outcome.done.get("scores") and n_starts > 0
    return outcome


def read_answer(item: Item, outcome: Outcome, spec: dict[str, Any]) -> dict[str, Any]:
    """The row's line of the results; `got` is what counts, `text` what was written where that is more."""
    line: dict[str, Any] = {
        "place": item.place, "row": item.row, "question": item.question[:MOST_CHARACTERS], "expected": item.expected,
        **kept_answers(item.answers),
    }  # fmt: skip
    if outcome.error is not None:
        return {**line, "got": "", "error": outcome.error.as_dict()}
    usage = outcome.done.get("usage") or {}
    figures = {
        "tokens_in": usage.get("prompt_tokens"), "tokens_out": usage.get("completion_tokens"),
        "tokens_prefix": outcome.started.get("prefix_tokens"), "latency_ms": outcome.latency_ms,
        "first_token_ms": outcome.done.get("first_token_ms") if outcome.latency_ms is not None else None,
        "finish": outcome.done.get("finish_reason"),
    }  # fmt: skip
    return {**line, **_got(outcome, spec), **_likelihood(outcome, spec), **figures}


def _got(outcome: Outcome, spec: dict[str, Any]) -> dict[str, Any]:
    text = without_markers(outcome.text) if spec.get("removes_markers") else outcome.text
    text = text.strip()[:MOST_CHARACTERS]
    found = str(outcome.done["answer"] or "") if "answer" in outcome.done else text
    got = label_in(found, spec["labels"]) if spec["labels"] else found
    return {"got": got} if got == text else {"got": got, "text": text}


def _likelihood(outcome: Outcome, spec: dict[str, Any]) -> dict[str, Any]:
    """Each label's log probability, or the expected answer's."""
    scores = outcome.done.get("scores") or []
    if not scores:
        return {}
    if spec["labels"]:
        return {"scores": [round(float(score), 4) for score in scores]}
    return {"nll": round(-float(scores[0]), 4), "n_tokens": int(outcome.done["n_scored"][0])}
