"""From a target, messages and sampling settings to the request that an engine gets. Shared by chat and the API.

Guarantees: every number is inside its bounds and every text can be stored and sent, or a SpecError names the field, the
value received and the bound. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django.conf import settings

from jobs.stream import GenerateRequest
from ml.errors import SpecError
from webapp.selectors.chat import DEADLINE_S
from webapp.selectors.targets import Target, unserved_error

MAX_STOPS, MAX_STOP_LENGTH = 8, 64
MAX_TEXT = 200_000
"""Characters of one message; what fits the context is for the engine to say."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer's tokens are drawn. The defaults suit a small model: nearly greedy, repetition discouraged."""

    temperature: float = 0.2
    """0 is greedy; up to 2."""
    top_p: float = 0.95
    top_k: int = 0
    """Only the k likeliest tokens are drawn from; 0 is off."""
    max_tokens: int = 256
    repetition_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    """Fixes the answer; None draws anew each time."""
    stop: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _bounds() -> dict[str, tuple[type, float, float]]:
    return {
        "temperature": (float, 0, 2),
        "top_p": (float, 0.01, 1),
        "top_k": (int, 0, 1000),
        "max_tokens": (int, 1, settings.ENGINE_LENGTH),
        "repetition_penalty": (float, 0.5, 2),
        "frequency_penalty": (float, -2, 2),
        "presence_penalty": (float, -2, 2),
        "seed": (int, -(2**63), 2**63 - 1),
    }


def _number(name: str, value: Any) -> int | float:
    kind, low, high = _bounds()[name]
    rule = f"{name} must be a {'whole ' if kind is int else ''}number from {low:g} to {high:g}, got {value!r:.60}."
    if isinstance(value, bool):
        raise SpecError(rule, field=name)
    try:
        number = int(value) if kind is int and isinstance(value, str | int) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(rule, field=name) from None
    if not math.isfinite(number) or not low <= number <= high or (kind is int and number != int(number)):
        raise SpecError(rule, field=name)
    return kind(number)


def sampling_from(given: Mapping[str, Any], defaults: Sampling | None = None) -> Sampling:
    """`defaults` with what is given (numbers or their text; "" and None mean the default). Raises SpecError."""
    defaults = defaults or Sampling()
    changes: dict[str, Any] = {
        name: _number(name, given[name]) for name in _bounds() if given.get(name) not in (None, "")
    }
    stop = given.get("stop")
    if stop:
        changes["stop"] = _stops(stop)
    return replace(defaults, **changes)


def _stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given
    is_good = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not is_good or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_LENGTH for s in stops):
        raise SpecError(
            f"stop must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters, got {given!r:.60}.",
            field="stop",
        )
    return [clean_text(s, field="stop") for s in stops]


def clean_text(text: str, *, field: str, limit: int = MAX_TEXT) -> str:
    """`text` without NUL. Raises SpecError when it is too long or no valid Unicode (lone surrogates)."""
    if len(text) > limit:
        raise SpecError(f"{field} may have {limit:,} characters, got {len(text):,}.", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpecError(
            f"{field} is no valid text: character {error.start + 1} is half of a surrogate pair.", field=field
        ) from None
    return text.replace("\x00", "")


def check_served(target: Target) -> None:
    """Raises SpecError for what no engine can answer with, before anything is written or queued."""
    if target.unserved:
        raise unserved_error(target.asked, target.unserved)


def request_for(
    *,
    target: Target,
    team_id: int,
    sampling: Sampling,
    messages: Sequence[Mapping[str, str]] = (),
    text: str = "",
    collection_id: int | None = None,
    deadline_s: float = DEADLINE_S,
    **extra: Any,
) -> GenerateRequest:
    """The engine's request, for messages or for a `text` that is continued as it stands. Raises SpecError. A prompt's
    own collection is searched when the caller names none.

    Classifiers are asked greedily, and texts that vote at the prompt's own temperature. Classifiers, answers from a
    collection and those that a rule finds carry no repetition penalty: it counts the prompt's tokens too, so it would
    punish the very labels, words and numbers that are to be copied.
    """
    check_served(target)
    frame = target.frame
    collection_id = collection_id if collection_id is not None else frame.collection_id
    if frame.picks_label:
        sampling = replace(sampling, temperature=0.0)
    if frame.n_samples > 1:
        sampling = replace(sampling, temperature=frame.sample_temperature)
    if frame.picks_label or frame.rule or collection_id is not None:
        sampling = replace(sampling, repetition_penalty=1.0)
    asked: dict[str, Any] = {"text": text}
    if not text:
        asked = {"messages": target.fold(messages), "n_examples": 2 * len(frame.examples)}
    if frame.nearest is not None:
        asked = {
            "messages": [dict(m) for m in messages],
            "nearest": {**asdict(frame.nearest), "frame": frame.as_dict()},
        }
    return GenerateRequest(
        team_id=team_id, base=target.base, artifact=target.artifact, label=target.label, collection_id=collection_id,
        query=_typed(messages) if target.version else "", rule=dict(frame.rule), n_samples=frame.n_samples,
        deadline_s=deadline_s, **asked, **sampling.as_dict(), **extra,
    )  # fmt: skip


def _typed(messages: Sequence[Mapping[str, str]]) -> str:
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
