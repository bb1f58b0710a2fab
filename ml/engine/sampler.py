"""The next token of each row. Greedy rows in one operation, the others row by row with a random number of their own.

The random number is a function of the row's seed and the token's position alone: an answer does not depend on which
other rows share the batch, and another engine continues it with the same choices. Order: what the row's schema permits
(its own mask, other rows' logits untouched), repetition penalty (Keskar et al. 2019, arXiv 1909.05858, section 4.1;
prompt and answer), frequency and presence penalties (OpenAI's; the answer only), temperature, top-k, top-p (Holtzman et
al. 2019, arXiv 1904.09751). Log-probabilities are the model's own, before any of these.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from ml.engine.text import token_bytes
from ml.engine.types import Row, Sampling
from ml.errors import ColdframeError

N_LIKELIEST = 256
"""Tokens that are looked at first when one is drawn."""

_BLOCK = 256


@dataclass(frozen=True)
class Choice:
    """A row's next token, or none when its logits were not finite or its schema is at a dead end."""

    id: int | None
    logprobs: list[tuple[int, float]] | None = None
    """[0] the chosen token, then the likeliest, when asked for."""
    error: ColdframeError | None = None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from seed and position."""
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def _has_penalty(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1 or bool(sampling.frequency_penalty or sampling.presence_penalty)


def permit(logits: Tensor, allowed: bytes) -> Tensor:
    """logits [V] with -inf where the token's byte of `allowed` is 0; tokens without one are not allowed either."""
    n = min(len(allowed), logits.shape[0])
    is_allowed = torch.zeros(logits.shape[0], dtype=torch.bool)
    is_allowed[:n] = torch.frombuffer(bytearray(allowed[:n]), dtype=torch.uint8) != 0
    return logits.masked_fill(~is_allowed.to(logits.device), -torch.inf)


def penalize(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """logits [V] with the tokens in `seen` made less likely (penalty > 1)."""
    ids = torch.tensor(sorted(set(seen)), dtype=torch.long, device=logits.device)
    scores = logits[ids]
    return logits.index_copy(0, ids, torch.where(scores > 0, scores / penalty, scores * penalty))


def penalize_counts(logits: Tensor, answer: Sequence[int], *, frequency: float, presence: float) -> Tensor:
    """logits [V] less `frequency` for each time a token stands in `answer`, and `presence` if it does at all."""
    counts = Counter(answer)
    ids = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
    less = torch.tensor([-frequency * n - presence for n in counts.values()], dtype=logits.dtype, device=logits.device)
    return logits.index_add(0, ids, less)


def draw(logits: Tensor, sampling: Sampling, random: float) -> int:
    """A token of logits [V] by temperature, top-k and top-p, where the cumulative probability passes `random`. The few
    likeliest nearly always settle it; sorting all of them takes twenty times as long."""
    n = logits.shape[0]
    for n_looked_at in (min(sampling.top_k, n),) if sampling.top_k else (min(N_LIKELIEST, n), n):
        token = _draw_among(n_looked_at, logits, sampling, random)
        if token is not None:
            return token
    raise ValueError("no token can be drawn")


def _draw_among(n: int, logits: Tensor, sampling: Sampling, random: float) -> int | None:
    """The token, if it is certain to be among the n likeliest."""
    top, ids = torch.topk(logits, n)  # sorted
    n = max(int((top > -torch.inf).sum()), 1)
    is_all = n < len(top) or n in (sampling.top_k, len(logits))
    scores = top[:n].double() / sampling.temperature
    mass = scores.logsumexp(-1) if is_all else (logits / sampling.temperature).logsumexp(-1)
    cumulative: list[float] = (scores - mass).exp().cumsum(-1).tolist()
    n_kept = bisect_left(cumulative, sampling.top_p) + 1  # the fewest that reach top_p
    if n_kept <= n:
        limit = cumulative[n_kept - 1] * random
    elif is_all:
        n_kept, limit = n, cumulative[-1] * random
    elif sampling.top_p >= 1 and random < cumulative[-1]:
        n_kept, limit = n, random
    else:
        return None
    return int(ids[min(bisect_right(cumulative, limit), n_kept - 1)])


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value and its place in each row of logits [R, V], the first of equals; NaN where a row has one. First
    by blocks: finding places is what takes time, five times as much over all of them."""
    blocks = logits.unflatten(-1, (-1, math.gcd(logits.shape[-1], _BLOCK)))  # [R, V / block, block]
    values, block = blocks.amax(-1).max(-1)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block].argmax(-1)
    return values, block * blocks.shape[-1] + inside


def _choose(row: Row, logits: Tensor, greedy: int) -> int:
    sampling = row.request.sampling
    if sampling.temperature == 0 and not _has_penalty(sampling):
        return greedy if row.guide is None else int(logits.argmax())
    if sampling.repetition_penalty != 1:
        logits = penalize(logits, [*row.request.prompt_ids, *row.answer], sampling.repetition_penalty)
    if row.answer and (sampling.frequency_penalty or sampling.presence_penalty):
        logits = penalize_counts(
            logits, row.answer, frequency=sampling.frequency_penalty, presence=sampling.presence_penalty
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    return draw(logits, sampling, uniform(sampling.seed, len(row.answer)))


def _logprobs(logits: Tensor, chosen: int, n: int) -> list[tuple[int, float]]:
    logprobs = torch.log_softmax(logits.float(), -1)
    top = torch.topk(logprobs, n)
    likeliest: list[tuple[int, float]] = [
        (int(i), float(p)) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    return [(chosen, float(logprobs[chosen])), *likeliest]


def sample(rows: Sequence[Row], logits: Tensor) -> list[Choice]:
    """A choice per row of logits [R, V]."""
    values, ids = likeliest(logits)
    is_finite: list[bool] = torch.isfinite(values).tolist()
    greedy: list[int] = ids.tolist()
    choices: list[Choice] = []
    for r, row in enumerate(rows):
        if not is_finite[r]:
            choices.append(Choice(None))
            continue
        try:
            allowed = logits[r] if row.guide is None else permit(logits[r], row.guide.allowed())
        except ColdframeError as error:
            choices.append(Choice(None, error=error))
            continue
        chosen = _choose(row, allowed, greedy[r])
        n = row.request.sampling.n_logprobs
        choices.append(Choice(chosen, _logprobs(logits[r], chosen, n) if n else None))
    return choices


def describe(tokenizer: Any, logprobs: list[tuple[int, float]]) -> dict[str, Any]:
    """Log-probabilities as they travel: the chosen token and the likeliest ones, with their text and bytes."""

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        piece = token_bytes(tokenizer, token_id)
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}

    first, *others = [one(token_id, logprob) for token_id, logprob in logprobs]
    return {**first, "top_logprobs": others}
