"""A row as the JSON that vLLM's /v1/completions takes. Every setting is given: a server's own defaults never apply.

Deviations from the engine's own sampler (ml.engine.sampler), which documentation names: random numbers are vLLM's, so
a seed repeats an answer on the same server, not on another engine; an answer that is taken over goes on with other
random numbers, and its penalties do not count what was written before.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from ml.engine.adapters import Adapter
from ml.engine.types import Request, Row
from ml.errors import StaysLocalError
from ml.vllm.adapters import stays_local
from ml.vllm.soft import SoftPrompts


def reason_to_stay(request: Request, adapter: Adapter | None) -> StaysLocalError | None:
    """What vLLM's API cannot express of a request, with its adapter as far as it is known."""
    if request.choices:
        return stays_local("A request that scores given texts")
    if request.schema and request.emitted:
        return stays_local("The rest of an answer by a schema, which another engine began,")
    if adapter is not None and adapter.embeddings is not None and request.sampling.repetition_penalty != 1:
        return stays_local("A repetition penalty over a prompt of trained vectors")
    return None


def seed_of(request: Request) -> int:
    """The request's seed; another one for the rest of an answer."""
    seed = request.sampling.seed
    if not request.emitted:
        return seed
    return int.from_bytes(blake2b(f"{seed}:{len(request.emitted)}".encode(), digest_size=7).digest())


def body_of(row: Row, *, stop_ids: frozenset[int], soft: SoftPrompts) -> dict[str, Any]:
    """Without `model`. Raises ModelError for a token that the base does not have."""
    request, sampling = row.request, row.request.sampling
    body: dict[str, Any] = {
        "stream": True,
        "n": 1,
        "max_tokens": sampling.max_tokens - len(request.emitted),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "seed": seed_of(request),
        "stop_token_ids": sorted(stop_ids),
        "return_token_ids": True,
        # Prompts of one team are never found out by how fast another team's are read.
        "cache_salt": f"team-{request.team_id}",
    }
    if sampling.n_logprobs:
        body |= {"logprobs": sampling.n_logprobs, "return_tokens_as_token_ids": True}
    if request.schema:
        body["structured_outputs"] = {"json": json.loads(request.schema)}
    ids = [*request.prompt_ids, *request.emitted]
    if row.adapter is None or row.adapter.embeddings is None:
        return {**body, "prompt": ids}
    return {**body, "prompt_embeds": soft.encoded(row.adapter.embeddings, ids)}
