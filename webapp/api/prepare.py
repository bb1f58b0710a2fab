"""From a checked body to the engines' requests and the reply that their answers will make.

Shared by the routes and by batches: a line of a batch is refused, and answered, as a request of its own would be. Knows
the team, not who asks. Raises ColdframeError; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

from django.conf import settings
from pydantic import ValidationError

from jobs import stream
from ml.errors import NotFoundError, SpecError
from ml.specs import writes_text
from webapp.api.errors import spec_error
from webapp.api.limits import (
    EMBEDDING_NAME,
    MAX_CHOICE_CHARS,
    MAX_CHOICES,
    MAX_INPUT_CHARS,
    MAX_INPUTS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_PROMPTS,
    MAX_TEXT_LOGPROBS,
)  # fmt: skip
from webapp.api.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, ResponseFormat, Sampled, Strict
from webapp.models import Collection, Team
from webapp.replies import Answer, Reply
from webapp.selectors.chat import DEADLINE_S
from webapp.selectors.framing import Frame
from webapp.selectors.targets import PROMPT, Target, resolve
from webapp.services.asking import Sampling, clean_text, request_for, sampling_from
from webapp.services.asking_schema import ANY_OBJECT, schema_text

EMBED_S = 60.0
"""How long vectors may take."""
Body = TypeVar("Body", bound=Strict)
Find = Callable[..., Target]
"""As `resolve`; a batch finds each name once."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    requests: Sequence[stream.GenerateRequest]
    """One an answer, in the reply's order."""
    reply: Reply


def parsed(kind: type[Body], given: Mapping[str, Any]) -> Body:
    """The body of a batch's line. Raises SpecError, in the words that the routes use."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise spec_error({**problem, "loc": ("body", "body", *problem["loc"])}) from None


def whole_number(name: str, value: int | None, low: int, high: int, default: int) -> int:
    if value is not None and not low <= value <= high:
        raise SpecError(f"{name} must be a whole number from {low} to {high}, got {value}.", field=name)
    return default if value is None else value


def _sampling(body: Sampled, *, has_schema: bool = False) -> Sampling:
    given = body.model_dump(exclude_none=True)
    given["max_tokens"] = given.pop("max_completion_tokens", None) or given.get("max_tokens")
    if 0 in (body.max_tokens, getattr(body, "max_completion_tokens", None)):
        raise SpecError("max_tokens must be at least 1, got 0.", field="max_tokens")
    if body.repetition_penalty is None and (body.frequency_penalty or body.presence_penalty or has_schema):
        given["repetition_penalty"] = 1.0
    return sampling_from(given)


def _deadline_s(body: Sampled) -> float:
    given = body.deadline_s
    if given is not None and not 1 <= given <= DEADLINE_S:
        raise SpecError(f"deadline_s must be a number from 1 to {DEADLINE_S}, got {given:g}.", field="deadline_s")
    return float(given or DEADLINE_S)


def _with_usage(body: Sampled) -> bool:
    for name in ("stream_options", "background"):
        if getattr(body, name) and not body.stream:
            raise SpecError(f"{name} needs stream.", hint="Leave it out.", field=name)
    return bool(body.stream_options and body.stream_options.include_usage)


def _seed(seed: int, place: int) -> int:
    """Of one of several answers: the first has the request's own."""
    return seed if not place else int.from_bytes(blake2b(f"{seed}:{place}".encode(), digest_size=7).digest())


def _copies(request: stream.GenerateRequest, n: int) -> list[stream.GenerateRequest]:
    """The request, and n - 1 more that differ in id and seed; queued together they enter one batch."""
    seeds = [None if request.seed is None else _seed(request.seed, place) for place in range(n)]
    group = request.id if n > 1 else None
    first = replace(request, group=group)
    return [first, *(replace(request, id=stream.new_id(), group=group, seed=seed) for seed in seeds[1:])]


def _reply(requests: Sequence[stream.GenerateRequest], target: Target, **values: Any) -> Reply:
    start = "chatcmpl" if values.get("kind", "chat") == "chat" else "cmpl"
    answers = [Answer(index=index) for index in range(len(requests))]
    return Reply(id=f"{start}-{requests[0].id}", model=target.name, answers=answers, **values)


def _choices(body: ChatRequest, target: Target) -> list[str]:
    """The texts that the answer is chosen from; none: it is written."""
    texts = body.choices
    if texts is None:
        return []
    is_good = 2 <= len(texts) <= MAX_CHOICES and len(set(texts)) == len(texts)
    if not is_good or not all(text.strip() and len(text) <= MAX_CHOICE_CHARS for text in texts):
        raise SpecError(
            f"choices must be 2 to {MAX_CHOICES} different texts of 1 to {MAX_CHOICE_CHARS:,} characters, "
            f"got {texts!r:.60}.", field="choices",
        )  # fmt: skip
    other = next((name for name in ("response_format", "logprobs", "n") if getattr(body, name)), "")
    if other:
        raise SpecError(f"An answer that is chosen comes without {other}.", hint="Leave it out.", field=other)
    if not writes_text(target.form) or target.frame.rule:
        raise SpecError(f"{target.asked} has an answer of its own to give.", hint="Leave choices out.", field="choices")
    return [clean_text(text, field="choices") for text in texts]


def _check_special(target: Target, *, n: int, has_logprobs: bool, schema: str) -> None:
    """What an adapter that picks a label, or a prompt that votes, cannot do besides."""
    if not writes_text(target.form) and (has_logprobs or schema):
        raise SpecError(
            f"{target.asked} answers with one of its labels: it has no tokens to tell or to shape.",
            hint="coldframe.labels has its probabilities.", field="logprobs" if has_logprobs else "response_format",
        )  # fmt: skip
    if target.frame.n_samples > 1 and (n > 1 or has_logprobs):
        raise SpecError(
            f"{target.asked} lets {target.frame.n_samples} texts vote already.", hint="Leave it out.",
            field="n" if n > 1 else "logprobs",
        )  # fmt: skip


# Chat


def collection_named(team: Team, name: str) -> Collection:
    """Raises NotFoundError."""
    found = Collection.objects.for_team(team).filter(name=name.replace("\x00", "")).first()
    if found is None:
        raise NotFoundError(
            f"Your team has no collection {name[:80]!r}.", hint="The Collections page lists them.",
            field="collection", code="collection_not_found",
        )  # fmt: skip
    return found


def _schema(asked: ResponseFormat | None) -> str:
    if asked is None or asked.type == "text":
        return ""
    if asked.type == "json_object":
        return ANY_OBJECT
    if asked.json_schema_ is None:
        raise SpecError("response_format of type json_schema needs json_schema.", field="response_format.json_schema")
    return schema_text(asked.json_schema_.schema_)


def _chat_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise SpecError("top_logprobs needs logprobs.", hint='Send "logprobs": true.', field="top_logprobs")
    n = whole_number("top_logprobs", body.top_logprobs, 0, MAX_LOGPROBS, 0)
    return n if body.logprobs else None


def chat(team: Team, body: ChatRequest, *, find: Find = resolve) -> Prepared:
    if body.messages[-1].role != "user":
        raise SpecError(
            f"The last message must be the user's, got {body.messages[-1].role!r}.",
            hint="End messages with the question.", field="messages",
        )  # fmt: skip
    target = find(team=team, name=body.model)
    collection = None if body.collection is None else collection_named(team, body.collection)
    n, n_logprobs, schema = whole_number("n", body.n, 1, MAX_N, 1), _chat_logprobs(body), _schema(body.response_format)
    _check_special(target, n=n, has_logprobs=n_logprobs is not None, schema=schema)
    choices = _choices(body, target)
    messages = [message.as_dict() for message in body.messages]
    for message in messages:
        message["content"] = clean_text(message["content"], field="messages")
    request = request_for(
        target=target, team_id=team.pk, messages=messages, sampling=_sampling(body, has_schema=bool(schema)),
        collection_id=collection.pk if collection else None, deadline_s=_deadline_s(body), schema=schema,
        choices=choices,
        n_logprobs=0 if n_logprobs is None else max(n_logprobs, 1),
    )  # fmt: skip
    requests = _copies(request, n)
    with_usage = _with_usage(body)
    reply = _reply(requests, target, n=n, n_logprobs=n_logprobs, choices=choices, with_usage=with_usage)
    return Prepared(requests=requests, reply=reply)


# Texts


def _prompts(body: CompletionRequest) -> list[str]:
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not 1 <= len(prompts) <= MAX_PROMPTS or not all(prompts):
        raise SpecError(
            f"prompt must be a text, or 1 to {MAX_PROMPTS} texts, none of them empty, got {body.prompt!r:.60}.",
            field="prompt",
        )
    return [clean_text(prompt, field="prompt") for prompt in prompts]


def _check_text_target(target: Target) -> None:
    if target.name.startswith(PROMPT):
        raise SpecError(
            f"{target.asked} is a prompt: it puts a text into messages of its own.",
            hint="Ask it at /v1/chat/completions.", field="model",
        )  # fmt: skip


def completion(team: Team, body: CompletionRequest, *, find: Find = resolve) -> Prepared:
    """Texts are continued as they stand: nothing of the adapter's data set is put around them."""
    target = find(team=team, name=body.model)
    _check_text_target(target)
    prompts, n = _prompts(body), whole_number("n", body.n, 1, MAX_N, 1)
    if len(prompts) * n > MAX_PROMPTS:
        raise SpecError(f"prompts × n may be {MAX_PROMPTS}, got {len(prompts) * n}.", field="n")
    if body.best_of not in (None, n):
        raise SpecError(f"best_of may only be n, got {body.best_of}.", hint="Leave it out.", field="best_of")
    n_logprobs = None
    if body.logprobs is not None:
        n_logprobs = whole_number("logprobs", body.logprobs, 0, MAX_TEXT_LOGPROBS, 0)
        if body.echo:
            raise SpecError("Log-probabilities of the prompt are not told.", hint="Leave echo out.", field="echo")
    _check_special(target, n=n, has_logprobs=n_logprobs is not None, schema="")
    bare = replace(target, frame=Frame())
    values = {"sampling": _sampling(body), "deadline_s": _deadline_s(body),
              "n_logprobs": 0 if n_logprobs is None else max(n_logprobs, 1)}  # fmt: skip
    requests = [
        request
        for prompt in prompts
        for request in _copies(request_for(target=bare, team_id=team.pk, messages=[], text=prompt, **values), n)
    ]
    echo = [prompt for prompt in prompts for _ in range(n)] if body.echo else []
    reply = _reply(requests, target, kind="text", n=n, n_logprobs=n_logprobs, echo=echo, with_usage=_with_usage(body))
    return Prepared(requests=requests, reply=reply)


# Vectors


def embedding(body: EmbeddingRequest) -> list[str]:
    """The texts."""
    if body.model not in (EMBEDDING_NAME, settings.EMBEDDING_MODEL):
        raise NotFoundError(
            f"There is no embedding model {body.model[:80]!r}.", hint=f"Did you mean {EMBEDDING_NAME}?",
            field="model", code="model_not_found",
        )  # fmt: skip
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_INPUTS:
        n = len(texts) if isinstance(texts, list) else type(texts).__name__
        raise SpecError(f"input must be a text or a list of 1 to {MAX_INPUTS} texts, got {n}.", field="input")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise SpecError(
                f"input {number} must be a text that is not empty, got {text!r:.60}.",
                hint="Token ids are not taken: send the text.", field="input",
            )  # fmt: skip
    return [clean_text(text, field="input", limit=MAX_INPUT_CHARS) for text in texts]


def check_dimensions(body: EmbeddingRequest, found: Mapping[str, Any]) -> None:
    n = len(found["vectors"][0])
    if body.dimensions is not None and body.dimensions != n:
        raise SpecError(f"dimensions may only be {n}, got {body.dimensions}.", field="dimensions")
