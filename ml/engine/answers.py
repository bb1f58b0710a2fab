"""A row's answer, token by token: taking one in, taking over what another engine began, and the closing figures."""

from __future__ import annotations

import time
from typing import Any

from ml.engine.sampler import Choice, describe
from ml.engine.types import Done, FinishReason, Row, Token


def resume(row: Row) -> FinishReason | None:
    """Replays the tokens that were sent before. Returns the reason when the answer was over with them already; raises
    ModelError when its schema does not permit them."""
    for token_id in row.request.emitted:
        row.stream.push(token_id)
        if row.guide is not None:
            row.guide.take(token_id)
    if _is_complete(row):
        return "stop"
    return "length" if len(row.answer) >= row.request.sampling.max_tokens else None


def _is_complete(row: Row) -> bool:
    """A stop string was written, or nothing can follow by the answer's schema."""
    return bool(row.stream.is_stopped or (row.guide is not None and row.guide.is_over))


def accept(row: Row, choice: Choice, *, step: int, n_live: int, tokenizer: Any) -> tuple[Token, FinishReason | None]:
    """Appends the token that was chosen. Returns its event, and the reason when the answer ends with it."""
    if choice.id is None:
        raise ValueError("no token was chosen")
    if row.guide is not None:
        row.guide.take(choice.id)
    row.answer.append(choice.id)
    row.unread = [choice.id]
    row.first_token = row.first_token or time.monotonic()
    row.first_step = row.first_step or step
    row.last_step = step
    text = row.stream.push(choice.id)
    event = Token(
        id=row.request.id,
        ids=(choice.id,),
        text=text,
        step=step,
        rows=n_live,
        n=len(row.answer),
        logprobs=describe(tokenizer, choice.logprobs) if choice.logprobs else None,
    )
    if _is_complete(row):
        return event, "stop"
    return event, "length" if len(row.answer) >= row.request.sampling.max_tokens else None


def ended(row: Row, reason: FinishReason) -> Done:
    tail = row.stream.finish()
    now = time.monotonic()
    n_here = len(row.answer) - len(row.request.emitted)
    seconds = now - row.first_token
    return Done(
        id=row.request.id,
        finish_reason="stop" if row.stream.is_stopped and reason == "length" else reason,
        text=row.stream.text,
        tail=tail,
        prompt_tokens=len(row.request.prompt_ids),
        completion_tokens=len(row.answer),
        first_step=row.first_step,
        last_step=row.last_step,
        first_token_ms=round((row.first_token - row.submitted) * 1000, 1) if row.first_token else 0.0,
        slot_ms=round((now - row.entered) * 1000, 1) if row.entered else 0.0,
        scores=row.scores,
        n_scored=tuple(len(choice) for choice in row.request.choices) if row.scores else (),
        tokens_per_s=round((n_here - 1) / seconds, 2) if row.first_token and n_here > 1 and seconds > 0 else 0.0,
    )
