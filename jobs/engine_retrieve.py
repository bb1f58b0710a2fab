"""A question about a collection: its chunks are searched and put into the prompt before the model sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs.stream import GenerateRequest
from ml.retrieval.sources import fit_sources, sources_prompt


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    messages: list[dict[str, str]]
    """With the numbered sources in front of the last question."""
    sources: list[dict[str, Any]]
    """Those that fit the context, with what the `sources` event says about each."""
    refusal: str | None
    """The collection's own text, when nothing in it is near enough: the answer, instead of a guess."""


def retrieve(
    request: GenerateRequest, *, known: list[dict[str, Any]] | None, budget_tokens: int, count: Callable[[str], int]
) -> Retrieved:
    """`known`: what an earlier engine had found and shown already. Raises NotFoundError or UnavailableError."""
    from jobs.retrieve import refusal_of, search

    if request.collection_id is None:
        return Retrieved(messages=request.messages, sources=[], refusal=None)
    asked = next((m["content"] for m in reversed(request.messages) if m["role"] == "user"), "")
    hits = known
    if hits is None:
        hits = search(team_id=request.team_id, collection_id=request.collection_id, query=request.query or asked)
        hits = fit_sources(hits, budget_tokens=budget_tokens, count=count)
    refusal = refusal_of(team_id=request.team_id, collection_id=request.collection_id)
    if not hits:
        return Retrieved(messages=request.messages, sources=[], refusal=refusal)
    messages = sources_prompt(request.messages, hits)
    return Retrieved(messages=messages, sources=hits, refusal=None)
