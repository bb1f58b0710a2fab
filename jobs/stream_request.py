"""The request for one answer, from the web to an engine. Checked when made; import it from jobs.stream."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ml.errors import SpecError


def new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One answer asked for. Prompts and few-shot blocks are already part of `messages`."""

    id: str = field(default_factory=new_id)
    """uuid4 hex; names the answer."""
    team_id: int
    base: str
    """Name of a folder in the models folder; the base that the engine must serve."""
    artifact: str | None = None
    """sha256 of the adapter's manifest; None is the plain model."""
    label: str = ""
    """What people call the target, e.g. `support-triage@3`."""
    messages: list[dict[str, str]] = field(default_factory=list)
    text: str = ""
    """Instead of messages: a text that the answer continues as it stands, with no chat template around it."""
    collection_id: int | None = None
    """Search this collection first and answer from its chunks."""
    query: str = ""
    """What was typed, to search with; "" takes the last user message."""
    nearest: dict[str, Any] | None = None
    """Examples chosen for the question: {"dataset_version_id", "k", "frame"}; `messages` are then folded by the engine
    (ml.specs.prompting.Frame)."""
    n_examples: int = 0
    """Messages behind the system text that are the prompt's examples: they stay when a chat grows too long."""
    rule: dict[str, Any] = field(default_factory=dict)
    """How the answer is found in the text (ml.specs.voting)."""
    n_samples: int = 1
    """Texts written; above 1 their answers vote, and the winner's text is the answer."""
    max_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy; up to 2."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    repetition_penalty: float = 1.0
    """1 is off (Keskar et al. 2019, arXiv 1909.05858); prompt and answer count."""
    frequency_penalty: float = 0.0
    """0 is off; taken off a token's logit for each time that the answer has it already."""
    presence_penalty: float = 0.0
    """0 is off; taken off the logit of every token that the answer has already."""
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    """Fixes the answer; None lets the request's id fix it."""
    n_logprobs: int = 0
    """0 is off; otherwise that many alternatives a token."""
    choices: list[str] = field(default_factory=list)
    """The answer is the likeliest of these texts; nothing is written token by token, `done` has their `scores`."""
    schema: str = ""
    """JSON schema, as text, that the answer must satisfy; "" is free text."""
    references: list[str] = field(default_factory=list)
    """Texts whose log probability as the answer is wanted beside the answer that is written."""
    group: str | None = None
    """Requests sent together share it."""
    deadline_s: float = 600
    """Seconds from submission after which the answer is given up."""
    message_id: int | None = None
    """The chat message that the engine completes, also when nobody reads along."""

    def __post_init__(self) -> None:
        _check(self)

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> GenerateRequest:
        given = json.loads(text)
        unknown = sorted(set(given) - {f.name for f in fields(cls)})
        if unknown:
            raise SpecError(f"Unknown keys in a request: {', '.join(unknown)}.", field=unknown[0])
        return cls(**given)


_BOUNDS: dict[str, tuple[type, float, float]] = {
    "max_tokens": (int, 1, 131_072),
    "temperature": (float, 0, 2),
    "top_p": (float, 1e-6, 1),
    "top_k": (int, 0, 1_000_000),
    "repetition_penalty": (float, 0.1, 10),
    "frequency_penalty": (float, -2, 2),
    "presence_penalty": (float, -2, 2),
    "n_logprobs": (int, 0, 20),
    "n_samples": (int, 1, 16),
    "n_examples": (int, 0, 200),
    "deadline_s": (float, 1, 86_400),
}


MAX_CHOICES, MAX_CHOICE_CHARACTERS = 2000, 20_000


def _check_choices(request: GenerateRequest) -> None:
    for name in ("choices", "references"):
        texts = getattr(request, name)
        if len(texts) > MAX_CHOICES or not all(
            isinstance(text, str) and text.strip() and len(text) <= MAX_CHOICE_CHARACTERS for text in texts
        ):
            raise SpecError(
                f"{name} must be at most {MAX_CHOICES:,} texts of 1 to {MAX_CHOICE_CHARACTERS:,} characters.",
                field=name,
            )
    if request.choices and (request.references or len(set(request.choices)) != len(request.choices)):
        raise SpecError("choices must differ from one another and come without references.", field="choices")


def _check_asked(request: GenerateRequest) -> None:
    if request.text:
        if request.messages or request.nearest or request.collection_id is not None or request.message_id is not None:
            raise SpecError("A text to continue comes without messages, examples and collection.", field="text")
    elif not request.messages or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in request.messages
    ):
        raise SpecError("messages must be a list of {role, content} with text in both.", field="messages")
    if request.schema and request.choices:
        raise SpecError("An answer is chosen or follows a schema, not both.", field="schema")


def _check(request: GenerateRequest) -> None:
    _check_choices(request)
    for name, (kind, low, high) in _BOUNDS.items():
        value = getattr(request, name)
        good = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not low <= value <= high:
            number = "a whole number" if kind is int else "a number"
            raise SpecError(f"{name} must be {number} from {low:g} to {high:g}, got {value!r}.", field=name)
    _check_asked(request)
    if len(request.stop) > 16 or not all(isinstance(s, str) and 0 < len(s) <= 200 for s in request.stop):
        raise SpecError("stop must be at most 16 texts of 1 to 200 characters.", field="stop")
    if request.seed is not None and (isinstance(request.seed, bool) or not isinstance(request.seed, int)):
        raise SpecError(f"seed must be a whole number, got {request.seed!r}.", field="seed")
