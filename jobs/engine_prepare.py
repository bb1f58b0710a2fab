"""From a request as people send it to one that the engine can batch: retrieval, chat template, what fits the context.

Runs in a small pool, so that a slow vector store delays only the rows that need it. A chat that has grown too long
loses its oldest turns (the start event says how many); other requests are refused when they do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from jobs.engine_retrieve import retrieve
from jobs.engine_ticket import Ticket
from jobs.stream import GenerateRequest
from ml.data.chat import completion_ids, prompt_ids, text_ids
from ml.engine.serving import Serving
from ml.engine.types import Request, Sampling
from ml.retrieval.sources import counter, sources_budget

_ADAPTER_WAIT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    request: Request | None
    """None when the answer is the collection's refusal."""
    refusal: str = ""
    sources: list[dict[str, Any]] | None = None
    """None when there is no collection."""
    n_dropped: int = 0
    """Messages of the history that did not fit."""


def seed_of(request: GenerateRequest) -> int:
    """The request's own seed, or one that its id fixes: another engine must go on with the same random numbers."""
    if request.seed is not None:
        return request.seed
    return int.from_bytes(blake2b(request.id.encode(), digest_size=7).digest())


def sampling_of(request: GenerateRequest, max_tokens: int) -> Sampling:
    return Sampling(
        max_tokens=max_tokens, temperature=request.temperature, top_p=request.top_p, top_k=request.top_k,
        repetition_penalty=request.repetition_penalty, frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty, stop=tuple(request.stop), seed=seed_of(request),
        n_logprobs=request.n_logprobs,
    )  # fmt: skip


def prepare(ticket: Ticket, engine: Serving) -> Prepared:
    """Raises a ColdframeError: damaged adapter, collection gone, vector store down."""
    request, backbone = with_examples(ticket.request), engine.backbone
    n_prefix, longest = _reserved(request, engine)
    if request.text:
        return Prepared(request=_batched(ticket, request, text_ids(backbone.tokenizer, request.text), longest, engine))
    room = engine.scheduler.length - n_prefix - longest
    tokenizer = backbone.tokenizer
    staying = [*request.messages[: _n_head(request.messages, request.n_examples)], request.messages[-1]]
    n_prompt, count = len(prompt_ids(tokenizer, staying)), counter(tokenizer)
    budget = sources_budget(room, n_prompt=n_prompt, question=staying[-1]["content"], count=count)
    found = retrieve(request, known=ticket.sources, budget_tokens=budget, count=count)
    sources = found.sources if request.collection_id is not None else None
    if found.refusal is not None:
        return Prepared(request=None, refusal=found.refusal, sources=sources)
    messages, n_dropped = found.messages, 0
    ids = prompt_ids(tokenizer, messages)
    while len(ids) > room and request.message_id is not None:
        shorter = without_oldest(messages, request.n_examples)
        if not shorter:
            break
        n_dropped += len(messages) - len(shorter)
        messages, ids = shorter, prompt_ids(tokenizer, shorter)
    batched = _batched(ticket, request, ids, longest, engine)
    return Prepared(request=batched, sources=sources, n_dropped=n_dropped)


def _batched(ticket: Ticket, request: GenerateRequest, ids: list[int], longest: int, engine: Serving) -> Request:
    tokenizer = engine.backbone.tokenizer
    return Request(
        id=request.id, team_id=request.team_id, prompt_ids=tuple(ids), artifact=request.artifact,
        label=request.label, sampling=sampling_of(request, longest), emitted=tuple(ticket.emitted),
        deadline=ticket.deadline, schema=request.schema, writes=not request.choices,
        choices=tuple(tuple(completion_ids(tokenizer, text)) for text in request.choices or request.references),
    )  # fmt: skip


def with_examples(request: GenerateRequest) -> GenerateRequest:
    """The request with its messages folded around the examples nearest to the question, where it asks for them."""
    if request.nearest is None:
        return request
    from jobs.nearest import nearest
    from ml.specs.prompting import Frame

    given = dict(request.nearest)
    frame = Frame.from_dict(given.pop("frame"))
    found = nearest(team_id=request.team_id, query=request.query, **given)
    pairs = [(row["question"], row["answer"]) for row in found]
    return replace(request, messages=frame.fold(request.messages, pairs), n_examples=2 * len(pairs))


def _reserved(request: GenerateRequest, engine: Serving) -> tuple[int, int]:
    """Tokens of the adapter's prefix and of the longest answer; a classifier head writes none."""
    if request.artifact is None:
        return 0, request.max_tokens
    adapter = engine.adapters.fetch(request.artifact).result(timeout=_ADAPTER_WAIT_S)
    return adapter.prefix_tokens, request.max_tokens if adapter.head is None else 1


def _n_head(messages: list[dict[str, str]], n_examples: int) -> int:
    """Messages at the beginning that belong to the prompt: the system text and the examples."""
    return n_examples + (messages[0]["role"] == "system")


def without_oldest(messages: list[dict[str, str]], n_examples: int = 0) -> list[dict[str, str]]:
    """`messages` without the oldest turn; the system message, the prompt's examples and the last question stay. Empty:
    nothing can go."""
    n_head = _n_head(messages, n_examples)
    head, turns = messages[:n_head], messages[n_head:]
    if len(turns) < 2:
        return []
    n = next((i for i in range(1, len(turns)) if turns[i]["role"] == "user"), 1)
    return [*head, *turns[n:]]
